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
        """Return float32 [B, N], rows summing to 1, or of zeros where no item of the history is known."""
        is_left_out = (batch.item < 0) | (batch.item >= self.known)
        order = is_left_out.int().argsort(dim=1, stable=True)
        known = replace(batch, item=batch.item.masked_fill(is_left_out, -1).gather(1, order), time=batch.time.gather(1, order),
                        length=(~is_left_out).sum(1))
        share = cast("Scorer", self.scorer).score(known).softmax(1).masked_fill(known.length[:, None] == 0, 0.0)
        return F.pad(share, (0, self.added))

    def with_items(self, count: int) -> Shares:
        return Shares(self.scorer, self.known, self.added + count)
