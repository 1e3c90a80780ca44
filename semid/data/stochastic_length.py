"""Stochastic length: train on random short subsequences of long histories, so that attention costs less than their square.

Source: Zhai et al. (HSTU), ICML 2024, arXiv 2402.17152, section 3.2, equation 4. Deviation: which items are kept is the
authors' choice by features, not printed in full; here an item's chance rises with how recent it is.
Axes: B rows, S positions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import pad

from semid.errors import ConfigError
from semid.protocols import Batches
from semid.types import Batch


class StochasticLength:
    """Batches whose histories of n items are shortened to max_length^(alpha/2) with probability 1 - max_length^alpha / n^2.

    batches: whole histories of at most max_length items, every position supervised. alpha in (1, 2], 2 changes nothing: the
    cost of attention is O(max_length^alpha) in expectation. A kept position is asked for the next kept item; the newest one
    is always kept, with its own target. As the batches, a pure function of the step.
    """

    def __init__(self, batches: Batches, *, max_length: int, alpha: float, seed: int):
        if not 1 < alpha <= 2:
            raise ConfigError(f"stochastic length: want alpha in (1, 2], got {alpha}; 2 keeps whole histories")
        self.batches, self.max_length, self.alpha, self.seed = batches, max_length, alpha, seed
        self.steps_per_epoch = batches.steps_per_epoch

    def at(self, step: int) -> Batch:
        batch = self.batches.at(step)
        rng = np.random.default_rng((self.seed, step))
        kept = [keep(int(n), self.max_length, self.alpha, rng) for n in batch.length]
        length = torch.tensor([len(places) for places in kept])
        width = int(length.max())
        place = torch.from_numpy(np.stack([np.pad(places, (0, width - len(places))) for places in kept]))  # [B, S']
        outside = torch.arange(width) >= length[:, None]
        take = lambda tensor, padding: tensor.gather(1, place).masked_fill(outside, padding)
        item, last = take(batch.item, -1), (length - 1)[:, None]
        # The kept item after each position; a batch's own targets only where its newest item is.
        target = pad(item[:, 1:], (0, 1), value=-1).scatter(1, last, batch.target.gather(1, batch.length[:, None] - 1))
        action = None if batch.action is None else take(batch.action, -1)
        return replace(batch, item=item, time=take(batch.time, 0), action=action, target=target, length=length)


def keep(n: int, max_length: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Return the rising places int64 that stay of a history of n items; the last one, n - 1, always does."""
    short = int(max_length ** (alpha / 2))
    if n <= short or rng.random() < max_length**alpha / n**2:
        return np.arange(n)
    recent = np.arange(1, n) / (n * (n - 1) / 2)  # the chance of the place i is proportional to i + 1
    return np.append(np.sort(rng.choice(n - 1, size=short - 1, replace=False, p=recent)), n - 1)
