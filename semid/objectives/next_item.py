"""Losses of models that score items: which item comes after each supervised position?

A model has `states(batch) -> [B, S, D]` and `item_vectors() -> [N, D]`. Axes: M supervised positions, D width, K negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semid.errors import DataError
from semid.nn.losses import gbce, linear_cross_entropy, sampled_softmax
from semid.types import Batch, Loss


def _supervised(model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (hidden [M, D], target int64 [M])."""
    where = torch.nonzero(batch.target.flatten() >= 0).squeeze(1)
    return model.states(batch).flatten(0, 1)[where], batch.target.flatten()[where]


@dataclass(frozen=True)
class FullSoftmax:
    """Cross-entropy over all items; the default up to 50,000 items. smoothing in [0, 1): the share of a target spread over all."""

    smoothing: float = 0.0

    def __call__(self, model, batch: Batch) -> Loss:
        hidden, target = _supervised(model, batch)
        return Loss(linear_cross_entropy(hidden, model.item_vectors(), target, smoothing=self.smoothing))


@dataclass(frozen=True)
class SampledSoftmax:
    """Cross-entropy over the target and `negatives` uniform items, cosine over temperature .05 (HSTU's recipe).

    is_shared: one draw for all positions of the batch, or (HSTU's way, and slower) one for each.
    """

    negatives: int = 512
    temperature: float = 0.05
    is_shared: bool = True

    def __call__(self, model, batch: Batch) -> Loss:
        hidden, target = _supervised(model, batch)
        table = model.item_vectors()
        shape = (self.negatives,) if self.is_shared else (len(target), self.negatives)
        negatives = torch.randint(len(table), shape, device=target.device)
        return Loss(sampled_softmax(hidden, table, target, negatives, temperature=self.temperature, cosine=True))


@dataclass(frozen=True)
class GBCE:
    """Generalised BCE with `negatives` uniform items a position (gSASRec). calibration 0 is plain BCE."""

    negatives: int = 256
    calibration: float = 0.75

    def __call__(self, model, batch: Batch) -> Loss:
        hidden, target = _supervised(model, batch)
        table = model.item_vectors()
        if len(table) < 2:
            raise DataError("gbce: want two items at least, a target and another one, got one; read more items")
        drawn = torch.randint(len(table) - 1, (len(target), self.negatives), device=target.device)
        drawn = drawn + (drawn >= target[:, None])  # uniform over all items but the target
        positive = (hidden * table[target]).sum(1)
        negative = torch.einsum("md,mkd->mk", hidden, table[drawn].to(hidden.dtype))
        return Loss(gbce(positive.float(), negative.float(), num_items=len(table), calibration=self.calibration))
