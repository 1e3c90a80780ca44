"""One contract, asked of both stores."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from semid.serving.feedback import Impression
from semid.serving.histories import Event, KeyConflict, Store, StoreBusy, StoreError, open_store, shown
from semid.serving.sqlite_store import GroupCommit, SqliteStore, connect
from tests.serving.processes import free_port, wait_for

EVENT = Event("order-1", "ann", "i1", 1_700_000_000, "buy", 9.5, "t1")
IMPRESSION = Impression("t1", "ann", 1_700_000_000, "m", "top_k", ("i2", "i1"), (-0.5, -1.25), (1.0, 1.0))

@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server that flushes every write, on a free port of this machine."""
    pytest.importorskip("redis", reason="the package redis is not installed")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    folder: Path = tmp_path_factory.mktemp("redis")
    port = free_port()
    server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes",
                               "--appendfsync", "always", "--save", ""], stdout=subprocess.DEVNULL)
    try:
        wait_for(port, 20, server)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(20)


Ask = Callable[[Callable[[Store], Awaitable]], object]


@pytest.fixture(params=["sqlite", "redis"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ask]:
    """Run a coroutine with a store opened for it; what an earlier one stored is still there."""
    if request.param == "sqlite":
        where = str(tmp_path / "histories.sqlite")
    else:
        import redis

        where = request.getfixturevalue("redis_url")
        with redis.Redis.from_url(where) as server:
            server.flushall()

    def run(use: Callable[[Store], Awaitable]) -> object:
        async def opened() -> object:
            store = open_store(where)
            try:
                await store.open()
                return await use(store)
            finally:
                await store.close()

        return asyncio.run(opened())

    return run


def test_what_was_appended_is_there_after_closing(ask: Ask):
    assert ask(lambda store: store.append([EVENT, replace(EVENT, key="order-2", item="i2")])) == [True, True]
    assert ask(lambda store: store.history("ann", 10)) == [("i1", EVENT.time), ("i2", EVENT.time)]


def test_a_key_counts_once_however_often_it_is_sent(ask: Ask):
    again = replace(EVENT, time=EVENT.time + 5)  # the server's clock went on between two tries
    assert ask(lambda store: store.append([EVENT])) == [True]
    assert ask(lambda store: store.append([again, replace(EVENT, key="order-2")])) == [False, True]
    assert ask(lambda store: store.append([replace(EVENT, key="order-3"), replace(EVENT, key="order-3")])) == [True, False]
    assert len(ask(lambda store: store.history("ann", 10))) == 3


def test_a_key_of_another_event_is_refused_and_nothing_of_the_request_is_stored(ask: Ask):
    ask(lambda store: store.append([EVENT]))
    for wrong in (replace(EVENT, item="i9"), replace(EVENT, user="bob")):
        with pytest.raises(KeyConflict, match="order-1"):
            ask(lambda store, wrong=wrong: store.append([replace(EVENT, key="order-2"), wrong]))
    with pytest.raises(KeyConflict, match="order-5"):
        ask(lambda store: store.append([replace(EVENT, key="order-5"), replace(EVENT, key="order-5", item="i9")]))
    assert ask(lambda store: store.history("ann", 10)) == [("i1", EVENT.time)]


def test_histories_are_the_latest_events_in_the_order_of_time(ask: Ask):
    times = [5, 3, 9, 3, 7]
    ask(lambda store: store.append([Event(f"k{n}", "ann", f"i{n}", time) for n, time in enumerate(times)]))
    assert ask(lambda store: store.history("ann", 10)) == [("i1", 3), ("i3", 3), ("i0", 5), ("i4", 7), ("i2", 9)]
    assert ask(lambda store: store.history("ann", 2)) == [("i4", 7), ("i2", 9)]
    assert ask(lambda store: store.history("nobody", 10)) == []


def test_any_text_is_an_id(ask: Ask):
    odd = ["", "a:b", "'; DROP TABLE events; --", "naïve 日本 🙂", "a\nb", "*", "\x00"]
    ask(lambda store: store.append([Event(f"key {text}", text, text, 1) for text in odd]))
    for text in odd:
        assert ask(lambda store, text=text: store.history(text, 10)) == [(text, 1)]


def test_feedback_joins_what_was_shown_with_what_came_of_it(ask: Ask):
    async def use(store: Store) -> None:
        await store.show(IMPRESSION)
        await store.append([EVENT, replace(EVENT, key="order-2", item="i2", value=None), replace(EVENT, key="order-3", trace=None)])
        await store.show(replace(IMPRESSION, trace="t2", user=None))

    ask(use)
    first, second = ask(lambda store: store.feedback())
    assert (first.impression, second.impression) == (IMPRESSION, replace(IMPRESSION, trace="t2", user=None))
    assert first.events == (EVENT, replace(EVENT, key="order-2", item="i2", value=None))
    assert second.events == ()
    assert ask(lambda store: store.feedback(after=first.place)) == [second]
    assert ask(lambda store: store.feedback(limit=1)) == [first]


def test_many_writers_at_once_lose_nothing(ask: Ask):
    async def use(store: Store) -> list[list[bool]]:
        return await asyncio.gather(*(store.append([Event(f"k{n % 300}", "ann", f"i{n % 300}", n % 300)]) for n in range(600)))

    stored = ask(use)
    assert sum(each for [each] in stored) == 300
    assert ask(lambda store: store.history("ann", 1000)) == [(f"i{n}", n) for n in range(300)]


def test_a_password_is_not_printed():
    assert shown("redis://user:secret@host:6379/0") == "redis://host:6379/0"
    assert shown("/data/a@b.sqlite") == "/data/a@b.sqlite"


# SQLite alone -------------------------------------------------------------------------------------------------------------


def test_every_commit_is_flushed(tmp_path: Path):
    connection = connect(tmp_path / "h.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: the write-ahead log is flushed at each commit
    connection.close()


def test_writes_share_commits_and_a_failing_write_harms_no_other(tmp_path: Path):
    commits = itertools.count()
    group = GroupCommit(tmp_path / "h.sqlite", waiting=1000)
    group._connection.set_trace_callback(lambda sql: next(commits) if sql == "COMMIT" else None)
    hold = group.submit(lambda connection: connection.create_function("pause", 0, lambda: 0))  # begins the first commit
    insert = "INSERT INTO events (key, user, item, time) VALUES (?, 'u', 'i', 0)"
    good = [group.submit(lambda connection, n=n: connection.execute(insert, (f"k{n}",)).rowcount) for n in range(200)]
    bad = group.submit(lambda connection: connection.execute(insert, (None,)))
    big = group.submit(lambda connection: connection.execute(insert.replace("0)", "?)"), ("big", 2**70)))
    late = group.submit(lambda connection: connection.execute("SELECT count(*) FROM events").fetchone()[0])
    hold.result(10)
    assert [future.result(10) for future in good] == [1] * 200
    assert late.result(10) == 200
    with pytest.raises(sqlite3.IntegrityError):
        bad.result(10)
    with pytest.raises(OverflowError):
        big.result(10)
    group.close()
    assert next(commits) < 50  # 204 writes


def test_a_full_queue_is_refused(tmp_path: Path):
    import threading

    gate = threading.Event()
    group = GroupCommit(tmp_path / "h.sqlite", waiting=2)
    group.submit(lambda connection: gate.wait(10))
    while group._queue.qsize():
        pass
    waiting = [group.submit(lambda connection: 1) for _ in range(2)]
    with pytest.raises(StoreBusy, match="2 writes wait"):
        group.submit(lambda connection: 1)
    gate.set()
    assert [future.result(10) for future in waiting] == [1, 1]
    group.close()


def test_a_failed_commit_says_so_to_every_writer_and_the_store_goes_on(tmp_path: Path):
    async def use() -> None:
        store = SqliteStore(tmp_path / "h.sqlite")
        store._write._connection.execute("PRAGMA max_page_count = 20")
        async def fill() -> None:
            for n in range(100):
                await store.append([replace(EVENT, key=f"k{n}", item="i" * 4000)])

        with pytest.raises(StoreError, match="full"):
            await fill()
        kept = len(await store.history("ann", 1000))
        store._write._connection.execute("PRAGMA max_page_count = 100000")
        assert await store.append([replace(EVENT, key="later")]) == [True]
        assert len(await store.history("ann", 1000)) == kept + 1
        assert kept > 0
        await store.close()

    asyncio.run(use())


def test_a_file_that_cannot_be_read_is_one_message(tmp_path: Path):
    async def use() -> None:
        store = SqliteStore(tmp_path / "h.sqlite")
        store._write._connection.execute("DROP TABLE events")
        with pytest.raises(StoreError, match="the store cannot be read: no such table"):
            await store.history("ann", 10)
        await store.close()

    asyncio.run(use())


def test_a_folder_that_is_not_there_is_one_message(tmp_path: Path):
    with pytest.raises(StoreError, match="name a file in a folder"):
        open_store(str(tmp_path / "missing" / "h.sqlite"))


# Redis alone --------------------------------------------------------------------------------------------------------------


def test_redis_that_may_lose_events_is_refused(redis_url: str):
    import redis

    async def use() -> None:
        store = open_store(redis_url)
        with redis.Redis.from_url(redis_url) as server:
            server.config_set("appendfsync", "everysec")
            try:
                with pytest.raises(StoreError, match="appendfsync always"):
                    await store.open()
            finally:
                server.config_set("appendfsync", "always")
        await store.close()

    asyncio.run(use())


def test_a_redis_that_is_not_there_is_one_message():
    async def use() -> None:
        store = open_store("redis://127.0.0.1:1/0")
        with pytest.raises(StoreError, match="see that the server runs"):
            await store.open()
        await store.close()

    asyncio.run(use())


def test_a_disk_that_fails_a_commit_and_its_undoing_stops_no_later_write(tmp_path: Path):
    class Failing:
        is_broken = True

        def __init__(self, connection: sqlite3.Connection):
            self.connection = connection

        def execute(self, sql: str, *rest):
            if self.is_broken and sql in ("COMMIT", "ROLLBACK"):
                raise sqlite3.OperationalError("disk I/O error")
            return self.connection.execute(sql, *rest)

        def __getattr__(self, name: str):
            return getattr(self.connection, name)

    group = GroupCommit(tmp_path / "h.sqlite", waiting=10)
    group._connection = failing = Failing(group._connection)  # pyright: ignore[reportAttributeAccessIssue]
    insert = "INSERT INTO events (key, user, item, time) VALUES (?, 'u', 'i', 0)"
    for _ in range(2):
        with pytest.raises(StoreError, match="disk I/O error|within a transaction"):
            group.submit(lambda connection: connection.execute(insert, ("lost",))).result(10)
    failing.is_broken = False
    with pytest.raises(StoreError, match="within a transaction"):  # the one that undoes what was left
        group.submit(lambda connection: connection.execute(insert, ("lost",))).result(10)
    assert group.submit(lambda connection: connection.execute(insert, ("kept",)).rowcount).result(10) == 1
    assert group.submit(lambda connection: connection.execute("SELECT key FROM events").fetchall()).result(10) == [("kept",)]
    group.close()
