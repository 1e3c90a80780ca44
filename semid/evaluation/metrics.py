"""Ranking metrics at item level: did the true items stand near the top of each list?

A metric is a pure function of (recommendations, truth, k) and returns float64 [B], one value a case; the mean is taken outside,
so intervals, paired tests and slices are free.

Equal scores. Items that share a semantic ID come out with exactly equal scores, and which of them stands first is an accident
of the catalogue's row order. So a run of equal scores in a list is a **tie group**, and every metric here returns its
*expectation over all orders inside the groups*, exact for any number of targets, also several in one group (the formulas stand
at each function). With `optimistic=True` the targets stand first in their group: what a metric on codes ("SID level") would
report, and an upper bound. Both are equal where no group with a target holds more than its targets.
What remains: a group cut by the end of the list is taken as if it ended there, so ask for lists longer than k
(`evaluate` does, and counts the cases where even that cuts a group: `num_cut`).

Axes: B cases, K list length, T targets, G tie groups that hold a target. Positions count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from semid.errors import DataError
from semid.types import Recommendations

CHUNK = 4_000_000
"""Compared list cells at a time: bounds the working memory to some tens of MB."""


@dataclass(frozen=True)
class Truth:
    """The true items of B cases: int32 [T], distinct within a case; those of case b are `item[offsets[b]:offsets[b+1]]`.

    offsets int64 [B+1]; every case has one item at least.
    """

    item: np.ndarray
    offsets: np.ndarray

    def __post_init__(self):
        if not len(self.offsets) or self.offsets[0] != 0 or self.offsets[-1] != len(self.item):
            raise DataError(f"truth.offsets: want to run from 0 to the {len(self.item)} targets, got {self.offsets}")
        if (self.counts < 1).any():
            row = int(np.argmin(self.counts))
            raise DataError(f"truth: want one target at least in each case, got none in case {row}; drop such cases first")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 [B]: targets per case."""
        return np.diff(self.offsets)

    @cached_property
    def row(self) -> np.ndarray:
        """int64 [T]: the case of each target."""
        return np.repeat(np.arange(len(self)), self.counts)

    def where(self, mask: np.ndarray) -> tuple[Truth, np.ndarray]:
        """Return the targets of bool [T] `mask`, and int64 [B']: the cases that have any of them, renumbered in order."""
        counts = np.bincount(self.row[mask], minlength=len(self))
        rows = np.flatnonzero(counts)
        return Truth(self.item[mask], np.concatenate([[0], np.cumsum(counts[rows])])), rows


@dataclass(frozen=True)
class TieGroups:
    """The G groups of equal score that hold a target, by (row, first). All int64 [G].

    row: the case; first, stop: the positions [first, stop) in its list; targets: how many of them are true (>= 1);
    before: how many true items stand in the groups above it.
    """

    row: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    targets: np.ndarray
    before: np.ndarray


def tie_groups(recommendations: Recommendations, truth: Truth, *, optimistic: bool = False) -> TieGroups:
    """Find the targets in the lists. An item stands in a list once at most. O(T K)."""
    item, score = recommendations.item, recommendations.score
    found = []
    for begin in range(0, len(truth.item), step := max(1, CHUNK // max(1, item.shape[1]))):
        row, target = truth.row[begin : begin + step], truth.item[begin : begin + step]
        case, position = np.nonzero(item[row] == target[:, None])
        row = row[case]
        ours = score[row, position][:, None]
        filled = item[row] >= 0
        first = ((score[row] > ours) & filled).sum(axis=1)
        stop = ((score[row] >= ours) & filled).sum(axis=1)
        found.append(np.stack([row, first, stop]))
    row, first, stop = np.concatenate(found, axis=1) if found else np.zeros((3, 0), dtype=np.int64)
    order = np.lexsort((first, row))
    row, first, stop = row[order], first[order], stop[order]

    new_row = np.diff(row, prepend=-1) != 0
    begin = np.flatnonzero(new_row | (np.diff(first, prepend=-1) != 0))
    targets = np.diff(begin, append=len(row))
    row_begin = np.maximum.accumulate(np.where(new_row, np.arange(len(row)), 0))
    first = first[begin]
    stop = first + targets if optimistic else stop[begin]
    return TieGroups(row[begin], first, stop, targets, begin - row_begin[begin])


def _between(cumulative: np.ndarray, groups: TieGroups) -> np.ndarray:
    """Sum what the positions [first, stop) hold, cut at k, from cumulative sums [k+1]."""
    k = len(cumulative) - 1
    return cumulative[np.minimum(groups.stop, k)] - cumulative[np.minimum(groups.first, k)]


def _expected_gain(recommendations: Recommendations, truth: Truth, cumulative: np.ndarray, optimistic: bool) -> np.ndarray:
    """Return float64 [B]: the expected sum of the gains at the targets' positions.

    cumulative float64 [k+1]: the gains of the first 0, 1, ..., k positions. Each of the g positions of a group holds each of
    its m targets with chance 1/g, and expectations add, so the group brings m/g times its gains.
    """
    groups = tie_groups(recommendations, truth, optimistic=optimistic)
    gain = groups.targets / (groups.stop - groups.first) * _between(cumulative, groups)
    return np.bincount(groups.row, gain, len(truth))


def _expected_hits(recommendations: Recommendations, truth: Truth, k: int, optimistic: bool) -> np.ndarray:
    return _expected_gain(recommendations, truth, np.arange(k + 1.0), optimistic)


def recall(recommendations: Recommendations, truth: Truth, k: int, *, optimistic: bool = False) -> np.ndarray:
    """Return the share of the true items among the first k. With one target this is `hit`."""
    return _expected_hits(recommendations, truth, k, optimistic) / truth.counts


def precision(recommendations: Recommendations, truth: Truth, k: int, *, optimistic: bool = False) -> np.ndarray:
    """Return the share of the first k places that hold a true item; empty places of a short list count as wrong."""
    return _expected_hits(recommendations, truth, k, optimistic) / k


def f1(recommendations: Recommendations, truth: Truth, k: int, *, optimistic: bool = False) -> np.ndarray:
    """Return the harmonic mean of precision and recall: 2 hits / (k + number of targets), linear in the hits."""
    return 2 * _expected_hits(recommendations, truth, k, optimistic) / (k + truth.counts)


def ndcg(recommendations: Recommendations, truth: Truth, k: int, *, optimistic: bool = False) -> np.ndarray:
    """Return the discounted gain, 1 / log2(position + 2) for each true item, over that of the best possible list.

    Source: Järvelin & Kekäläinen, TOIS 2002, with binary gains.
    """
    cumulative = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    ideal = cumulative[np.minimum(truth.counts, k)]
    return _expected_gain(recommendations, truth, cumulative, optimistic) / ideal


def hit(recommendations: Recommendations, truth: Truth, k: int, *, optimistic: bool = False) -> np.ndarray:
    """Return 1 where any true item stands among the first k.

    A group of g with m targets that has c < g places above the cut misses them all with chance C(g-m, c) / C(g, c).
    """
    groups = tie_groups(recommendations, truth, optimistic=optimistic)
    places = np.clip(np.minimum(groups.stop, k) - groups.first, 0, None)
    size = groups.stop - groups.first
    miss = np.ones(len(groups.row))
    for j in range(int(places.max(initial=0))):
        miss *= np.where(j < places, np.clip(size - groups.targets - j, 0, None) / np.maximum(size - j, 1), 1)
    missed = np.ones(len(truth))
    np.multiply.at(missed, groups.row, miss)
    return 1 - missed


def mrr(recommendations: Recommendations, truth: Truth, k: int, *, optimistic: bool = False) -> np.ndarray:
    """Return 1 / (position + 1) of the first true item, 0 where none is among the first k.

    Only a case's first group matters. Of g places with m targets the first target stands at place j with chance
    C(g-1-j, m-1) / C(g, m), which starts at m/g and goes on by the factor (g-m-j) / (g-1-j).
    """
    groups = tie_groups(recommendations, truth, optimistic=optimistic)
    top = groups.before == 0
    row, first, size, targets = groups.row[top], groups.first[top], (groups.stop - groups.first)[top], groups.targets[top]
    value, chance = np.zeros(len(truth)), targets / size
    for j in range(int((size - targets).max(initial=-1)) + 1):
        value[row] += np.where(first + j < k, chance / (first + j + 1), 0)
        chance = chance * np.clip(size - targets - j, 0, None) / np.maximum(size - 1 - j, 1)
    return value


def average_precision(recommendations: Recommendations, truth: Truth, k: int, *, optimistic: bool = False) -> np.ndarray:
    """Return the mean, over all true items, of the precision at their position (0 beyond k). Its mean over cases is MAP.

    The place p of a group [a, a + g) with m targets holds one with chance m/g; then the expected number of targets from the top
    to p is 1 + those of earlier groups + (p - a) (m - 1) / (g - 1).
    """
    groups = tie_groups(recommendations, truth, optimistic=optimistic)
    size = groups.stop - groups.first
    slope = (groups.targets - 1) / np.maximum(size - 1, 1)
    position = np.arange(k)
    inverse = _between(np.concatenate([[0], np.cumsum(1 / (position + 1))]), groups)
    ratio = _between(np.concatenate([[0], np.cumsum(position / (position + 1))]), groups)
    value = groups.targets / size * ((1 + groups.before - groups.first * slope) * inverse + slope * ratio)
    return np.bincount(groups.row, value, len(truth)) / truth.counts


RANKING = {"recall": recall, "hit": hit, "ndcg": ndcg, "mrr": mrr, "map": average_precision, "precision": precision, "f1": f1}
"""Every ranking metric by the name that tables print before `@k`."""
