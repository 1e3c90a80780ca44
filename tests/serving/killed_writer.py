"""A process that writes events and is killed: at its n-th SQL statement, or from outside.

Each event it tells on stdout is acknowledged. Run by test_kills.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from semid.serving.histories import Event
from semid.serving.sqlite_store import SqliteStore

WRITERS = 8


def main(path: str, begin: int, statements: int) -> None:
    """Write events begin, begin + 1, ... and kill this process at a SQL statement (0: never)."""
    asyncio.run(write(path, begin, statements))


async def write(path: str, begin: int, statements: int) -> None:
    store = SqliteStore(path)
    seen = 0

    def count(sql: str) -> None:
        nonlocal seen
        seen += 1
        if seen == statements:
            os.kill(os.getpid(), signal.SIGKILL)

    store._write._connection.set_trace_callback(count)

    async def writer(number: int) -> None:
        for n in range(begin + number, begin + 100_000, WRITERS):
            await store.append([Event(f"k{n}", f"u{n % 3}", f"i{n}", n)])
            os.write(1, f"{n}\n".encode())

    await asyncio.gather(*(writer(number) for number in range(WRITERS)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
