"""A cache of what was used last, bounded by bytes, for many threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values by key; those not asked for longest leave when all together would pass `limit` bytes.

    >>> cache = Recent[str](limit=10)
    >>> cache.put("a", "first", 6); cache.put("b", "second", 6)
    >>> cache.get("a"), cache.get("b")
    (None, 'second')
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._held: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            found = self._held.get(key)
            if found is None:
                return None
            self._held.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value of `size` bytes; one larger than the limit is not kept."""
        if size > self.limit:
            return
        with self._lock:
            self._bytes += size - self._held.pop(key, (None, 0))[1]
            self._held[key] = value, size
            while self._bytes > self.limit:
                self._bytes -= self._held.popitem(last=False)[1][1]
