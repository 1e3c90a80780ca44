"""Questions that arrive together are answered together.

No timer: while one batch is computed the next one gathers. So a lone question never waits for company, and under load batches
grow by themselves up to `largest`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Question = TypeVar("Question")
Reply = TypeVar("Reply")


class Batcher(Generic[Question, Reply]):
    """Answers questions of one event loop in batches, in a thread of its own.

    answer: one reply for each question of a list, in order. largest: questions in a batch at most. observe: told the size of
    each batch. A batch that raises is asked again in halves, so that only the question that makes it fail fails.
    """

    def __init__(self, answer: Callable[[list[Question]], Sequence[Reply]], *, largest: int,
                 observe: Callable[[int], None] = lambda size: None):
        self._answer, self._largest, self._observe = answer, largest, observe
        self._waiting: deque[tuple[Question, asyncio.Future[Reply]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._running: asyncio.Task | None = None

    async def ask(self, question: Question) -> Reply:
        """Return the reply. A question whose asker gave up (was cancelled) before its batch began is never computed."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, reply))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await reply

    async def close(self) -> None:
        """Answer what waits, then stop."""
        if self._running is not None:
            await self._running
        self._thread.shutdown()

    async def _run(self) -> None:
        while batch := self._take():
            self._observe(len(batch))
            questions = [question for question, _ in batch]
            outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer_all, questions)
            for (_, reply), outcome in zip(batch, outcomes, strict=True):
                if reply.done():
                    continue
                if isinstance(outcome, Exception):
                    reply.set_exception(outcome)
                else:
                    reply.set_result(outcome)
        self._running = None

    def _take(self) -> list[tuple[Question, asyncio.Future[Reply]]]:
        batch = []
        while self._waiting and len(batch) < self._largest:
            question, reply = self._waiting.popleft()
            if not reply.done():
                batch.append((question, reply))
        return batch

    def _answer_all(self, questions: list[Question]) -> Sequence[Reply | Exception]:
        try:
            replies = self._answer(questions)
            assert len(replies) == len(questions)
            return replies
        except Exception as error:
            if len(questions) == 1:
                return [error]
            half = len(questions) // 2
            return [*self._answer_all(questions[:half]), *self._answer_all(questions[half:])]
