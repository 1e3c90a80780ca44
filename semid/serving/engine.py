"""The engine: one run, open for questions from any thread.

Every question reads one immutable snapshot (catalogue, recommender, version); a change builds the next snapshot beside it, puts
it on disk, and then in place by one assignment, so no answer ever mixes two.

Axes: B rows of a batch, H items hidden from a row, N items.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from semid.data.batch import history_batch
from semid.data.items import is_string
from semid.errors import ConfigError, DataError, RunError, SemidError
from semid.recommenders import CodeRecommender, Fusion, ItemRecommender
from semid.run import Run, load
from semid.serving import incoming, list_rules
from semid.serving.contract import (
    MAX_BEAMS,
    MAX_HISTORY,
    MAX_K,
    Answer,
    Change,
    Column,
    Explanation,
    History,
    Neighbour,
    Request,
    Rules,
    moments,
)
from semid.serving.explain import explain
from semid.serving.journal import Journal, Kind, merged
from semid.serving.quantized import quantized
from semid.serving.snapshot import Admitted, Snapshot
from semid.serving.states import UserStates, keeps_states
from semid.types import Batch

log = logging.getLogger(__name__)

POOL = 100
"""Candidates that list rules choose from, at least; four times k where that is more."""

LATEST = 2**53
"""Times beyond are no UTC seconds."""

Precision = Literal["float", "int8"]


@dataclass(frozen=True)
class Asked:
    """A request that can be answered. rows: int64, the history as item rows; hidden: int64, item rows never shown;
    left: admitted items that are not hidden; depth: how many to decode; notes: said with the answer."""

    request: Request
    rows: np.ndarray
    hidden: np.ndarray
    admitted: Admitted
    left: int
    depth: int
    notes: tuple[str, ...]


class Engine:
    """Answers for one run folder. Open it with `Engine.open`.

    engine: "int8" computes the generator's linear layers in 8 bits; `agreement` says how often the lists stay the same.
    state_bytes: for user states that are kept between requests.
    """

    def __init__(self, run: Run, *, engine: Precision = "float", state_bytes: int = 256 << 20):
        if engine not in ("float", "int8"):
            raise ConfigError(f"engine: want float or int8, got {engine!r}")
        if run.folder is None:
            raise RunError("engine: want a run in a folder, got one in memory; train with out=FOLDER")
        self.engine: Precision = engine
        self.state_bytes = state_bytes
        self._changing = Lock()
        self._serving = self._opened(run, 1)

    @classmethod
    def open(cls, run_folder: str | Path, *, engine: Precision = "float", state_bytes: int = 256 << 20) -> Engine:
        """Open a run folder with the changes made to it since training. Raises `RunError`."""
        return cls(load(run_folder), engine=engine, state_bytes=state_bytes)

    # Questions -----------------------------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """What questions are answered from at this moment."""
        return self._serving.snapshot

    def recommend(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer a batch, in order, all from one snapshot. A request that can't be answered has `error` set; the rest don't notice."""
        serving = self._serving
        answers: list[Answer | None] = [None] * len(requests)
        groups: dict[tuple, list[tuple[int, Asked]]] = {}
        for place, request in enumerate(requests):
            try:
                asked = self._understand(serving.snapshot, request)
            except SemidError as error:
                answers[place] = Answer(error=error, version=serving.snapshot.version)
                continue
            if not len(asked.rows) or not asked.left:
                answers[place] = serving.finish(asked, *serving.popular(asked), "training events")
            else:
                group = id(asked.admitted), asked.depth, request.beams, request.times is None
                groups.setdefault(group, []).append((place, asked))
        for group in groups.values():
            for (place, _), answer in zip(group, serving.answer([asked for _, asked in group]), strict=True):
                answers[place] = answer
        return [answer for answer in answers if answer is not None]

    def check_where(self, where: str | None) -> None:
        """Raise `DataError` where no item that is shown satisfies a condition: a person may have misspelt a value. `recommend` answers
        with an empty list and a note, for programs."""
        if where is not None and not self.snapshot.admitted(where, None).count:
            raise DataError(f"--where {where!r}: no item of {self.snapshot.num_alive:,} matches; "
                            "check the values, which are compared exactly")

    def similar(self, item_id: str, k: int = 10, by: Literal["content", "codes", "together"] = "content") -> list[Neighbour]:
        """Return up to k items near one: by the cosine of content vectors, the share of leading codes, or common users."""
        snapshot = self.snapshot
        check_k(k)
        row = snapshot.catalog.items.row(item_id, "item")
        return snapshot.near(row, k, by)

    def explain(self, request: Request, item_id: str) -> Explanation:
        """Say why an item follows the history of `request` (its k and filters are not read)."""
        return self.explain_all(request, [item_id])[0]

    def explain_all(self, request: Request, item_ids: Sequence[str]) -> list[Explanation]:
        """`explain` for each of several items of one list."""
        serving = self._serving
        asked = self._understand(serving.snapshot, replace(request, k=1, where=None, include_only=None, exclude=(), rules=Rules()))
        rows = [serving.snapshot.catalog.items.row(item_id, "item") for item_id in item_ids]
        return explain(serving.snapshot, serving.recommender, asked.rows, asked.request, rows, hidden=asked.hidden)

    def history(self, user: str) -> History:
        """Return what a user of the run's own data took. Raises `UnknownId`."""
        run = self.snapshot.run
        events = run.split.source
        row = events.users.row(user, "user")
        span = slice(int(events.offsets[row]), int(events.offsets[row + 1]))
        times = tuple(events.time[span].tolist()) if events.time_unit == "seconds" else None
        return History(tuple(events.items.ids[events.item[span]].tolist()), times)

    def item(self, item_id: str) -> dict[str, Any]:
        """Return {"item_id", "title", "removed", "attributes": {column: value}}. Raises `UnknownId`."""
        snapshot = self.snapshot
        row = snapshot.catalog.items.row(item_id, "item")
        return {"item_id": item_id, "title": snapshot.catalog.titles[row], "removed": not bool(snapshot.alive[row]),
                "attributes": snapshot.catalog.table.slice(row, 1).to_pylist()[0]}

    def search(self, text: str, k: int = 10) -> list[Neighbour]:
        """Return up to k living items whose titles hold every word of `text`, the best known first. score: share of the title."""
        snapshot = self.snapshot
        check_k(k)
        words = text.split()
        if not words:
            return []
        titles = pa.array(snapshot.catalog.titles)
        found = pa.array(snapshot.alive)
        for word in words:
            has_word = pc.call_function("match_substring", [titles], pc.MatchSubstringOptions(word, ignore_case=True))
            found = pc.call_function("and", [found, has_word])
        rows = np.flatnonzero(found.to_numpy(zero_copy_only=False))
        rows = rows[np.argsort(-snapshot.popularity[rows], kind="stable")][:k]
        return snapshot.neighbours(rows, [min(1.0, len("".join(words)) / max(1, len(snapshot.catalog.titles[row]))) for row in rows])

    def columns(self) -> list[Column]:
        """Return what `where` may ask of the living items."""
        snapshot = self.snapshot
        table = snapshot.catalog.table.filter(pa.array(snapshot.alive))
        return [_describe(name, table[name]) for name in table.column_names]

    def agreement(self, users: int = 200, k: int = 10) -> float:
        """Return the mean share of the float engine's top k that this engine lists too, for the last histories of up to `users` users."""
        serving = self._serving
        run = serving.snapshot.run
        rows = np.linspace(0, len(run.split.source.users) - 1, min(users, len(run.split.source.users))).astype(np.int64)
        histories = [run.split.source.item[run.split.source.offsets[r] : run.split.source.offsets[r + 1]] for r in np.unique(rows)]
        batch = history_batch([h for h in histories if len(h)], max_history=run.split.protocol.max_history)
        ours, theirs = (recommender.recommend(batch, k=k).item for recommender in (serving.recommender, serving.snapshot.recommender))
        shared = [len(np.intersect1d(a[a >= 0], b[b >= 0])) / max(1, int((b >= 0).sum())) for a, b in zip(ours, theirs, strict=True)]
        return float(np.mean(shared))  # lists of a small catalogue end in -1

    # Changes -------------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Do now what the first `add` would wait for: load the text encoder and see that it is the run's. Raises as `add` does."""
        snapshot = self.snapshot
        if snapshot.newcomers is not None and snapshot.codes is not None:
            snapshot.newcomers.prepare(snapshot.codes.ids)

    def add(self, items: Any, *, item_id: str | None = None, views: Mapping[str, str | Path | np.ndarray] | None = None,
            skip_known: bool = False) -> Change:
        """Make new items recommendable: encode them, give them free codes, merge them into the tree. All of them or none.

        items: a path or table as `semid.read` takes it, with columns of the run's catalogue. views: {"text": vectors [n, T]}
        where the run was trained with vectors of its own. skip_known: leave out items that the catalogue has, such as those of a table of
        all; otherwise they are refused. On disk before it is seen. Raises `ConfigError`, `DataError`, `RunError`.
        """
        with self._changing:
            snapshot = self.snapshot
            if snapshot.codes is None:
                raise ConfigError(f"recipe {snapshot.run.recipe!r} keeps a vector or a row of counts for each item it was trained with, "
                                  "and can't take new ones; train again with them, or serve a recipe with codes of content, such as semid")
            if not snapshot.recipe_takes_items:
                raise ConfigError(f"recipe {snapshot.run.recipe!r} has no way to give codes to new items; train again with them, or serve "
                                  "a recipe that has one, such as semid")
            if snapshot.newcomers is None:
                raise ConfigError("this run can't make codes of new items: its own came ready-made, without a tokenizer, or its generator "
                                  f"does not read the text that they are made of ({snapshot.codes.ids.source}); train again with the new "
                                  "items, or with text and without --set codes=...")
            new = incoming.read_new(items, snapshot.run.catalog, item_id=item_id, views=views)
            if skip_known:
                new = new.take(np.flatnonzero([id_ not in snapshot.catalog.items for id_ in new.items.ids.tolist()]))
                if not len(new):
                    return Change("add", 0, snapshot.num_alive, snapshot.version)
            if known := [id_ for id_ in new.items.ids.tolist() if id_ in snapshot.catalog.items]:
                raise DataError(f"new items: {known[0]!r}{f' and {len(known) - 1} more are' if len(known) > 1 else ' is'} in the "
                                "catalogue already; leave them out (skip_known), change their attributes with update, or show removed "
                                "ones again with restore")
            codes, vectors = snapshot.newcomers.place(new, snapshot.codes.ids)
            return self._change("add", incoming.add_entry(new, codes, vectors), len(new))

    def update(self, items: Any, *, item_id: str | None = None, skip_unknown: bool = False) -> Change:
        """Change attributes of known items: the given columns of the given rows. Codes and content vectors stay.

        skip_unknown: leave out items that the catalogue has not; otherwise they are refused.
        """
        with self._changing:
            snapshot = self.snapshot
            given = incoming.read_like(items, snapshot.catalog, item_id=item_id)
            if skip_unknown:
                given = given.take(np.flatnonzero([id_ in snapshot.catalog.items for id_ in given.items.ids.tolist()]))
                if not len(given):
                    return Change("update", 0, snapshot.num_alive, snapshot.version)
            rows = [snapshot.catalog.items.row(id_, "item") for id_ in given.items.ids.tolist()]
            table = incoming.conform(given, snapshot.catalog)
            changed = [name for name in snapshot.catalog.text if name in table.column_names]
            for name, column in incoming.texts(table, changed, "items").items():
                table = table.append_column(incoming.TEXT + name, pa.array(column, pa.string()))
            return self._change("update", table.append_column(incoming.ID, pa.array(given.items.ids.tolist(), pa.string())), len(rows))

    def remove(self, item_ids: Sequence[str]) -> Change:
        """Don't show these items until they are restored; they stay in histories. Raises `UnknownId` for one that isn't known, and
        removes none."""
        return self._change_alive("remove", item_ids)

    def restore(self, item_ids: Sequence[str]) -> Change:
        """Show removed items again, as they were, under their old codes. Raises as `remove` does, and restores none then."""
        return self._change_alive("restore", item_ids)

    def _change_alive(self, kind: Literal["remove", "restore"], item_ids: Sequence[str]) -> Change:
        with self._changing:
            ids = list(dict.fromkeys(map(str, item_ids)))
            if not ids:
                raise DataError(f"{kind}: want one item id or more, got none")
            rows = np.array([self.snapshot.catalog.items.row(id_, "item") for id_ in ids])
            changed = int((self.snapshot.alive[rows] != (kind == "restore")).sum())
            return self._change(kind, pa.table({incoming.ID: pa.array(ids, pa.string())}), changed)

    def swap(self, run_folder: str | Path) -> None:
        """Put another run in place, or the same one with what other processes changed. Answers under way end with the old one."""
        run = load(run_folder)
        with self._changing:
            before = self.snapshot
            serving = self._opened(run, before.version + 1)
            if serving.snapshot.newcomers is not None:
                serving.snapshot.newcomers.take_over(before.newcomers)
            self._serving = serving

    def _opened(self, run: Run, version: int) -> _Serving:
        assert run.folder is not None
        journal = Journal(run.folder)
        snapshot = Snapshot.of(run, version)
        for kind, table in merged(journal.read()):
            snapshot = _applied(snapshot, kind, table)
        snapshot = replace(snapshot, version=max(version, 1 + journal.count))  # as before a restart: one a change
        return _Serving(snapshot, self._run_by(snapshot), UserStates(self.state_bytes), journal)

    def _run_by(self, snapshot: Snapshot) -> CodeRecommender | ItemRecommender | Fusion:
        return quantized(snapshot.recommender) if self.engine == "int8" else snapshot.recommender

    def _change(self, kind: Kind, entry: pa.Table, count: int) -> Change:
        """The next snapshot: made, then written, then seen."""
        serving = self._serving
        snapshot = _applied(serving.snapshot, kind, entry)
        recommender = serving.recommender if snapshot.recommender is serving.snapshot.recommender else self._run_by(snapshot)
        serving.journal.write(kind, entry)
        self._serving = replace(serving, snapshot=snapshot, recommender=recommender)
        return Change(kind, count, snapshot.num_alive, snapshot.version)

    # Understanding -------------------------------------------------------------------------------------------------------

    def _understand(self, snapshot: Snapshot, request: Request) -> Asked:
        """Check a request against limits and catalogue. Raises `SemidError`."""
        check_k(request.k)
        if request.beams is not None and not (isinstance(request.beams, int) and 1 <= request.beams <= MAX_BEAMS):
            raise ConfigError(f"beams: want a whole number in [1, {MAX_BEAMS:,}], got {request.beams!r}")
        if len(request.history) > MAX_HISTORY:
            raise ConfigError(f"history: want at most {MAX_HISTORY:,} items, got {len(request.history):,}; send the latest")
        if request.times is not None:
            if len(request.times) != len(request.history):
                raise ConfigError(f"times: want one for each of {len(request.history)} items of the history, got {len(request.times)}")
            if not all(isinstance(t, int) and abs(t) < LATEST for t in request.times):
                raise ConfigError("times: want whole UTC seconds")
            if any(later < earlier for earlier, later in zip(request.times, request.times[1:], strict=False)):
                raise ConfigError("times: want the history oldest first, got a time before the one it follows")
        if request.at is not None and not (type(request.at) is int and abs(request.at) < LATEST):
            raise ConfigError(f"at: want whole UTC seconds, got {request.at!r}")
        list_rules.check(request.rules, snapshot)
        rows = snapshot.catalog.items.rows(request.history).astype(np.int64)
        notes: list[str] = []
        if (unknown := rows < 0).any():
            if request.unknown == "refuse":
                raise snapshot.catalog.items.unknown(request.history[int(np.argmax(unknown))], "item")
            notes.append(f"{int(unknown.sum())} of {len(rows)} items of the history are not in the catalogue and were left out")
            kept = np.flatnonzero(~unknown)
            times = None if request.times is None else tuple(request.times[place] for place in kept)
            request, rows = replace(request, history=tuple(request.history[place] for place in kept), times=times), rows[kept]
        admitted = snapshot.admitted(request.where, request.include_only)
        excluded = snapshot.catalog.items.rows(request.exclude).astype(np.int64)
        hidden = excluded[excluded >= 0]
        if stray := [id_ for id_, row in zip(request.exclude, excluded.tolist(), strict=True) if row < 0]:
            notes.append(f"{len(stray)} of {len(excluded)} excluded ids are not in the catalogue, the first {stray[0]!r}")
        if snapshot.run.resolve_seen(request.seen) == "remove":
            hidden = np.concatenate([rows, hidden])
        hidden = np.unique(hidden)
        left = admitted.count - int(len(hidden) if admitted.mask is None else admitted.mask[hidden].sum())
        depth = request.k if request.rules == Rules() else min(max(4 * request.k, POOL), max(left, 1))
        return Asked(request, rows, hidden, admitted, left, depth, tuple(notes))


@dataclass(frozen=True)
class _Serving:
    """What is swapped as one. recommender: the snapshot's, or its 8-bit form; journal: of the run's folder."""

    snapshot: Snapshot
    recommender: CodeRecommender | ItemRecommender | Fusion
    states: UserStates
    journal: Journal

    def answer(self, group: Sequence[Asked]) -> list[Answer]:
        """Answer requests of one predicate, depth and width together, all with times or all without. If that fails, each alone, so that
        one can't harm the others."""
        try:
            return self._ranked(group)
        except Exception as error:
            if len(group) > 1:
                return [answer for asked in group for answer in self.answer([asked])]
            if not isinstance(error, SemidError):
                log.exception("a request could not be answered")
                error = SemidError(f"this request could not be answered ({type(error).__name__}); it is a defect of semid, see the log")
            return [Answer(error=error, version=self.snapshot.version)]

    def _ranked(self, group: Sequence[Asked]) -> list[Answer]:
        recommender = _with_beams(self.recommender, group[0].request.beams)
        admitted, depth = group[0].admitted, group[0].depth
        batch = self.batch(group)
        found = admitted.best(recommender, batch, depth)
        answers = []
        for asked, item, score in zip(group, found.item, found.score, strict=True):
            real = item >= 0
            is_whole = int(real.sum()) >= asked.left
            answer = self.finish(asked, item[real].astype(np.int64), score[real], found.scale)
            # Caps may use up the candidates before the list is full: look deeper, for this request alone.
            if len(answer.item_ids) < min(asked.request.k, asked.left) and not is_whole and depth < MAX_BEAMS:
                answer = self._ranked([replace(asked, depth=min(2 * depth, MAX_BEAMS))])[0]
            answers.append(answer)
        return answers

    def batch(self, group: Sequence[Asked]) -> Batch:
        """The histories, what is hidden from each, and states of those that were read before."""
        times = [np.zeros(len(a.rows), np.int64) if a.request.times is None else np.asarray(a.request.times, np.int64) for a in group]
        users = self.snapshot.user_rows([asked.request.user for asked in group])
        batch = history_batch([asked.rows for asked in group], times, users, max_history=self.snapshot.run.split.protocol.max_history,
                              requests=moments([asked.request for asked in group]))
        hidden = np.full((len(group), max(len(asked.hidden) for asked in group)), -1, np.int64)
        for row, asked in enumerate(group):
            hidden[row, : len(asked.hidden)] = asked.hidden
        batch.extra["seen"] = torch.from_numpy(hidden)
        code = self.recommender.first if isinstance(self.recommender, Fusion) else self.recommender
        if isinstance(code, CodeRecommender) and code.max_history is None and keeps_states(code.generator):
            batch.extra["state"] = self.states.of(code.generator, batch)
        return batch

    def popular(self, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
        """The most popular items that the request admits, and their training events."""
        rows = self.snapshot.most_popular
        allowed = np.ones(len(rows), bool) if asked.admitted.mask is None else asked.admitted.mask.copy()
        allowed[asked.hidden] = False
        rows = rows[allowed[rows]][: asked.left if asked.request.rules.caps else asked.depth]
        return rows, self.snapshot.popularity[rows].astype(np.float32)

    def finish(self, asked: Asked, item: np.ndarray, score: np.ndarray, scale: str) -> Answer:
        """Apply the list rules and say what a person should know."""
        chosen, cost = list_rules.apply(asked.request.rules, self.snapshot, item, score, asked.request.k)
        notes = list(asked.notes)
        if not len(asked.rows):
            notes.append("no history: the most popular items")
        if asked.left < asked.request.k:
            satisfy = "item satisfies" if asked.left == 1 else "items satisfy"
            notes.append(f"{asked.left:,} {satisfy} the rules, {asked.request.k:,} were asked for")
        elif len(chosen) < asked.request.k:
            what = "the caps leave" if asked.request.rules.caps else "the search found"
            notes.append(f"{what} {len(chosen):,} items, {asked.request.k:,} were asked for")
        catalog = self.snapshot.catalog
        return Answer(tuple(catalog.items.ids[item[chosen]].tolist()), tuple(catalog.titles[row] for row in item[chosen]),
                      tuple(score[chosen].tolist()), scale, asked.left, cost, "; ".join(notes), version=self.snapshot.version,
                      model=self.snapshot.model)


def check_k(k: object) -> None:
    """Raise `ConfigError` unless k is the length of a list."""
    if not (isinstance(k, int) and not isinstance(k, bool) and 1 <= k <= MAX_K):
        raise ConfigError(f"k: want a whole number in [1, {MAX_K:,}], got {k!r}")


def _with_beams(recommender: CodeRecommender | ItemRecommender | Fusion, beams: int | None) -> CodeRecommender | ItemRecommender | Fusion:
    if beams is None or isinstance(recommender, ItemRecommender):
        return recommender
    if isinstance(recommender, Fusion):
        return replace(recommender, first=replace(recommender.first, beams=beams))
    return replace(recommender, beams=beams)


def _applied(snapshot: Snapshot, kind: Kind, entry: pa.Table) -> Snapshot:
    """The snapshot after a change, as the journal has it."""
    ids = entry[incoming.ID].to_pylist()
    if kind == "add":
        codes = np.array(entry[incoming.CODES].to_pylist(), np.int32)
        vectors = np.array(entry[incoming.VECTOR].to_pylist(), np.float32)
        return snapshot.added(ids, incoming.attributes_of(entry), incoming.text_of(entry), codes, vectors)
    rows = np.array([snapshot.catalog.items.row(id_, "item") for id_ in ids], np.int64)
    if kind == "update":
        return snapshot.updated(rows, incoming.attributes_of(entry), incoming.text_of(entry))
    return snapshot.with_alive(rows, kind == "restore")


def _describe(name: str, column: pa.ChunkedArray) -> Column:
    kind, missing = column.type, column.null_count
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        flat = column.combine_chunks().flatten()
        values = _frequent(flat) if is_string(flat.type) else ()
        return Column(name, str(kind), missing, values)
    if is_string(kind):
        return Column(name, str(kind), missing, _frequent(column))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind):
        ends = [end if end is None or isinstance(end, int) or (isinstance(end, float) and math.isfinite(end)) else str(end)
                for end in pc.call_function("min_max", [column]).as_py().values()]
        return Column(name, str(kind), missing, (), *ends)
    return Column(name, str(kind), missing)


def _frequent(column: pa.ChunkedArray | pa.Array, count: int = 20) -> tuple[str, ...]:
    counted = sorted(column.drop_null().value_counts().to_pylist(), key=lambda entry: (-entry["counts"], entry["values"]))
    return tuple(entry["values"] for entry in counted[:count])
