"""What lies under a prefix of codes: items of one kind? room for new ones?

Axes: N items, L levels.
"""

from __future__ import annotations

import numpy as np

from semid.tokenizers.groups import group_sizes, groups
from semid.types import SemanticIds


def purity(ids: SemanticIds, label: np.ndarray) -> list[float]:
    """Return L chances that two items which share their first 1, 2, ... L codes are of one category.

    label: int [N], the category of an item, -1 = unknown, left out. Mean over the items that share the prefix with another one of the
    share of those others that have its category: prefixes of one item say nothing and don't count, so codes without any sense have
    `chance_purity` at every length, however small their prefixes. NaN where no two items share.
    """
    known = label >= 0
    codes, label = ids.codes[known], label[known]
    return [_same_share(groups(codes[:, :length])[0], label) for length in range(1, ids.levels + 1)]


def chance_purity(label: np.ndarray) -> float:
    """Return the chance that two items drawn at random are of one category. label as for `purity`."""
    label = label[label >= 0]
    return _same_share(np.zeros(len(label), np.int64), label)


def _same_share(group: np.ndarray, label: np.ndarray) -> float:
    size = np.bincount(group)[group]
    same = group_sizes(np.stack([group, label], axis=1))
    shares = size > 1
    return float(((same - 1)[shares] / (size - 1)[shares]).mean()) if shares.any() else float("nan")


def head_room(ids: SemanticIds) -> dict[str, float]:
    """Return how many last codes are free under the prefixes of all codes but the last, as the items see it.

    least and median: of the free codes under an item's own prefix, over items; full: share of the items whose prefix has none left, where
    a new item like them has no place.
    """
    prefix, size = groups(ids.codes[:, :-1])
    distinct = np.unique(np.column_stack([prefix, ids.codes[:, -1]]), axis=0)
    free = ids.sizes[-1] - np.bincount(distinct[:, 0], minlength=len(size))
    mine = free[prefix]
    return {"least": int(mine.min()), "median": float(np.median(mine)), "full": float((mine == 0).mean())}
