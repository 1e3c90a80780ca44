"""What the routes do, without HTTP: questions, events and changes, checked against the limits and passed on.

Histories come from two places: the run's own data and the events that were stored since. The next question reads what an
acknowledged event wrote.
"""

from __future__ import annotations

import asyncio
import logging
import math
import reprlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal, TypeVar

import pyarrow as pa

from semid.data.columns import listed
from semid.data.events import DAY
from semid.errors import ConfigError, DataError, SemidError, UnknownId, did_you_mean
from semid.serving import contract, messages
from semid.serving.batcher import Batcher
from semid.serving.feedback import TOP_K, Impression
from semid.serving.histories import Event, Store
from semid.serving.limits import Limits, Room
from semid.serving.logs import FIELDS
from semid.serving.metrics import Metrics

if TYPE_CHECKING:
    from semid.serving.engine import Engine

T = TypeVar("T")
By = Literal["content", "codes", "together"]
log = logging.getLogger("semid.serving")

ID = "item_id"
"""Column of ids where the catalogue keeps none among its own."""

SHOWN = 20
"""Unknown items that an answer lists."""


@dataclass(frozen=True)
class Past:
    """A history with a name or without. times: None where the order alone is known."""

    items: tuple[str, ...]
    times: tuple[int, ...] | None
    is_known: bool = True


class Service:
    """One engine, one store, one batcher. folder: the run's, for reloading. beside: another run's engine, which the page shows
    next to it."""

    def __init__(self, engine: Engine, store: Store, *, limits: Limits, metrics: Metrics, folder: Path, beside: Engine | None = None):
        self.engine, self.store, self.limits, self.metrics, self.beside = engine, store, limits, metrics, beside
        self.is_draining = False
        self.room = Room(limits.max_waiting)
        self._folder = folder
        self._batcher = Batcher(engine.recommend, largest=limits.max_batch, observe=metrics.batches.observe)
        self._asides = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="change")
        self._show_version()
        self._preparing = self._prepare()

    def wait_for_preparation(self, seconds: float) -> None:
        """Return when new items can come, after `seconds` at the latest: the rest of the preparation goes on beside the questions."""
        self._preparing.join(seconds)

    async def close(self) -> None:
        """Answer what was asked, write what waits, then close."""
        await self._batcher.close()
        for pool in (self._asides, self._changes):
            await asyncio.to_thread(pool.shutdown)
        await self.store.close()

    # Questions ------------------------------------------------------------------------------------------------------------

    async def recommend(self, ask: messages.Ask, trace: str) -> messages.Recommendations:
        """Answer, and log what was shown. Raises `SemidError`."""
        self.check(ask)
        past = await self.past(ask)
        request = contract.Request(
            history=past.items, times=past.times, unknown="refuse" if ask.user is None else "skip", k=ask.k, where=ask.where,
            exclude=tuple(ask.exclude), include_only=None if ask.include_only is None else tuple(ask.include_only), seen=ask.seen,
            user=ask.user, beams=ask.beams, rules=contract.Rules(**ask.rules.model_dump()))
        answer = await self.answer(request)
        items = [messages.Recommended(item_id=item, title=title, score=score)
                 for item, title, score in zip(answer.item_ids, answer.titles, answer.scores, strict=True)]
        notes = [answer.note] if answer.note else []
        catalogue = self.engine.snapshot.catalog.items
        if ask.explain and not any(item in catalogue for item in past.items):
            notes.append("without a history nothing is explained")
        elif ask.explain and items:
            for item, why in zip(items, await self._why(request, answer.item_ids), strict=True):
                item.why = why
        await self.store.show(Impression(trace, ask.user, int(time.time()), f"{answer.model}.{answer.version}", TOP_K, answer.item_ids,
                                         answer.scores, (1.0,) * len(items)))
        if not past.is_known:
            notes.append(f"user {str(ask.user)[:100]!r} has no events yet, so this is what somebody new is shown")
        return messages.Recommendations(
            trace_id=trace, user=ask.user, items=items, scale=answer.scale, left=answer.left, cost=dict(answer.cost),
            history_length=len(past.items), note="; ".join(notes), version=answer.version)

    async def answer(self, request: contract.Request) -> contract.Answer:
        """Answer one question that was checked, without a log. Raises `SemidError`."""
        if request.where is not None:  # a condition that is slow or wrong stays out of the batch, whose others would wait for it
            snapshot = self.engine.snapshot
            if snapshot.remembered(request.where, request.include_only) is None:
                await self.aside(lambda: snapshot.admitted(request.where, request.include_only))
        answer = await self._batcher.ask(request)
        if answer.error is not None:
            raise answer.error
        return answer

    async def explain(self, ask: messages.Ask, item: str) -> messages.Why:
        self.check(ask)
        self.check_items("item", [item])
        past = await self.past(ask)
        request = contract.Request(history=past.items, times=past.times, unknown="refuse" if ask.user is None else "skip",
                                   user=ask.user)
        [why] = await self._why(request, [item])
        return why

    async def _why(self, request: contract.Request, items: Sequence[str]) -> list[messages.Why]:
        return [messages.Why.model_validate(asdict(each)) for each in await self.aside(lambda: self.engine.explain_all(request, items))]

    async def similar(self, item: str, k: int, by: By) -> list[messages.Near]:
        self.limits.check_number("k", k, self.limits.max_k)
        self.check_items("item", [item])
        return near(await self.aside(lambda: self.engine.similar(item, k, by)))

    def check(self, ask: messages.Ask) -> None:
        """Raise `SemidError` for a question that asks for more than the limits, or for nobody."""
        limits = self.limits
        if (ask.user is None) == (ask.history is None):
            raise ConfigError("want either user or history, got " + ("neither" if ask.user is None else "both"))
        if ask.times is not None and len(ask.times) != len(ask.history or ()):
            raise ConfigError(f"times: want one for each item of history ({len(ask.history or ())}), got {len(ask.times)}")
        self.check_list(limits.max_explained if ask.explain else limits.max_k, ask.k, ask.beams, ask.where)
        limits.check_size("history", ask.history, limits.max_history)
        limits.check_size("exclude", ask.exclude, limits.max_ids)
        limits.check_size("include_only", ask.include_only, limits.max_ids)
        limits.check_size("rules.caps", ask.rules.caps, 20)

    def check_list(self, most: int, k: int, beams: int | None, where: str | None) -> None:
        """Raise `SemidError` for a list that asks for more than the limits. most: of its items."""
        self.limits.check_number("k", k, most)
        self.limits.check_number("beams", beams, self.limits.max_beams)
        self.limits.check_size("where", where, self.limits.max_where)

    def check_items(self, name: str, ids: Sequence[str]) -> None:
        """Raise `UnknownId`, without looking for the nearest id: among a million that takes longer than answering."""
        items = self.engine.snapshot.catalog.items
        if unknown := [id_ for id_ in ids if id_ not in items]:
            raise UnknownId(f"{name}: unknown item {unknown[0][:100]!r}{f' and {len(unknown) - 1:,} more' if unknown[1:] else ''}; the "
                            f"catalogue holds {len(items):,} items, such as {items.ids[0]!r}; new ones come with POST /items")

    async def past(self, ask: messages.Ask) -> Past:
        """Return the history a question means."""
        if ask.user is None:
            self.check_items("history", ask.history or ())
            return Past(tuple(ask.history or ()), None if ask.times is None else tuple(ask.times))
        return await self.past_of(ask.user)

    async def past_of(self, user: str) -> Past:
        """Return the history of a user of the training data or of events since; nothing for somebody new."""
        is_known = user in self.engine.snapshot.run.split.source.users
        trained = self.engine.history(user) if is_known else contract.History((), ())
        stored = await self.store.history(user, self.limits.max_history)
        return joined(trained, stored, self.limits.max_history, is_known or bool(stored))

    # Events ---------------------------------------------------------------------------------------------------------------

    async def append(self, events: Sequence[messages.Happened]) -> tuple[list[bool], list[str]]:
        """Store events; return which were new, and the items that the catalogue doesn't hold."""
        self.limits.check_size("events", events, self.limits.max_events)
        now = int(time.time())
        for place, each in enumerate(events):
            if each.time is not None and each.time > now + DAY:
                raise DataError(f"events.{place}.time: want UTC seconds, no more than a day from now ({now + DAY}), got {each.time}; "
                                "nothing of this request was stored")
        new = await self.store.append([
            Event(each.key, each.user, each.item_id, now if each.time is None else each.time, each.action, each.value, each.trace_id)
            for each in events])
        for outcome, count in (("stored", sum(new)), ("known", len(new) - sum(new))):
            self.metrics.events.labels(outcome).inc(count)
        items = self.engine.snapshot.catalog.items
        return new, list(dict.fromkeys(each.item_id for each in events if each.item_id not in items))

    # Changes --------------------------------------------------------------------------------------------------------------

    async def add(self, rows: list[dict]) -> contract.Change:
        table = self._table(rows)
        return await self._change("add", lambda: self.engine.add(table))

    async def update(self, rows: list[dict]) -> contract.Change:
        table = self._table(rows)
        if mixed := [row for row in rows if row.keys() != rows[0].keys()]:
            raise DataError(f"items: want the same columns in every item of a change, got {listed(rows[0])} and {listed(mixed[0])}; "
                            "send those of other columns in another request")
        return await self._change("update", lambda: self.engine.update(table))

    async def remove(self, ids: list[str]) -> contract.Change:
        self.limits.check_size("item_ids", ids, self.limits.max_items)
        return await self._change("remove", lambda: self.engine.remove(ids))

    async def restore(self, ids: list[str]) -> contract.Change:
        self.limits.check_size("item_ids", ids, self.limits.max_items)
        return await self._change("restore", lambda: self.engine.restore(ids))

    async def reload(self) -> None:
        """Read the run folder again, as it is now, and answer from it. What is under way ends with what it began with."""
        def read_again() -> None:
            self.engine.swap(self._folder)
            self._preparing = self._prepare()

        await self._change("reload", read_again)

    def _prepare(self) -> Thread:
        """Load what new items need, so that the first one doesn't wait for it. It takes minutes for large catalogues, so neither
        questions nor other changes wait for it, nor the end of the process."""
        def run() -> None:
            try:
                self.engine.prepare()
            except SemidError as error:  # whoever adds an item is told; nobody else needs any of it
                log.info("new items", extra={FIELDS: {"refused": str(error)}})

        thread = Thread(target=run, name="prepare", daemon=True)
        thread.start()
        return thread

    def _table(self, rows: list[dict]) -> pa.Table:
        self.limits.check_size("items", rows, self.limits.max_items)
        return table_of(rows, self.engine.snapshot.catalog.table.schema)

    async def _change(self, kind: str, change: Callable[[], T]) -> T:
        """One change at a time, beside the questions. It goes on when its asker gives up."""
        def run() -> T:
            started = time.perf_counter()
            outcome = "failed"
            try:
                result = change()
                outcome = "done"
                return result
            finally:
                self.metrics.changes.labels(kind, outcome).inc()
                log.info("change", extra={FIELDS: {"kind": kind, "outcome": outcome, "seconds": round(time.perf_counter() - started, 3),
                                                   "version": self.engine.snapshot.version}})
                self._show_version()

        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._changes, run))

    def _show_version(self) -> None:
        snapshot = self.engine.snapshot
        self.metrics.items.set(snapshot.num_alive)
        self.metrics.version.set(snapshot.version)

    async def aside(self, call: Callable[[], T]) -> T:
        """Return what a call returns that would keep other requests waiting, from a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._asides, call)


def joined(trained: contract.History, stored: Sequence[tuple[str, int]], limit: int, is_known: bool = True) -> Past:
    """Return the latest `limit` of both, in the order of time.

    An event that was stored here and is in the training data too (item and time equal) counts once, so that a model trained on
    the log of this server sees no history twice. Where the training data have no times, they come first.
    """
    if trained.times is None:
        items = (*trained.item_ids, *(item for item, _ in stored))
        return Past(items[-limit:], None, is_known)
    old = list(zip(trained.item_ids, trained.times, strict=True))
    known = set(old)
    both = sorted([*old, *(event for event in stored if event not in known)], key=lambda event: event[1])[-limit:]
    return Past(tuple(item for item, _ in both), tuple(time for _, time in both), is_known)


def table_of(rows: Sequence[dict], schema: pa.Schema) -> pa.Table:
    """Return items as a table with the columns they name, typed as the catalogue's. Raises `DataError`.

    Whole numbers become text where the column is text: ids are often numbers in a shop's database. Dates and times come as ISO text.
    """
    known = {field.name: field for field in schema} | ({} if ID in schema.names else {ID: pa.field(ID, pa.string())})
    names = list(dict.fromkeys(name for row in rows for name in row))
    if unknown := [name for name in names if name not in known]:
        raise DataError(f"items: unknown column {unknown[0][:100]!r}{did_you_mean(unknown[0][:100], known)}; "
                        f"the catalogue has: {listed(known)}")
    if not names:
        raise DataError(f"items: want an object such as {{\"{ID}\": \"new-1\", ...}} for each, got one without columns; "
                        f"the catalogue has: {listed(known)}")
    columns = {}
    for name in names:
        values, kind = [row.get(name) for row in rows], known[name].type
        if pa.types.is_string(kind):
            values = [str(value) if type(value) is int else value for value in values]
        try:
            if misfits := [value for value in values if not _fits(value, kind)]:
                raise ValueError(reprlib.repr(misfits[0]))
            if any(_is_fraction(value, kind) for value in values):
                kind = pa.float64()  # a column that was whole so far
            columns[name] = pa.array(values, _sent(kind)).cast(kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            iso = "" if _sent(kind) == kind else " as ISO text"
            raise DataError(f"items, column {name!r}: want {kind}{iso}, got {str(error).splitlines()[0][:200]}") from None
    return pa.table(columns)


def _fits(value: object, kind: pa.DataType) -> bool:
    """Refuse what Arrow would bend: text as a list of letters, fractions in lists of whole numbers, numbers as some moment near 1970, true
    as 1. And numbers without end."""
    if value is None:
        return True
    if _is_list(kind):
        return isinstance(value, list) and all(_fits(each, kind.value_type) and not _is_fraction(each, kind.value_type) for each in value)
    if _is_moment(kind):
        return isinstance(value, str)
    if isinstance(value, bool):
        return pa.types.is_boolean(kind)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, list)


def _is_fraction(value: object, kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) and isinstance(value, float) and not value.is_integer()


def _sent(kind: pa.DataType) -> pa.DataType:
    """The type a column has on the way here: JSON has no dates."""
    if _is_list(kind) and _is_moment(kind.value_type):
        return pa.list_(pa.string())
    return pa.string() if _is_moment(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_moment(kind: pa.DataType) -> bool:
    return pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def near(neighbours: Sequence[contract.Neighbour]) -> list[messages.Near]:
    return [messages.Near.model_validate(asdict(each)) for each in neighbours]
