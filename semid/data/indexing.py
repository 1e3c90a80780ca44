"""Training batches of ColaRec: histories that are sets, and for each target the items that it is compared with.

A pure function of the step, as those of `data.batch`. Axes: B rows, N items, L levels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from semid.data.pairs import SetBatches
from semid.errors import DataError
from semid.types import Batch


class IndexingBatches:
    """The rows of `SetBatches`, each with two more items and three users.

    extra["rejected"] int64 [B, 1]: an item that the user has not and whose codes begin otherwise than the target's, each equally likely;
    extra["alike"] int64 [B]: another item whose codes but the last are the target's, the target itself where there is none;
    extra["takers"] int64 [B, 3]: users who took the target, the rejected and the alike item in training, -1 where nobody did.
    prefix: integer [N, L - 1], all codes but the last.
    """

    def __init__(self, batches: SetBatches, prefix: np.ndarray, *, seed: int):
        self.batches, self.pairs, self.seed = batches, batches.pairs, seed
        self.steps_per_epoch = batches.steps_per_epoch
        _, self.group = np.unique(prefix, axis=0, return_inverse=True)
        self.group = self.group.reshape(-1)  # [N]
        self.size = np.bincount(self.group)
        self.begin = np.cumsum(self.size) - self.size
        self.member = np.argsort(self.group, kind="stable")  # [N], group after group
        self.place = np.empty(len(self.group), np.int64)
        self.place[self.member] = np.arange(len(self.group))
        self.taker = self.pairs.user[np.argsort(self.pairs.item, kind="stable")]  # [E], item after item
        self.counts = np.bincount(self.pairs.item, minlength=len(self.group))
        self.first = np.cumsum(self.counts) - self.counts
        most, widest = int(np.diff(self.pairs.offsets).max()), int(self.size.max())
        if most + widest >= len(self.group):
            raise DataError(f"colarec: want an item outside each user's history and outside the target's cluster, but a user has {most} of "
                            f"{len(self.group)} items and a cluster {widest}; give more items, or codes of more clusters")

    def at(self, step: int) -> Batch:
        """Return batch number `step`, 0-based over epochs; the same bits each time."""
        batch = self.batches.at(step)
        rng = np.random.default_rng((self.seed, step, 1))
        target = batch.target[batch.target >= 0].numpy()
        rejected = self._rejected(batch.user.numpy(), target, rng)
        alike = self._alike(target, rng)
        takers = self._takers(np.stack([target, rejected, alike], axis=1), rng)
        return replace(batch, extra={**batch.extra, "rejected": torch.from_numpy(rejected[:, None]), "alike": torch.from_numpy(alike),
                                     "takers": torch.from_numpy(takers)})

    def _rejected(self, user: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn = self.pairs.negatives(user, 1, rng)[:, 0]
        while (near := self.group[drawn] == self.group[target]).any():
            drawn[near] = self.pairs.negatives(user[near], 1, rng)[:, 0]
        return drawn

    def _alike(self, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        group = self.group[target]
        size, begin = self.size[group], self.begin[group]
        ahead = np.where(size > 1, 1 + rng.integers(np.maximum(size - 1, 1)), 0)
        return self.member[begin + (self.place[target] - begin + ahead) % size]

    def _takers(self, item: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        counts = self.counts[item]
        drawn = self.first[item] + rng.integers(np.maximum(counts, 1))
        return np.where(counts > 0, self.taker[np.minimum(drawn, len(self.taker) - 1)], -1)
