"""A trained scorer's probabilities, so that it can be pooled with others and asked about catalogues that have grown.

Axes: B rows, N items.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from semid.protocols import Scorer
from semid.types import Batch


class Shares(nn.Module):
    """The softmax of `scorer`, an `nn.Module` that scores `known` items; `added` more came later: it gives them 0 and doesn't read them."""

    def __init__(self, scorer: nn.Module, known: int, added: int = 0):
        super().__init__()
        self.scorer, self.known, self.added = scorer, known, added

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N], rows summing to 1. A later item in a history is read as nothing, like an empty place."""
        item = batch.item.masked_fill(batch.item >= self.known, -1)
        scores = cast("Scorer", self.scorer).score(replace(batch, item=item))
        return F.pad(scores.softmax(1), (0, self.added))

    def with_items(self, count: int) -> Shares:
        return Shares(self.scorer, self.known, self.added + count)
