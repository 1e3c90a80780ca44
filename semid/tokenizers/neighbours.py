"""Do items that are alike share codes? The share of nearest neighbours under one prefix.

Axes: N items, R items asked about, D width, k neighbours, L levels.
"""

from __future__ import annotations

import numpy as np
import torch

from semid.types import SemanticIds

CHUNK = 25_000_000
"""Cosines held at a time: 100 MB."""


def nearest(vectors: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows int64 [R'], neighbour int64 [R', k]): the k nearest others of each row by the cosine, best first, ties to either.

    vectors float32 [N, D]; rows of zeros (items that nobody took, or without text) have no neighbours and are nobody's: such `rows` are
    left out. k is cut to the number of others. O(R N D).
    """
    known = np.flatnonzero(np.abs(vectors).sum(1) > 0)
    place = np.full(len(vectors), -1)
    place[known] = np.arange(len(known))
    rows = rows[place[rows] >= 0]
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors[known]), dim=1)
    k = min(k, len(known) - 1)
    if k < 1 or not len(rows):
        return rows[:0], np.zeros((0, max(k, 0)), np.int64)
    found = []
    for part in torch.from_numpy(place[rows]).split(max(1, CHUNK // len(known))):
        cosine = unit[part] @ unit.T
        cosine[torch.arange(len(part)), part] = -torch.inf
        found.append(cosine.topk(k, dim=1).indices.numpy())
    return rows, known[np.concatenate(found)]


def agreement(ids: SemanticIds, rows: np.ndarray, neighbour: np.ndarray) -> list[float]:
    """Return L shares: of all pairs of a row and its neighbour [R, k], how many share their first 1, 2, ... L codes.

    Of a set, how many share any 1, 2, ... L digits. NaN without pairs.
    """
    if not neighbour.size:
        return [float("nan")] * ids.levels
    equal = ids.codes[rows][:, None] == ids.codes[neighbour]  # [R, k, L]
    equal &= ids.codes[neighbour] >= 0
    if ids.order == "sequence":
        return np.logical_and.accumulate(equal, axis=2).mean((0, 1)).tolist()
    shared = equal.sum(2)
    return [float((shared >= digits).mean()) for digits in range(1, ids.levels + 1)]


def chance(ids: SemanticIds, *, pairs: int = 200_000, seed: int = 0) -> list[float]:
    """Return `agreement` of two different items drawn at random: what codes without any sense would have. Drawn `pairs` times."""
    rng, n = np.random.default_rng(seed), len(ids)
    if n < 2:
        return [float("nan")] * ids.levels
    row = rng.integers(n, size=pairs)
    other = (row + rng.integers(1, n, size=pairs)) % n
    return agreement(ids, row, other[:, None])
