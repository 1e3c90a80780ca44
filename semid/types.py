"""The values that flow between the stages. They check dtype, rank and range when built; code inside trusts them.

Axes: N items, U users, E events, L levels, B rows, S history positions, K beams, k list length, T targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from semid.errors import ConfigError, DataError, UnknownId, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

EXTRA = frozenset({"query", "profile", "reward", "domain", "seen", "request", "state", "candidates", "chosen", "rejected", "alike",
                   "takers", "session", "session_pair", "task"})
"""The closed list of names that `Batch.extra` may hold. seen: int64 [B, H] (-1 pad), all items of the user's past, where the
history that the model reads was cut to the latest. request: int64 [B], when the item after the last one is asked for, in the
unit of `time`. state: float32 [B, D], what a causal generator's `read` returned for these histories, so that it need not read
them again. candidates: int64 [B, G] proposed items, reward: float32 [B, G] their worth. chosen: int64 [B] and
rejected: int64 [B, K] (-1 pad), the two sides of a preference. alike: int64 [B], takers: int64 [B, 3], see
`data.indexing.IndexingBatches`. session: int64 [B, P] (-1 pad), the items taken after the history, in order; session_pair: int64
[B, 2, P] (-1 = none), a session that is better than another one. task: int64 [B], number of the task that a language model is
given."""

DAY = 86_400
"""Seconds."""

TRAIN, VALID, TEST = 0, 1, 2
"""Values of `Interactions.split`."""


def _want(name: str, array: np.ndarray, dtypes: str | tuple[str, ...], rank: int, fix: str = "cast it first") -> None:
    dtypes = (dtypes,) if isinstance(dtypes, str) else dtypes
    if not isinstance(array, np.ndarray) or str(array.dtype) not in dtypes or array.ndim != rank:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"{name}: want {' or '.join(dtypes)} with {rank} axes, got {got}; {fix}")


class IdMap:
    """External ids (strings) by row number, and back.

    ids: N distinct strings; row r belongs to `ids[r]`. Integer ids of a source table are kept as their decimal text.
    """

    def __init__(self, ids: Sequence[str] | np.ndarray):
        self.ids = np.asarray(ids, dtype=object)
        if len(self._rows) != len(self.ids):
            raise DataError(f"ids: want {len(self.ids)} distinct ids, got {len(self._rows)}; drop the duplicates first")

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {id_: row for row, id_ in enumerate(self.ids.tolist())}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._rows

    def row(self, id_: str, what: str = "id") -> int:
        """Return the row of one id. Raises `UnknownId` with the nearest known id."""
        found = self._rows.get(str(id_))
        if found is None:
            raise self.unknown(id_, what)
        return found

    def unknown(self, id_: str, what: str = "id") -> UnknownId:
        """Return the error for an id that isn't here, with the nearest that is."""
        near = did_you_mean(str(id_), alike(str(id_), self.ids[:50_000].tolist()))
        return UnknownId(f"unknown {what} {str(id_)!r}{near}: the data hold {len(self):,} {what}s, such as "
                         + ", ".join(repr(x) for x in self.ids[:3].tolist()))

    def rows(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return int32 [len(ids)] row numbers; -1 for ids that are not known."""
        return np.fromiter((self._rows.get(str(i), -1) for i in ids), dtype=np.int32, count=len(ids))


def alike(id_: str, ids: Sequence[str], most: int = 20) -> list[str]:
    """Return up to `most` of `ids`, of nearly the same length, that have the longest beginnings and ends in common with `id_`.

    All characters but one where a typing error lies between them. A comparison with each of 50,000 ids takes seconds, this 50 ms.
    """
    near = [other for other in ids if abs(len(other) - len(id_)) <= 2]
    if not near or len(id_) > 100:
        return []
    common = np.zeros(len(near), np.int64)
    for step in (1, -1):
        letters = np.array([id_[::step], *(other[::step] for other in near)]).view(np.uint32).reshape(len(near) + 1, -1)
        common += np.logical_and.accumulate(letters[1:] == letters[0], axis=1).sum(axis=1)
    return [near[row] for row in np.argsort(-common, kind="stable")[:most]]


@dataclass(frozen=True)
class Interactions:
    """Events sorted by (user, time, source row).

    user int32 [E], item int32 [E]; time int64 [E], UTC seconds or an ordinal (`time_unit` says which);
    action int16 [E] or None; value float32 [E] or None; split int8 [E] or None (a given `split` column).
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    users: IdMap
    items: IdMap
    time_unit: Literal["seconds", "ordinal"] = "seconds"
    action: np.ndarray | None = None
    value: np.ndarray | None = None
    split: np.ndarray | None = None

    def __post_init__(self):
        _want("interactions.user", self.user, "int32", 1)
        _want("interactions.item", self.item, "int32", 1)
        _want("interactions.time", self.time, "int64", 1)
        for name, dtype in (("action", "int16"), ("value", "float32"), ("split", "int8")):
            if getattr(self, name) is not None:
                _want(f"interactions.{name}", getattr(self, name), dtype, 1)
        for name in ("item", "time", "action", "value", "split"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.user):
                raise DataError(f"interactions.{name}: want {len(self.user)} rows as in user, got {len(column)}")
        if len(self.user):
            if self.user.min() < 0 or self.user.max() >= len(self.users):
                raise DataError(f"interactions.user: want rows in [0, {len(self.users)}), got {self.user.min()}..{self.user.max()}")
            if self.item.min() < 0 or self.item.max() >= len(self.items):
                raise DataError(f"interactions.item: want rows in [0, {len(self.items)}), got {self.item.min()}..{self.item.max()}")
            step = np.diff(self.user)
            if (step < 0).any() or ((step == 0) & (np.diff(self.time) < 0)).any():
                raise DataError("interactions: want events sorted by (user, time), got an unsorted table; "
                                "sort it stably with np.lexsort((time, user))")

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [U+1]: the events of user u are [offsets[u], offsets[u+1])."""
        return np.searchsorted(self.user, np.arange(len(self.users) + 1)).astype(np.int64)

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 [N]: events per item (popularity)."""
        return np.bincount(self.item, minlength=len(self.items))

    def take(self, rows: np.ndarray) -> Interactions:
        """Return the events `rows` (boolean mask or ascending positions), id maps unchanged."""
        pick = lambda column: None if column is None else column[rows]
        return replace(self, user=self.user[rows], item=self.item[rows], time=self.time[rows],
                       action=pick(self.action), value=pick(self.value), split=pick(self.split))


TITLES = ("title", "name", "producttitle", "productname", "itemtitle", "itemname")
"""Names of the column that holds what a person calls an item, the likeliest first (lower case, letters and digits only)."""


@dataclass(frozen=True)
class Catalog:
    """The items: ids, attributes (filters read them), texts and vectors, all in the same row order.

    table: Arrow table of N rows; text: {field: N strings, '' where missing}; views: {name: float32 [N, D]}.
    """

    items: IdMap
    table: pa.Table
    text: dict[str, list[str]] = field(default_factory=dict)
    views: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        n = len(self.items)
        if self.table.num_rows != n:
            raise DataError(f"catalog.table: want {n} rows, one an item, got {self.table.num_rows}")
        for name, texts in self.text.items():
            if len(texts) != n:
                raise DataError(f"catalog.text[{name!r}]: want {n} strings, got {len(texts)}")
        for name, view in self.views.items():
            _want(f"catalog.views[{name!r}]", view, "float32", 2)
            if len(view) != n:
                raise DataError(f"catalog.views[{name!r}]: want {n} rows, one an item and in item order, got {len(view)}")
            if not np.isfinite(view).all():
                row = int(np.flatnonzero(~np.isfinite(view).all(axis=1))[0])
                raise DataError(f"catalog.views[{name!r}]: want finite numbers, got NaN or infinity in row {row} "
                                f"(item {self.items.ids[row]!r}); drop the item or give it a zero vector")

    def __len__(self) -> int:
        return len(self.items)

    def with_view(self, name: str, vectors: np.ndarray) -> Catalog:
        """Return the same catalogue with one more view, float32 [N, D]."""
        return replace(self, views={**self.views, name: vectors})

    def take(self, rows: np.ndarray) -> Catalog:
        """Return the items at rows int64 [n], in that order."""
        return Catalog(IdMap(self.items.ids[rows].tolist()), self.table.take(rows),
                       {name: [texts[row] for row in rows.tolist()] for name, texts in self.text.items()},
                       {name: view[rows] for name, view in self.views.items()})

    def view(self, name: str) -> np.ndarray:
        """Return a view by name. Raises `DataError` that names the views there are."""
        if name not in self.views:
            known = ", ".join(map(repr, self.views)) or "none"
            raise DataError(f"the catalogue has no view {name!r}{did_you_mean(name, self.views)}; it has: {known}")
        return self.views[name]

    @cached_property
    def given_titles(self) -> list[str] | None:
        """N titles as the table has them, whether encoders read them or not, '' where missing; None where no column is named like one."""
        columns = [each.name for each in self.table.schema if str(each.type) in ("string", "large_string", "string_view")]
        plain = {"".join(filter(str.isalnum, name.lower())): name for name in [*columns, *self.text]}
        column = next((plain[name] for name in TITLES if name in plain), None)
        if column is None or column in self.text:
            return None if column is None else self.text[column]
        return [title or "" for title in self.table[column].to_pylist()]

    @cached_property
    def titles(self) -> list[str]:
        """N strings to show to a person: the title, else the id."""
        shown = self.given_titles or [""] * len(self)
        return [text or str(id_) for text, id_ in zip(shown, self.items.ids.tolist(), strict=True)]


@dataclass(frozen=True)
class SemanticIds:
    """The codes of N items.

    codes int16 or int32 [N, L], -1 pads right; sizes: L ints, codes of level l lie in [0, sizes[l]);
    order: "sequence" (a path down a tree) or "set" (digits without order); source: who made them, for people.
    """

    codes: np.ndarray
    sizes: tuple[int, ...]
    order: Literal["sequence", "set"] = "sequence"
    source: str = ""

    @classmethod
    def of(cls, codes: np.ndarray, sizes: tuple[int, ...], order: Literal["sequence", "set"] = "sequence", source: str = "") -> SemanticIds:
        """Return codes of any integer type in the narrowest that holds them."""
        return cls(codes.astype(np.int16 if max(sizes) <= 2**15 else np.int32), sizes, order, source)

    def __post_init__(self):
        _want("codes", self.codes, ("int16", "int32"), 2, "cast before building SemanticIds")
        if self.codes.shape[1] != len(self.sizes):
            raise DataError(f"codes: want {len(self.sizes)} levels as in sizes, got {self.codes.shape[1]}")
        if len(self.codes) and ((self.codes < -1).any() or (self.codes.max(axis=0) >= np.asarray(self.sizes)).any()):
            raise DataError(f"codes: want level l in [-1, sizes[l]) with sizes {self.sizes}, got up to {tuple(self.codes.max(axis=0))}")
        pad = self.codes < 0
        if len(self.codes) and (pad[:, 0].any() or (pad[:, :-1] & ~pad[:, 1:]).any()):
            raise DataError("codes: want -1 only as padding on the right, got -1 before a code")

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @cached_property
    def num_distinct(self) -> int:
        """How many distinct code tuples there are; N when every item has its own."""
        return len(np.unique(self.codes, axis=0))


@dataclass(frozen=True)
class Batch:
    """Histories in item space; the model looks codes up itself. All tensors share B and S; positions are right-padded.

    item int64 [B, S] (-1 pad), time int64 [B, S], action int64 [B, S] or None, length int64 [B],
    target int64 [B, S] (item to predict after position s; -1 = not supervised), user int64 [B],
    extra: tensors under the names of `EXTRA`.
    """

    item: Tensor
    time: Tensor
    length: Tensor
    target: Tensor
    user: Tensor
    action: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        for name, rank in (("item", 2), ("time", 2), ("target", 2), ("length", 1), ("user", 1)):
            tensor = getattr(self, name)
            if str(tensor.dtype) != "torch.int64" or tensor.ndim != rank:
                raise DataError(f"batch.{name}: want int64 with {rank} axes, got {tensor.dtype} {tuple(tensor.shape)}")
        if not self.item.shape == self.time.shape == self.target.shape:
            raise DataError(f"batch: want item, time and target of one shape, got {tuple(self.item.shape)}, "
                            f"{tuple(self.time.shape)}, {tuple(self.target.shape)}")
        if unknown := set(self.extra) - EXTRA:
            raise DataError(f"batch.extra: unknown name {sorted(unknown)[0]!r}; known: {sorted(EXTRA)}")

    def __len__(self) -> int:
        return self.item.shape[0]

    @property
    def seen(self) -> Tensor:
        """int64 [B, H] (-1 pad): the items that "seen removed" never recommends."""
        return self.extra["seen"] if "seen" in self.extra else self.item

    @property
    def request(self) -> Tensor | None:
        """int64 [B]: when the item after the last one is asked for; None where nobody said."""
        return self.extra["request"] if "request" in self.extra else None

    @property
    def waited(self) -> Tensor:
        """int64 [B]: from the last event to the request, in the unit of times; 0 where nobody said when, or there is no event."""
        last = self.time.gather(1, (self.length - 1).clamp_min(0)[:, None]).squeeze(1)
        return ((last if self.request is None else self.request) - last).masked_fill(self.length == 0, 0)

    def only(self, rows: Tensor) -> Batch:
        """Return the rows int64 [B'] of the batch, without what `extra` holds."""
        action = None if self.action is None else self.action[rows]
        return Batch(self.item[rows], self.time[rows], self.length[rows], self.target[rows], self.user[rows], action)

    def to(self, device) -> Batch:
        """Return the batch on another device. Only a copy to an accelerator may go on in the background: the processor would read its
        memory before the values are there."""
        is_background = str(device).partition(":")[0] != "cpu"
        move = lambda t: None if t is None else t.to(device, non_blocking=is_background)
        return replace(self, item=move(self.item), time=move(self.time), length=move(self.length),
                       target=move(self.target), user=move(self.user), action=move(self.action),
                       extra={k: move(v) for k, v in self.extra.items()})


@dataclass(frozen=True)
class Beams:
    """The K best paths of each row, best first. codes int64 [B, K, L]; logp float32 [B, K] (natural log, -inf = none);
    item int64 [B, K] (-1 = none; the lowest item row where several items share the codes)."""

    codes: Tensor
    logp: Tensor
    item: Tensor


@dataclass(frozen=True)
class Recommendations:
    """Ranked items. user int32 [B] (-1 = not a known user); item int32 [B, k] (-1 pads right);
    score float32 [B, k], non-increasing along k; scale: what the score is ("log probability", "dot product", ...)."""

    user: np.ndarray
    item: np.ndarray
    score: np.ndarray
    scale: str

    def __post_init__(self):
        _want("recommendations.user", self.user, "int32", 1)
        _want("recommendations.item", self.item, "int32", 2)
        _want("recommendations.score", self.score, "float32", 2)
        if not len(self.user) == len(self.item) == len(self.score) or self.item.shape != self.score.shape:
            raise DataError(f"recommendations: want user [B], item [B, k], score [B, k], "
                            f"got {self.user.shape}, {self.item.shape}, {self.score.shape}")
        if ((self.item[:, :-1] < 0) & (self.item[:, 1:] >= 0)).any():
            raise DataError("recommendations.item: want -1 only as padding on the right")
        filled = self.item[:, 1:] >= 0
        if (filled & (self.score[:, 1:] > self.score[:, :-1])).any():
            raise DataError("recommendations.score: want scores that never rise along a list")


@dataclass(frozen=True)
class Protocol:
    """How a data set is split and what is ranked. Two numbers may stand in one table iff their `hash` is equal.

    split: leave_one_out (last = test, one before = valid; the given `split` column instead, where there is one and no shuffling),
           time (global cut at quantiles `valid_from`, `test_from` of event times), column (given `split` only),
           cold_items (a seeded share `held_out` of items never trained on; their events are the test),
           cold_users (a seeded share `held_out` of users never trained on, leave-one-out among them).
    max_history: positions of history a model may see (the last ones).
    seen: "keep" ranks all items, "remove" skips the user's own history.
    shuffle_ties: None keeps source order among equal times; an int is the seed of a random order, drawn before the split.
    candidates: "all": full ranking over the catalogue; semid has no sampled ranking.
    min_history: cases with a shorter history are not evaluated.
    """

    split: Literal["leave_one_out", "time", "column", "cold_items", "cold_users"] = "leave_one_out"
    max_history: int = 50
    seen: Literal["keep", "remove"] = "keep"
    shuffle_ties: int | None = None
    candidates: Literal["all"] = "all"
    valid_from: float = 0.8
    test_from: float = 0.9
    held_out: float = 0.1
    seed: int = 0
    min_history: int = 1

    def __post_init__(self):
        if self.max_history < 1:
            raise ConfigError(f"max_history: want 1 or more, got {self.max_history}")
        if not 0 < self.valid_from < self.test_from < 1:
            raise ConfigError(f"valid_from, test_from: want 0 < valid < test < 1, got {self.valid_from} and {self.test_from}")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out: want a share between 0 and 1, got {self.held_out}")
        for name in ("shuffle_ties", "seed"):
            seed = getattr(self, name)
            if seed is not None and not 0 <= seed < 2**32:
                raise ConfigError(f"{name}: want a seed in [0, 2^32), got {seed}")
        if self.min_history < 0:
            raise ConfigError(f"min_history: want 0 or more, got {self.min_history}")

    @property
    def unread(self) -> tuple[str, ...]:
        """Fields that this split doesn't read."""
        return {
            "leave_one_out": ("valid_from", "test_from", "held_out", "seed"),
            "column": ("valid_from", "test_from", "held_out", "seed"),
            "time": ("held_out", "seed"),
            "cold_items": ("valid_from", "test_from"),
            "cold_users": ("valid_from", "test_from"),
        }[self.split]

    @property
    def hash(self) -> str:
        """8 hex digits over every field that changes the numbers of this split."""
        import hashlib
        import json

        fields = {k: v for k, v in self.__dict__.items() if k not in self.unread}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Cases:
    """Questions with known answers: what does this user take after this history?

    user int32 [B]; history_begin, history_end int64 [B]: the history is `events.item[begin:end]` (oldest first,
    not yet cut to max_history); target int32 [T] with target_offsets int64 [B+1]: the true items of row b are
    `target[target_offsets[b]:target_offsets[b+1]]` (one in leave-one-out); target_time int64 [T].
    """

    user: np.ndarray
    history_begin: np.ndarray
    history_end: np.ndarray
    target: np.ndarray
    target_offsets: np.ndarray
    target_time: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> Cases:
        """Return the cases `rows` (boolean mask or positions)."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        sizes = np.diff(self.target_offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        pick = np.repeat(self.target_offsets[rows] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return Cases(self.user[rows], self.history_begin[rows], self.history_end[rows],
                     self.target[pick], offsets, self.target_time[pick])


@dataclass(frozen=True)
class Split:
    """Training rows and the questions asked of a model. Anything learnt or counted comes from `train` alone.

    source: the interactions as given; events: those that histories point into (source in the protocol's order, without
    cold items); train: the training rows only.
    """

    protocol: Protocol
    catalog: Catalog
    source: Interactions
    events: Interactions
    train: Interactions
    valid: Cases
    test: Cases
    fingerprint: str = ""
    """16 hex digits over the events and the catalogue's attributes: which data."""


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, and what the log tells of it. total: float tensor []; parts: {name: scalar tensor}, terms of the loss, before
    their weights; signals: {name: scalar tensor}, what else shows whether training is healthy, of any scale."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    signals: dict[str, Tensor] = field(default_factory=dict)
