"""What a client may ask for at most. Checked before anything is allocated for it; each refusal says the limit."""

from __future__ import annotations

import math
import reprlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sized
from dataclasses import dataclass, fields

from semid.errors import ConfigError, SemidError


class OverLimit(SemidError):
    """A request that asks for more than the server gives. Answered 422."""


@dataclass(frozen=True)
class Limits:
    """Limits of `semid serve`, all of them flags."""

    max_body: int = 1_048_576
    """bytes of a request's body (413)"""
    max_k: int = 500
    """length of a list (422)"""
    max_history: int = 1_000
    """items of a history in a request (422); of a stored one the latest so many are read"""
    max_beams: int = 500
    """width of a search (422)"""
    max_ids: int = 10_000
    """ids in exclude or include_only (422)"""
    max_where: int = 2_000
    """characters of a condition (422)"""
    max_explained: int = 10
    """items explained in one answer (422)"""
    max_events: int = 1_000
    """events in one request (422)"""
    max_items: int = 1_000
    """items added, changed or removed by one request (422)"""
    max_batch: int = 16
    """questions that are decoded together"""
    max_waiting: int = 16
    """requests under way; one more is answered 429"""
    max_rate: float = 1_000
    """requests a second of one address, on average over two (429); 0: any"""
    max_seconds: float = 5.0
    """of an answer (504)"""
    max_change_seconds: float = 120.0
    """of a change of the catalogue or the model (504; the change goes on)"""
    max_read_seconds: float = 10.0
    """for a request to arrive (408)"""
    max_connections: int = 1_000
    """open at once; one more is closed"""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 or (value == 0 and field.name == "max_rate")):  # NaN too
                raise ConfigError(f"--{field.name.replace('_', '-')}: want more than 0, got {value}")

    def check_size(self, name: str, value: Sized | None, most: int) -> None:
        """Raise `OverLimit` for a list, text or mapping that is too long."""
        if value is not None and len(value) > most:
            raise OverLimit(f"{name}: want at most {most:,} {'characters' if isinstance(value, str) else 'entries'}, got {len(value):,}")

    def check_number(self, name: str, value: int | None, most: int) -> None:
        """Raise `OverLimit` for a number outside [1, most]."""
        if value is not None and not 1 <= value <= most:
            raise OverLimit(f"{name}: want 1 to {most:,}, got {reprlib.repr(value)}")


class Room:
    """How many requests are under way, of one event loop.

    most: when nothing was refused lately, so that a burst is let in; for `CALM` seconds after a refusal three eighths of it, so that
    those let in during a flood wait less: their p99 is then twice that of a busy day, not four times (benchmarks/serve_overload.py).
    """

    CALM = 1.0

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic):
        self.most, self.taken, self._clock, self._calm = most, 0, clock, -math.inf

    def refuses(self) -> bool:
        """Whether there is no room for one more, who is then sent away."""
        now = self._clock()
        if self.taken < (self.most if now >= self._calm else -(-3 * self.most // 8)):
            return False
        self._calm = now + self.CALM
        return True


REMEMBERED = 10_000
"""Addresses whose rate is known; the one unheard for the longest is forgotten first."""


class Rate:
    """Tokens by address: each request takes one, `per_second` come back, at most two seconds' worth (and one) are kept."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic):
        self._per_second, self._clock = per_second, clock
        self._tokens: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Take a token if there is one."""
        if not self._per_second:
            return True
        now, most = self._clock(), max(1.0, 2 * self._per_second)
        tokens, then = self._tokens.pop(address, (most, now))
        tokens = min(most, tokens + (now - then) * self._per_second)
        allowed = tokens >= 1
        self._tokens[address] = (tokens - allowed, now)
        if len(self._tokens) > REMEMBERED:
            self._tokens.popitem(last=False)
        return allowed
