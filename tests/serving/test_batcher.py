from __future__ import annotations

import asyncio
import threading

import pytest

from semid.serving.batcher import Batcher


def double(questions: list[int]) -> list[int]:
    if 13 in questions:
        raise ValueError("thirteen")
    return [2 * question for question in questions]


def test_questions_that_wait_are_answered_together_and_each_gets_its_own_reply():
    gate, sizes = threading.Event(), []

    def answer(questions: list[int]) -> list[int]:
        sizes.append(len(questions))
        gate.wait(10)
        return [2 * question for question in questions]

    async def use() -> list[int]:
        batcher = Batcher(answer, largest=8)
        first = asyncio.create_task(batcher.ask(0))
        while not sizes:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.ask(n)) for n in range(1, 21)]
        await asyncio.sleep(0)
        gate.set()
        replies = [await task for task in (first, *others)]
        await batcher.close()
        return replies

    assert asyncio.run(use()) == [2 * n for n in range(21)]
    assert sizes == [1, 8, 8, 4]


@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_question_that_breaks_its_batch_fails_alone(place: int):
    async def use() -> list:
        batcher = Batcher(double, largest=10)
        questions = [13 if n == place else n for n in range(10)]
        return await asyncio.gather(*map(batcher.ask, questions), return_exceptions=True)

    replies = asyncio.run(use())
    assert [reply for n, reply in enumerate(replies) if n != place] == [2 * n for n in range(10) if n != place]
    assert isinstance(replies[place], ValueError)


def test_a_question_given_up_is_not_computed():
    gate, asked = threading.Event(), []

    def answer(questions: list[int]) -> list[int]:
        asked.extend(questions)
        gate.wait(10)
        return questions

    async def use() -> None:
        batcher = Batcher(answer, largest=1)
        tasks = [asyncio.create_task(batcher.ask(n)) for n in range(3)]
        while not asked:
            await asyncio.sleep(0.001)
        tasks[0].cancel()  # under way: computed for nobody
        tasks[1].cancel()  # waiting: never computed
        await asyncio.sleep(0)
        gate.set()
        assert await tasks[2] == 2
        await batcher.close()

    asyncio.run(use())
    assert asked == [0, 2]


def test_closing_answers_what_waits():
    async def use() -> list[int]:
        batcher = Batcher(double, largest=2)
        tasks = [asyncio.create_task(batcher.ask(n)) for n in range(7)]
        await asyncio.sleep(0)
        await batcher.close()
        return [task.result() for task in tasks]

    assert asyncio.run(use()) == [0, 2, 4, 6, 8, 10, 12]


def test_it_goes_on_after_a_pause():
    async def use() -> list[int]:
        batcher = Batcher(double, largest=2)
        return [await batcher.ask(1), await batcher.ask(2)]

    assert asyncio.run(use()) == [2, 4]
