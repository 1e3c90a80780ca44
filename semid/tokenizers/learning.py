"""Training a network on item vectors: batches, a standardised input, and one call of the training loop.

Axes: N items, B rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from semid.protocols import Batches, Objective
from semid.training.fit import Optimization, Validation, fit
from semid.training.log import Log
from semid.types import Loss, SemanticIds

Network = TypeVar("Network", bound=nn.Module)

MEASURED = 65_536
"""Items whose codes are looked at during training."""


@dataclass(frozen=True)
class VectorBatch:
    """item int64 [B]: rows of the catalogue; vectors float32 [B, D]: theirs."""

    item: Tensor
    vectors: Tensor

    def to(self, device) -> VectorBatch:
        """Return the batch on another device."""
        return VectorBatch(self.item.to(device), self.vectors.to(device))


class VectorBatches:
    """All items in a new order every epoch, in batches of equal size (to one item), at most `batch_size`: where the other items of
    a batch are the negatives, each batch has as many."""

    def __init__(self, vectors: Tensor, *, batch_size: int, seed: int):
        self.vectors, self.seed = vectors, seed
        self.steps_per_epoch = -(-len(vectors) // batch_size)

    def at(self, step: int) -> VectorBatch:
        """Return batch number `step`, 0-based over epochs; the same rows each time."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.vectors))
        item = torch.from_numpy(np.array_split(order, self.steps_per_epoch)[position])
        return VectorBatch(item, self.vectors[item])


class Standardizer(nn.Module):
    """Shift by the mean row and scale by one number, so that elements have mean square 1.

    One scale for all columns keeps angles and the shares of views. Unit-length input of width D would otherwise give
    element-mean losses of about 1/D, and loss weights that mean something else for every encoder.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def adapt(self, vectors: Tensor) -> None:
        """Measure shift and scale on float32 [N, D]."""
        self.shift.copy_(vectors.mean(0))
        self.scale.copy_((vectors - self.shift).square().mean().sqrt().clamp_min(1e-12))

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors - self.shift) / self.scale


def learn(build: Callable[[torch.Generator], Network], objective: Callable[[Network, VectorBatch], Loss], vectors: Tensor,
          encode: Callable[[Network, Tensor], SemanticIds], *, steps: int, batch_size: int, optimization: Optimization,
          log: Log | None, checkpoint: Path | None, seed: int) -> Network:
    """Return the network that `build` makes, trained on float32 [N, D] vectors; same seed, same bits on CPU.

    Ten times on the way `encode` gives the items their codes; the weights with the most distinct codes are kept, as
    LC-Rec and LETTER do, but none of the first half: codebooks start as clusters of what a random network makes of the items, many
    of whose codes are distinct and say nothing. checkpoint: an existing file is resumed from.
    """
    seen = vectors[:MEASURED]

    def measure() -> dict[str, float]:
        ids = encode(network, seen)
        used = [len(np.unique(ids.codes[:, level])) / size for level, size in enumerate(ids.sizes)]
        distinct = ids.num_distinct / len(seen)
        return {"codes_used": min(used), "collision_rate": 1 - distinct, "distinct": distinct}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(torch.Generator().manual_seed(seed))
        # the loop reads nothing of a batch but its device; batches of vectors pass as batches of histories do
        batches = cast(Batches, VectorBatches(vectors, batch_size=batch_size, seed=seed))
        fit(network, cast(Objective, objective), batches, steps=steps, optimization=optimization,
            validation=Validation(measure, every=max(1, steps // 10), select="distinct", since=steps // 2),
            checkpoint=checkpoint, resume=checkpoint is not None, log=log, stage="tokenizer")
    return network
