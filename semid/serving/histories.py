"""What users did: events that are on disk once they are acknowledged, and the histories made of them.

Two stores keep one contract: a SQLite file (`sqlite_store`, the default) and Redis (`redis_store`). tests/serving/test_stores.py
asks both the same questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from semid.errors import SemidError

if TYPE_CHECKING:
    from semid.serving.feedback import Feedback, Impression


@dataclass(frozen=True)
class Event:
    """One thing that a user did with an item.

    key: the sender's own name of this event; one key is one event, however often it is sent.
    time: UTC seconds; trace: the trace id of the answer that showed the item, None if it wasn't shown by us.
    """

    key: str
    user: str
    item: str
    time: int
    action: str | None = None
    value: float | None = None
    trace: str | None = None


class KeyConflict(SemidError):
    """A key that names another event already."""

    def __init__(self, event: Event):
        super().__init__(f"key {event.key!r}: names another event already; nothing of this request was stored; send the same user "
                         "and item again to repeat an event, or give a new event a key of its own")


class StoreBusy(SemidError):
    """More writes wait for the disk than the server keeps in memory."""


class StoreError(SemidError):
    """The store cannot be opened, read or written."""


class Store(Protocol):
    """Histories and feedback. Called from one event loop."""

    async def open(self) -> None:
        """Make sure, before anything is stored, that what is acknowledged will be on disk. Raises `StoreError`."""
        ...

    async def append(self, events: Sequence[Event]) -> list[bool]:
        """Store all events or none; return once they are on disk. False: the key was known, nothing was added for it.

        Raises `KeyConflict` where a key names an event of another user or item, `StoreBusy`, `StoreError`.
        """
        ...

    async def history(self, user: str, limit: int) -> list[tuple[str, int]]:
        """Return the latest `limit` (item id, time), oldest first; equal times in the order of arrival. Unknown user: []."""
        ...

    async def show(self, impression: Impression) -> None:
        """Log what was shown. Returns before it is on disk: a crash may lose the last moments. Raises `StoreBusy`."""
        ...

    async def feedback(self, after: str = "", limit: int = 1000) -> list[Feedback]:
        """Return impressions in the order they were logged with the events that refer to them. after: a `Feedback.place`."""
        ...

    async def events(self, after: str = "", limit: int = 10_000) -> list[tuple[str, Event]]:
        """Return stored events in the order of arrival, each with its place. after: the place of the last one before them."""
        ...

    async def close(self) -> None:
        """Write what waits, then close."""
        ...


def check_keys(events: Sequence[Event]) -> None:
    """Raise `KeyConflict` if two events of one request share a key and differ in user or item."""
    first: dict[str, Event] = {}
    for event in events:
        known = first.setdefault(event.key, event)
        if (known.user, known.item) != (event.user, event.item):
            raise KeyConflict(event)


def shown(where: str) -> str:
    """Return the store's address without a password in it, to print."""
    before, at, host = where.rpartition("@")
    return f"{before.partition('://')[0]}://{host}" if at and "://" in before else where


def open_store(where: str, *, waiting: int = 10_000) -> Store:
    """Open the store: a redis:// or rediss:// address, or the path of a SQLite file. waiting: writes kept in memory at most."""
    if where.startswith(("redis://", "rediss://", "unix://")):
        from semid.serving.redis_store import RedisStore

        return RedisStore(where, waiting=waiting)
    from semid.serving.sqlite_store import SqliteStore

    return SqliteStore(where, waiting=waiting)


def stored_events(where: str) -> Iterator[Event]:
    """Yield all events of a store, in the order of arrival. Raises `StoreError`, also for a file that isn't there."""
    if "://" not in where and not Path(where).is_file():
        raise StoreError(f"{where}: want the store of a server (RUN.histories.sqlite, or what --store named), and there is no such file")
    loop, after = asyncio.new_event_loop(), ""
    store = open_store(where)
    try:
        while found := loop.run_until_complete(store.events(after)):
            after = found[-1][0]
            yield from (event for _, event in found)
    finally:
        loop.run_until_complete(store.close())
        loop.close()
