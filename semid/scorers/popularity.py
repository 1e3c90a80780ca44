"""Popularity: the same list for everybody, items by their training events."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semid.types import Batch, Interactions


@dataclass(frozen=True)
class Popularity:
    """counts float32 [N]: training events of each item."""

    counts: Tensor

    @classmethod
    def fit(cls, train: Interactions) -> Popularity:
        return cls(torch.from_numpy(train.counts).float())

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N], equal rows."""
        return self.counts.expand(len(batch), -1)
