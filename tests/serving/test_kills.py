"""`kill -9` while events are written: none that was acknowledged is lost, none is there twice."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from semid.serving.histories import Event
from semid.serving.sqlite_store import SqliteStore, connect

WRITER = Path(__file__).with_name("killed_writer.py")


def killed(store: Path, begin: int, statements: int, seconds: float) -> list[int]:
    """Run the writer until it dies by its own hand at a statement, or by ours after some seconds; return what it acknowledged."""
    writer = subprocess.Popen([sys.executable, str(WRITER), str(store), str(begin), str(statements)], stdout=subprocess.PIPE)
    if not statements:
        time.sleep(seconds)
        writer.kill()
    out, _ = writer.communicate(timeout=60)
    assert writer.returncode == -9
    lines = out.decode().split("\n")[:-1]  # a last line without its end was not told in full
    return [int(line) for line in lines]


def check(store: Path, told: list[int]) -> None:
    connection = connect(store)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    kept = [int(item[1:]) for [item] in connection.execute("SELECT item FROM events")]
    connection.close()
    assert len(kept) == len(set(kept)), "an event is there twice"
    assert set(told) <= set(kept), f"acknowledged and lost: {sorted(set(told) - set(kept))[:10]}"


def send_again(store: Path, numbers: list[int]) -> list[bool]:
    """What a sender does that doesn't know whether its events arrived."""
    async def use() -> list[bool]:
        opened = SqliteStore(store)
        try:
            return await opened.append([Event(f"k{n}", f"u{n % 3}", f"i{n}", n) for n in numbers])
        finally:
            await opened.close()

    return asyncio.run(use())


@pytest.mark.parametrize("statements", [6, 9, 14])
def test_a_kill_between_two_statements_loses_nothing_acknowledged(tmp_path: Path, statements: int):
    told = killed(tmp_path / "h.sqlite", 0, statements, 0)
    check(tmp_path / "h.sqlite", told)
    again = send_again(tmp_path / "h.sqlite", list(range(50)))
    assert not any(again[n] for n in told)
    check(tmp_path / "h.sqlite", list(range(50)))


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_acknowledged(tmp_path: Path):
    """One file through all of it: 70 kills at a statement (before, inside and at the commit), 30 at any moment."""
    store, rng, told = tmp_path / "h.sqlite", random.Random(0), []
    for kill in range(100):
        at_statement = kill % 10 < 7
        told += killed(store, 100_000 * kill, rng.randint(5, 400) if at_statement else 0, rng.uniform(0.15, 0.6))
        check(store, told)
    assert len(told) > 1000
    assert not any(send_again(store, told[-500:]))
    check(store, told)
