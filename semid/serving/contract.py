"""What goes into the engine and what comes out: plain values, item ids instead of rows, no codes.

The HTTP service, the page and the command line speak to `Engine` in these alone. `Engine` (semid/serving/engine.py):

    Engine.open(run_folder, *, engine="float" | "int8") -> Engine
    recommend(requests) -> [Answer]           one batch; a bad request gets its own `error`, its neighbours their lists
    similar(item_id, k, by="content" | "codes" | "together") -> [Neighbour]
    explain(request, item_id) -> Explanation  explain_all(request, item_ids) -> [Explanation], the list decoded once
    history(user) -> History                  of a user in the run's own data
    add(table) / update(table) / remove(ids) / restore(ids) -> Change
    prepare()                                 load what the first add would wait for
    columns() -> [Column]                     what `where` may ask
    item(item_id) -> dict                     title and attributes
    search(text, k) -> [Neighbour]            by title
    swap(run_folder)                          another run, or the same folder as it is now
    snapshot -> Snapshot                      immutable; what one answer was made from has one `version`

Every method may be called from any thread. Mistakes of the caller are `SemidError`s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

import numpy as np

from semid.errors import SemidError

LAST_SECOND = 253_402_300_799
"""The end of the year 9999, in UTC seconds."""

MAX_K = 10_000
"""Longest list that is answered."""

MAX_BEAMS = 10_000
"""Widest search."""

MAX_HISTORY = 100_000
"""Longest history that is taken; a model reads the last `max_history` of it, the rest counts as seen."""


@dataclass(frozen=True)
class Rules:
    """What to do with a list after decoding. The defaults change nothing. debias and freshness, in this order, change what an item
    is worth; then the list is picked under the caps, and at last for diversity, under the caps again:

    debias: in [0, 1]; popular items lose up to so much of the spread of the scores (1: the most popular item falls from
    the top of the candidates to the level of the last).
    freshness: in [0, 1]; an item of this moment gains so much of the spread, one `half_life` days old half of it.
    fresh_column: a date, a timestamp or seconds since 1970; now: seconds since 1970, None takes the clock.
    diversity: in [0, 1]; 0 ranks by score alone, 1 by being unlike the items above (maximal marginal relevance).
    diversity_by: what likeness is: shared leading codes, or the cosine of content vectors.
    caps: {column: at most so many items of a list share a value of it}.
    """

    debias: float = 0.0
    freshness: float = 0.0
    fresh_column: str | None = None
    half_life: float = 30.0
    now: float | None = None
    diversity: float = 0.0
    diversity_by: Literal["codes", "content"] = "codes"
    caps: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One question: what comes after this history?

    history: item ids, oldest first; may be empty. times: UTC seconds of each, None = unknown. at: UTC seconds when it is asked, None =
    now; not read where times are unknown.
    unknown: what to do with ids in the history that the catalogue doesn't hold: refuse the request, or skip them and say so.
    k: in [1, MAX_K]. where: condition over the catalogue's columns (semid/data/where.py). exclude: ids never shown; unknown ones
    are counted in the note. include_only: the only ids that may be shown; unknown ones are ignored; None = all.
    seen: whether items of the history may come again; auto: only where users take items again.
    user: whose history it is, for models that learnt a vector for each user of their data; None or unknown = anybody.
    beams: width of the search, None as the run was configured; generators only.
    """

    history: tuple[str, ...] = ()
    times: tuple[int, ...] | None = None
    at: int | None = None
    unknown: Literal["refuse", "skip"] = "refuse"
    k: int = 10
    where: str | None = None
    exclude: tuple[str, ...] = ()
    include_only: tuple[str, ...] | None = None
    seen: Literal["auto", "keep", "remove"] = "auto"
    user: str | None = None
    beams: int | None = None
    rules: Rules = Rules()


def utc_seconds(text: str) -> int:
    """Return UTC seconds of an ISO 8601 date or time; one without a zone is UTC. Raises `ValueError`.

    >>> utc_seconds("2026-11-30"), utc_seconds("2026-11-30T10:00:00+01:00"), utc_seconds("2026-11-30T09:00:00Z")
    (1795996800, 1796029200, 1796029200)
    """
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return int((found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp())


def moments(requests: Sequence[Request]) -> np.ndarray | None:
    """Return int64 [B], when requests are asked, no earlier than their last event; None where one doesn't say when its events were."""
    now = int(time.time())
    asked = [None if each.times is None else max([now if each.at is None else each.at, *each.times[-1:]]) for each in requests]
    return None if None in asked else np.array(asked, np.int64)


@dataclass(frozen=True)
class Answer:
    """A ranked list. item_ids, titles, scores: of equal length, best first as the rules have it.

    scores: the recommender's own, before any rule, in units of `scale` ("log probability", ...); they fall along the list
    unless a rule reordered it. left: how many items where, exclude, include_only and seen admit. cost: {rule: mean score
    given up by applying it, >= 0 up to ties}, in units of `scale`. note: what a person should know, such as why the list is
    short. error: why there is no list; then everything else is empty. version: of the snapshot that answered; model: a name of what
    was trained.
    """

    item_ids: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    scale: str = ""
    left: int = 0
    cost: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    error: SemidError | None = None
    version: int = 0
    model: str = ""


@dataclass(frozen=True)
class History:
    """A user's items, oldest first, and UTC seconds of each (None where the run's data have an order only)."""

    item_ids: tuple[str, ...]
    times: tuple[int, ...] | None


@dataclass(frozen=True)
class Neighbour:
    """An item near another. score: cosine, share of leading codes, or cosine of co-occurrence; in [-1, 1]."""

    item_id: str
    title: str
    score: float


@dataclass(frozen=True)
class Level:
    """One step down the code tree. code: chosen; probability: of it among its siblings, in (0, 1]; rank: 1 = the likeliest
    of `siblings`; items: how many lie below; titles: the best known of them."""

    code: int
    probability: float
    rank: int
    siblings: int
    items: int
    titles: tuple[str, ...]


@dataclass(frozen=True)
class Influence:
    """A history item that mattered. position: from 0, the oldest, among the items that the catalogue holds; effect: score with it minus
    score without it."""

    item_id: str
    title: str
    position: int
    effect: float


@dataclass(frozen=True)
class Explanation:
    """Why an item. score, scale: as in `Answer`; rank: in the list for this history, 1 = best, None if it is left out or beyond 1,000.

    path: down the code tree, empty for a recommender without codes. history: strongest effect first.
    content, together: the history's and other items nearest to it, by content and by who took both; empty where unknown.
    """

    item_id: str
    title: str
    score: float
    scale: str
    rank: int | None
    path: tuple[Level, ...]
    history: tuple[Influence, ...]
    content: tuple[Neighbour, ...]
    together: tuple[Neighbour, ...]
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A catalogue column for `where`. type: as Arrow calls it; values: up to 20 of the most frequent (text and lists of text);
    low, high: of numbers, dates and times, as JSON has them."""

    name: str
    type: str
    missing: int
    values: tuple[str, ...] = ()
    low: object = None
    high: object = None


@dataclass(frozen=True)
class Change:
    """What add, update, remove or restore did. count: items touched; items: in the catalogue afterwards; version: of the new snapshot."""

    kind: Literal["add", "update", "remove", "restore"]
    count: int
    items: int
    version: int
