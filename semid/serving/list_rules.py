"""Rules over a decoded list: less of the popular, more of the new, caps, diversity. Each says what it costs in score.

Scores are brought to [0, 1] over the candidates first, so that a weight means the same for log-probabilities and dot products.

Source of the diversity: maximal marginal relevance, Carbonell and Goldstein, SIGIR 1998.
Axes: C candidates, k list length, T width of content.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Hashable

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from semid.data.columns import listed
from semid.errors import ConfigError, DataError, did_you_mean
from semid.serving.contract import Rules
from semid.serving.snapshot import Snapshot
from semid.types import DAY


def check(rules: Rules, snapshot: Snapshot) -> None:
    """Raise `ConfigError` or `DataError` for a rule that can't be applied."""
    for name in ("debias", "freshness", "diversity"):
        value = getattr(rules, name)
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise ConfigError(f"rules.{name}: want a number between 0 and 1, got {value!r}")
    if not (math.isfinite(rules.half_life) and rules.half_life > 0):
        raise ConfigError(f"rules.half_life: want days, more than 0, got {rules.half_life!r}")
    if rules.now is not None and not math.isfinite(rules.now):
        raise ConfigError(f"rules.now: want seconds since 1970, got {rules.now!r}")
    if rules.freshness and rules.fresh_column is None:
        raise ConfigError("rules.freshness: want the column that says when an item appeared, in fresh_column")
    if rules.diversity_by not in ("codes", "content"):
        raise ConfigError(f"rules.diversity_by: want codes or content, got {rules.diversity_by!r}")
    if rules.diversity and rules.diversity_by == "content" and snapshot.content is None:
        raise ConfigError("rules.diversity_by: this run keeps no content vectors; want codes")
    if rules.diversity and rules.diversity_by == "codes" and snapshot.codes is None:
        raise ConfigError("rules.diversity_by: this run has no codes, its recipe ranks items directly; leave out diversity")
    names = snapshot.catalog.table.column_names
    for name in [*rules.caps, *([rules.fresh_column] if rules.fresh_column else [])]:
        if name not in names:
            raise DataError(f"rules: no column {name!r}{did_you_mean(name, names)}; the columns are: {listed(names)}")
    for name, cap in rules.caps.items():
        if not (isinstance(cap, int) and cap >= 1):
            raise ConfigError(f"rules.caps[{name!r}]: want how many items may share a value, 1 or more, got {cap!r}")
    if rules.freshness and rules.fresh_column:
        _seconds(snapshot.catalog.table[rules.fresh_column].slice(0, 0), rules.fresh_column)


def apply(rules: Rules, snapshot: Snapshot, item: np.ndarray, score: np.ndarray, k: int) -> tuple[np.ndarray, dict[str, float]]:
    """Return (which candidates, in order: int64 [up to k], {rule: mean score given up}).

    item int64 [C], score float [C], falling: the recommender's list. Fewer than k are left where the caps admit no more.
    """
    steps: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = []
    if rules.debias:
        steps.append(("debias", lambda worth: worth - rules.debias * popularity(snapshot, item)))
    if rules.freshness and rules.fresh_column:
        steps.append(("freshness", lambda worth: worth + rules.freshness * freshness(rules, snapshot, item)))
    worth, cost = unit(score), {}
    chosen = np.arange(len(item))[:k]
    for name, change in steps:
        worth = change(worth)
        before, chosen = chosen, np.argsort(-worth, kind="stable")[:k]
        cost[name] = _mean(score[before]) - _mean(score[chosen])
    if rules.caps:
        before, chosen = chosen, select(worth, k, shares=capped(rules, snapshot, item), caps=list(rules.caps.values()))
        cost["caps"] = _mean(score[before]) - _mean(score[chosen])
    if rules.diversity:
        before = chosen
        chosen = select(unit(worth), k, shares=capped(rules, snapshot, item), caps=list(rules.caps.values()),
                        diversity=rules.diversity, likeness=likeness(rules, snapshot, item))
        cost["diversity"] = _mean(score[before]) - _mean(score[chosen])
    return chosen, cost


def select(worth: np.ndarray, k: int, *, shares: list[list[tuple[Hashable, ...]]], caps: list[int], diversity: float = 0.0,
           likeness: Callable[[int], np.ndarray] | None = None) -> np.ndarray:
    """Pick up to k candidates, one after another: (1 - diversity) worth - diversity * the greatest likeness to those above.

    shares: per cap, each candidate's values; one that would exceed a cap is passed over. likeness(i): float [C] to candidate i.
    Ties to the earlier candidate. O(k C).
    """
    left = worth.astype(np.float64) * (1 - diversity)
    nearest = np.zeros(len(worth))
    counts: list[Counter[Hashable]] = [Counter() for _ in caps]
    chosen: list[int] = []
    while len(chosen) < k and np.isfinite(left).any():
        best = int(np.argmax(left - diversity * nearest))
        left[best] = -np.inf
        if any(counts[c][value] >= caps[c] for c in range(len(caps)) for value in shares[c][best]):
            continue
        for c in range(len(caps)):
            counts[c].update(shares[c][best])
        chosen.append(best)
        if likeness is not None:
            nearest = np.maximum(nearest, likeness(best))
    return np.array(chosen, np.int64)


def unit(score: np.ndarray) -> np.ndarray:
    """Bring float [C] to [0, 1]; all 0 where they are equal."""
    low, high = score.min(initial=np.inf), score.max(initial=-np.inf)
    return (score - low) / (high - low) if high > low else np.zeros(len(score))


def popularity(snapshot: Snapshot, item: np.ndarray) -> np.ndarray:
    """Return float [C] in [0, 1]: log(1 + training events), over that of the most popular item."""
    most = np.log1p(max(1, snapshot.popularity.max(initial=0)))
    return np.log1p(snapshot.popularity[item]) / most


def freshness(rules: Rules, snapshot: Snapshot, item: np.ndarray) -> np.ndarray:
    """Return float [C] in [0, 1]: 1 for an item of this moment (or later), half of it each half-life; 0 where no date is known."""
    assert rules.fresh_column is not None
    since = _seconds(snapshot.catalog.table[rules.fresh_column].take(pa.array(item)), rules.fresh_column)
    age = np.maximum((time.time() if rules.now is None else rules.now) - since, 0) / DAY
    return np.nan_to_num(0.5 ** (age / rules.half_life))


def capped(rules: Rules, snapshot: Snapshot, item: np.ndarray) -> list[list[tuple[Hashable, ...]]]:
    """Return per cap the values of each candidate: those of a list one by one, none where it is null."""
    columns = []
    for name in rules.caps:
        values = snapshot.catalog.table[name].take(pa.array(item)).to_pylist()
        columns.append([() if value is None else tuple(dict.fromkeys(map(str, value))) if isinstance(value, list) else (str(value),)
                        for value in values])
    return columns


def likeness(rules: Rules, snapshot: Snapshot, item: np.ndarray) -> Callable[[int], np.ndarray]:
    """Return a function: candidate -> float [C] in [0, 1], how like each candidate is to it."""
    if rules.diversity_by == "content":
        content = snapshot.content
        assert content is not None
        vectors = content[item].numpy()
        return lambda one: np.clip(vectors @ vectors[one], 0, 1)
    assert snapshot.codes is not None
    codes = snapshot.codes.ids.codes[item]
    return lambda one: leading(codes, codes[one])


def leading(codes: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Return float [C] in [0, 1]: the share of levels on which codes [C, L] go with `path` [L] from the first on."""
    return np.logical_and.accumulate(codes == path, axis=1).mean(axis=1)


def _seconds(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return float64 seconds since 1970, NaN where unknown."""
    if kinds.is_date(column.type) or kinds.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
        return column.to_numpy().astype(np.float64) / 1000
    if kinds.is_integer(column.type) or kinds.is_floating(column.type):
        return column.cast(pa.float64(), safe=False).to_numpy()
    raise DataError(f"rules.fresh_column {name!r}: want dates, timestamps or seconds since 1970, got {column.type}")


def _mean(score: np.ndarray) -> float:
    return float(score.mean()) if len(score) else 0.0
