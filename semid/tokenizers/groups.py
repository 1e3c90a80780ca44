"""Items by equal codes. Axes: N items, L levels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def groups(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (group int64 [N] of each row, size int64 [number of groups]); rows with equal codes [N, L] share a group.

    Groups are numbered in the lexicographic order of their codes. Without levels all rows share one.
    """
    if codes.shape[1] == 0:
        return np.zeros(len(codes), dtype=np.int64), np.array([len(codes)])
    order = np.lexsort(codes.T[::-1])
    is_new = np.concatenate([[False], (codes[order[1:]] != codes[order[:-1]]).any(axis=1)])
    group = np.empty(len(codes), dtype=np.int64)
    group[order] = np.cumsum(is_new)[: len(codes)]
    return group, np.bincount(group)


def group_sizes(codes: np.ndarray) -> np.ndarray:
    """Return int64 [N]: how many items share each item's codes, itself included."""
    group, size = groups(codes)
    return size[group]


def colliding_groups(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of each group of two or more."""
    group, size = groups(codes)
    order = np.argsort(group, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(size)])
    for g in np.flatnonzero(size > 1):
        yield order[bounds[g] : bounds[g + 1]]
