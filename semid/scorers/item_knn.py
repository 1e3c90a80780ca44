"""Item-kNN: what is taken after or before the items of the history, counted in training rows. No learning.

Axes: N items, E events, B rows, P profile items, K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from semid.nn.counting import Weighted, summed
from semid.nn.loop import loop
from semid.scorers.popularity import RecentPopularity
from semid.types import Batch, Interactions

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(i, j, weight): int64, int64, float64, of equal length."""


@dataclass(frozen=True)
class ItemKNN:
    """Directional, recency-weighted co-occurrence.

    Every pair (i, then j, d events later, d <= window) of one user adds d**-0.5 to w[i, j] and `backward` times that to
    w[j, i]. Both sides are divided by (count + shrink)**norm. A history scores j by the sum over its last `profile` items,
    the one `a` events back weighted decay**a. Only the `neighbours` strongest entries of each row are kept.

    neighbour int32 [N, K] (-1 pad), weight float32 [N, K] (0 pad); recency float32 [profile]: decay**a.
    """

    neighbour: Tensor
    weight: Tensor
    recency: Tensor

    @classmethod
    def fit(cls, train: Interactions, *, window: int = 60, backward: float = 0.5, shrink: float = 10.0, norm: float = 0.5,
            profile: int = 20, decay: float = 0.5, neighbours: int = 1000, pairs: Pairs | None = None) -> ItemKNN:
        """Count and prune. O(E window) time; memory O(distinct pairs). pairs: of `following`, if they are there already."""
        n = len(train.items)
        row, column, value = both_ways(following(train, window=window) if pairs is None else pairs, n, backward)
        damp = (train.counts + shrink) ** -norm
        value = value * damp[row] * damp[column]
        order = np.lexsort((column, -value, row))  # by row, strongest first, ties to the lower item
        row, column, value = row[order], column[order], value[order]
        rank = np.arange(len(row)) - np.searchsorted(row, np.arange(n))[row]
        width = int(min(neighbours, rank.max(initial=-1) + 1))
        keep = rank < width
        neighbour = np.full((n, max(width, 1)), -1, np.int32)
        weight = np.zeros((n, max(width, 1)), np.float32)
        neighbour[row[keep], rank[keep]] = column[keep]
        weight[row[keep], rank[keep]] = value[keep]
        return cls(torch.from_numpy(neighbour), torch.from_numpy(weight), torch.ones(profile)).with_decay(decay)

    def with_decay(self, decay: float) -> ItemKNN:
        """Return the scorer that weighs a history otherwise; what was counted is the same."""
        return replace(self, recency=float(decay) ** torch.arange(len(self.recency)))

    def with_items(self, count: int) -> ItemKNN:
        """Return the scorer of `count` more items, which nobody took yet: their scores are 0."""
        grow = lambda table, pad: torch.cat([table, table.new_full((count, table.shape[1]), pad)])
        return replace(self, neighbour=grow(self.neighbour, -1), weight=grow(self.weight, 0))

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N] >= 0; 0 where no history item knows the item."""
        scores = torch.zeros(len(batch), len(self.neighbour))
        _add(batch.item.numpy(), batch.length.numpy(), self.neighbour.numpy(), self.weight.numpy(), self.recency.numpy(), scores.numpy())
        return scores


@dataclass(frozen=True)
class RecentItemKNN:
    """Item-kNN among what is taken at the time: its scores times recent popularity to a power. power: float32 []."""

    knn: ItemKNN
    recent: RecentPopularity
    power: Tensor

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N] >= 0; 0 where no history item knows the item."""
        return self.knn.score(batch) * self.recent.score(batch) ** self.power

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> RecentItemKNN:
        """Put together what `tensors_of` took apart."""
        part = lambda name: {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
        return cls(ItemKNN(**part("knn")), RecentPopularity(**part("recent")), tensors["power"])


@loop()
def _add(item, length, neighbour, weight, recency, scores):
    """Add to scores [B, N] what the last items of each history know."""
    for row in range(len(item)):
        for age in range(min(length[row], len(recency))):
            known = item[row, length[row] - 1 - age]
            for place in range(neighbour.shape[1]):
                if neighbour[known, place] < 0:  # pads come last
                    break
                scores[row, neighbour[known, place]] += weight[known, place] * recency[age]


def following(train: Interactions, *, window: int) -> Pairs:
    """Return each pair (i, then j) once, with the sum of distance**-0.5; an item with itself is left out."""
    n = np.int64(len(train.items))
    item = train.item.astype(np.int64)

    def at(distance: int) -> Weighted:
        first, second = item[:-distance], item[distance:]
        real = (train.user[distance:] == train.user[:-distance]) & (first != second)
        return (first * n + second)[real], np.full(int(real.sum()), distance**-0.5)

    last = min(window, int(np.diff(train.offsets).max(initial=0)) - 1)
    keys, weights = summed(at(distance) for distance in range(1, last + 1))
    return keys // n, keys % n, weights


def both_ways(pairs: Pairs, num_items: int, backward: float) -> Pairs:
    """Add the reverse of every pair with `backward` times its weight. Each pair once, sorted, weights > 0."""
    row, column, weight = pairs
    n = np.int64(num_items)
    keys, weights = summed([(row * n + column, weight), (column * n + row, backward * weight)])
    keep = weights > 0
    return keys[keep] // n, keys[keep] % n, weights[keep]


def spectral_vectors(train: Interactions, *, dim: int = 64, window: int = 60, shrink: float = 10.0, norm: float = 0.5,
                     seed: int = 0) -> np.ndarray:
    """Collaborative vectors float32 [N, min(N, dim)]: truncated SVD of the symmetric item-kNN matrix, columns scaled by sqrt(singular
    value).

    Seconds, deterministic, no neural training. Items without training events get zeros.
    """
    n = len(train.items)
    row, column, value = both_ways(following(train, window=window), n, 1.0)
    damp = (train.counts + shrink) ** -norm
    value = torch.from_numpy((value * damp[row] * damp[column]).astype(np.float32))
    matrix = torch.sparse_coo_tensor(torch.from_numpy(np.stack([row, column])), value, (n, n), check_invariants=False).coalesce()
    dim = min(dim, n)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed accelerators too, which nothing sets back
        u, s, _ = torch.svd_lowrank(matrix, q=min(n, dim + 32), niter=6)
    vectors = (u * s.sqrt())[:, :dim]
    flip = torch.where(vectors[vectors.abs().argmax(0), torch.arange(dim)] < 0, -1.0, 1.0)  # the SVD's signs are arbitrary
    known = np.bincount(row, minlength=n) > 0  # where the rank is low, the SVD fills the rows of the others with noise
    return np.ascontiguousarray((vectors * flip).numpy() * known[:, None], np.float32)
