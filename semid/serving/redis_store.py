"""Histories and feedback in Redis, for several servers on several machines. The same contract as `sqlite_store`.

Acknowledged means on disk here too, so the Redis server must run with `appendonly yes` and `appendfsync always` (it answers after
the flush, one for all clients that wait); anything less is refused by `open`. A script makes each append atomic.

Keys, all under `semid:`: key:KEY -> event; history:USER -> sorted set of "place:item" by time; trace:TRACE -> list of events;
events, impressions -> streams, in the order of arrival.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from semid.errors import MissingExtra
from semid.serving.feedback import Feedback, Impression
from semid.serving.histories import Event, KeyConflict, StoreBusy, StoreError, check_keys, shown

log = logging.getLogger(__name__)

APPEND = """
local function same(a, b) return a.user == b.user and a.item == b.item end
for number, text in ipairs(ARGV) do
  local event = cjson.decode(text)
  local known = redis.call('GET', 'semid:key:' .. event.key)
  if known and not same(cjson.decode(known), event) then return {-1, number} end
end
local new = {}
for number, text in ipairs(ARGV) do
  local event = cjson.decode(text)
  if redis.call('SET', 'semid:key:' .. event.key, text, 'NX') then
    local place = redis.call('INCR', 'semid:place')
    redis.call('ZADD', 'semid:history:' .. event.user, event.time, string.format('%016d:', place) .. event.item)
    redis.call('XADD', 'semid:events', '*', 'event', text)
    if event.trace ~= cjson.null then redis.call('RPUSH', 'semid:trace:' .. event.trace, text) end
    new[number] = 1
  else
    new[number] = 0
  end
end
return new
"""
"""Events as JSON to 1 (stored) or 0 (known) for each, or {-1, number of the event whose key names another}."""

CONNECTIONS = 32
"""Commands that are under way at once; the others wait for their turn."""


class RedisStore:
    """A `Store` at a redis:// address. waiting: impressions that may wait for Redis in memory."""

    def __init__(self, url: str, *, waiting: int = 10_000):
        try:
            from redis import asyncio as redis
        except ImportError:
            raise MissingExtra("a Redis store needs the package redis; install it: pip install \"semid[redis]\"") from None
        try:
            pool = redis.BlockingConnectionPool.from_url(url, decode_responses=True, socket_timeout=10, socket_connect_timeout=5,
                                                         max_connections=CONNECTIONS, timeout=10)
        except ValueError as error:
            raise StoreError(f"{shown(url)}: {error}; want redis://HOST:PORT/DATABASE") from None
        self._redis = redis.Redis.from_pool(pool)
        self._script = self._redis.register_script(APPEND)
        self._waiting = waiting
        self._writes: set[asyncio.Task] = set()

    async def open(self) -> None:
        settings = await self._ask(self._redis.config_get("appendonly", "appendfsync"))
        if settings != {"appendonly": "yes", "appendfsync": "always"}:
            raise StoreError("Redis: want appendonly yes and appendfsync always, so that an acknowledged event is on disk, "
                             f"got {settings}; set both in redis.conf, or keep histories in a file (--store FILE)")

    async def append(self, events: Sequence[Event]) -> list[bool]:
        check_keys(events)
        if not events:
            return []
        new = await self._ask(self._script(args=[json.dumps(asdict(event), ensure_ascii=False) for event in events]))
        if new[0] == -1:
            raise KeyConflict(events[new[1] - 1])
        return [bool(each) for each in new]

    async def history(self, user: str, limit: int) -> list[tuple[str, int]]:
        rows = await self._ask(self._redis.zrevrange(f"semid:history:{user}", 0, limit - 1, withscores=True)) if limit else []
        return [(member.partition(":")[2], int(time)) for member, time in rows[::-1]]

    async def show(self, impression: Impression) -> None:
        if len(self._writes) >= self._waiting:
            raise StoreBusy(f"the store: {self._waiting:,} writes wait for Redis; send this again in a second")
        task = asyncio.create_task(self._ask(self._redis.xadd("semid:impressions", {"impression": impression.to_json()})))
        self._writes.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task) -> None:
        self._writes.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("an impression was not logged: %s", error)

    async def feedback(self, after: str = "", limit: int = 1000) -> list[Feedback]:
        shown = await self._ask(self._redis.xrange("semid:impressions", f"({after}" if after else "-", "+", count=limit))
        found = []
        for place, fields in shown:
            impression = Impression.from_json(fields["impression"])
            texts = await self._ask(self._redis.lrange(f"semid:trace:{impression.trace}", 0, -1))
            found.append(Feedback(place, impression, tuple(Event(**json.loads(text)) for text in texts)))
        return found

    async def events(self, after: str = "", limit: int = 10_000) -> list[tuple[str, Event]]:
        stored = await self._ask(self._redis.xrange("semid:events", f"({after}" if after else "-", "+", count=limit))
        return [(place, Event(**json.loads(fields["event"]))) for place, fields in stored]

    async def close(self) -> None:
        if self._writes:
            await asyncio.wait(self._writes)
        await self._redis.aclose()

    async def _ask(self, command: Any) -> Any:
        from redis.exceptions import RedisError

        try:
            return await command
        except RedisError as error:
            raise StoreError(f"Redis: {error}; nothing is lost that was acknowledged; see that the server runs, "
                             "then send this again") from None
