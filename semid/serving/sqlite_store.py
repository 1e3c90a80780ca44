"""Histories and feedback in one SQLite file: readers never wait for writers (WAL), writers share a commit.

A commit waits for the disk once, however many requests it carries: while one commit is under way the next ones gather, so the
number of requests per second isn't bounded by the disk's flushes. Several servers may share the file on one machine.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from semid.serving.feedback import Feedback, Impression
from semid.serving.histories import Event, KeyConflict, StoreBusy, StoreError, check_keys

T = TypeVar("T")
log = logging.getLogger(__name__)

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (place INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, user TEXT NOT NULL, item TEXT NOT NULL,
  time INTEGER NOT NULL, action TEXT, value REAL, trace TEXT) STRICT;
CREATE INDEX IF NOT EXISTS events_by_user ON events (user, time, place, item);
CREATE INDEX IF NOT EXISTS events_by_trace ON events (trace) WHERE trace IS NOT NULL;
CREATE TABLE IF NOT EXISTS impressions (place INTEGER PRIMARY KEY, trace TEXT NOT NULL UNIQUE, impression TEXT NOT NULL) STRICT;
"""

LARGEST_COMMIT = 512
"""Writes that share one commit at most, so that the first of them doesn't wait for long."""


class SqliteStore:
    """A `Store` in a file. Open it in the thread of the event loop that uses it."""

    def __init__(self, path: str | Path, *, waiting: int = 10_000):
        self._write = GroupCommit(path, waiting)
        self._read = connect(path)

    async def open(self) -> None:
        """The file was opened and its settings made when the store was."""

    async def append(self, events: Sequence[Event]) -> list[bool]:
        check_keys(events)
        return await asyncio.wrap_future(self._write.submit(lambda connection: [_insert(connection, event) for event in events]))

    async def history(self, user: str, limit: int) -> list[tuple[str, int]]:
        return self._ask("SELECT item, time FROM events WHERE user = ? ORDER BY time DESC, place DESC LIMIT ?", (user, limit))[::-1]

    async def show(self, impression: Impression) -> None:
        row = (impression.trace, impression.to_json())
        self._write.submit(lambda connection: connection.execute("INSERT INTO impressions (trace, impression) VALUES (?, ?)", row)
                           ).add_done_callback(_report)

    async def feedback(self, after: str = "", limit: int = 1000) -> list[Feedback]:
        shown = self._ask("SELECT place, trace, impression FROM impressions WHERE place > ? ORDER BY place LIMIT ?",
                          (int(after or 0), limit))
        query = "SELECT key, user, item, time, action, value, trace FROM events WHERE trace = ? ORDER BY place"
        return [Feedback(str(place), Impression.from_json(text), tuple(Event(*row) for row in self._ask(query, (trace,))))
                for place, trace, text in shown]

    async def events(self, after: str = "", limit: int = 10_000) -> list[tuple[str, Event]]:
        query = "SELECT place, key, user, item, time, action, value, trace FROM events WHERE place > ? ORDER BY place LIMIT ?"
        return [(str(place), Event(*row)) for place, *row in self._ask(query, (int(after or 0), limit))]

    async def close(self) -> None:
        await asyncio.to_thread(self._write.close)
        self._read.close()

    def _ask(self, query: str, values: tuple) -> list[tuple]:
        try:
            return self._read.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"the store cannot be read: {error}; see that its file is whole, then send this again") from None


def connect(path: str | Path) -> sqlite3.Connection:
    """Open the file with every commit flushed to disk. Raises `StoreError`."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(SCHEMA)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be opened as the store of histories: {error}; name a file in a folder that may be written "
                         "to, or one that semid serve made") from None
    return connection


def _report(done: Future) -> None:
    """Nobody waits for an impression: its failure goes into the log."""
    if error := done.exception():
        log.error("an impression was not logged: %s", error)


def _insert(connection: sqlite3.Connection, event: Event) -> bool:
    row = (event.key, event.user, event.item, event.time, event.action, event.value, event.trace)
    if connection.execute("INSERT INTO events (key, user, item, time, action, value, trace) VALUES (?, ?, ?, ?, ?, ?, ?) "
                          "ON CONFLICT (key) DO NOTHING", row).rowcount:
        return True
    if connection.execute("SELECT user, item FROM events WHERE key = ?", (event.key,)).fetchone() != (event.user, event.item):
        raise KeyConflict(event)
    return False


class GroupCommit:
    """A thread that applies writes in the order they came and resolves each once its commit is on disk.

    waiting: writes that may wait in memory; one more raises `StoreBusy`. Each write is a savepoint of its own: one that
    raises leaves no trace and doesn't touch the others.
    """

    def __init__(self, path: str | Path, waiting: int):
        self._connection = connect(path)
        self._queue: SimpleQueue[tuple[Callable[[sqlite3.Connection], object], Future] | None] = SimpleQueue()
        self._waiting = waiting
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, write: Callable[[sqlite3.Connection], T]) -> Future[T]:
        if self._queue.qsize() >= self._waiting:
            raise StoreBusy(f"the store: {self._waiting:,} writes wait for the disk; send this again in a second")
        future: Future[T] = Future()
        self._queue.put((write, future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        is_open = True
        while is_open:
            jobs = [self._queue.get()]
            while len(jobs) < LARGEST_COMMIT and not self._queue.empty():
                jobs.append(self._queue.get())
            is_open = None not in jobs
            self._commit([job for job in jobs if job is not None and job[1].set_running_or_notify_cancel()])

    def _commit(self, jobs: list[tuple[Callable[[sqlite3.Connection], object], Future]]) -> None:
        outcomes: list[tuple[Future, object, Exception | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for write, future in jobs:
                self._connection.execute("SAVEPOINT one")
                try:
                    outcomes.append((future, write(self._connection), None))
                except Exception as error:
                    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                        raise  # the disk, not this write
                    self._connection.execute("ROLLBACK TO one")
                    outcomes.append((future, None, error))
                self._connection.execute("RELEASE one")
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # a disk that fails here too: the next commit, which can't begin, comes here again
                    self._connection.execute("ROLLBACK")
            failure = StoreError(f"the store cannot be written: {error}; nothing of this request was stored; free some space or mend "
                                 "the disk, then send it again")
            outcomes = [(future, None, failure) for _, future in jobs]
        for future, result, error in outcomes:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
