"""Sums of weights by key, where there are more weights than memory would hold: pairs of items that users have taken."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Weighted = tuple[np.ndarray, np.ndarray]
"""(key int64 [n], weight float64 [n])."""

MANY = 50_000_000
"""Weights that wait until they are added up."""


def summed(parts: Iterable[Weighted]) -> Weighted:
    """Return the distinct keys of all parts, rising, and the sums of their weights, which are added in the order they come.

    Memory is bounded by `MANY` and twice the distinct keys.

    >>> summed([(np.array([4, 2, 4]), np.array([1.0, 1.0, 0.5])), (np.array([2]), np.array([3.0]))])
    (array([2, 4]), array([4. , 1.5]))
    """
    waiting: list[Weighted] = [(np.empty(0, np.int64), np.empty(0))]  # sums so far, then what comes after them
    count, most = 0, MANY
    for part in parts:
        waiting.append(part)
        count += len(part[0])
        if count > most:
            waiting, count = [_merged(waiting)], 0
            most = max(MANY, len(waiting[0][0]))
    return _merged(waiting)


def _merged(parts: list[Weighted]) -> Weighted:
    keys, slot = np.unique(np.concatenate([key for key, _ in parts]), return_inverse=True)
    return keys, np.bincount(slot, np.concatenate([weight for _, weight in parts]), minlength=len(keys))
