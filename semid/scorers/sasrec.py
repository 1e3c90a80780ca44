"""SASRec: a causal transformer over item ids, scored against every item. The strong baseline of every table.

Axes: B rows, S positions, D width, N items.
Source: Kang and McAuley, ICDM 2018, arXiv 1808.09781; losses see `objectives/next_item.py`.
With `temporal=HSTU(...)` and `is_cosine` it is the retrieval model of `recipes/hstu.py`: only the layers differ.
Deviations: clean pre-norm blocks (the original normalises queries only), GELU, and the table that scores. One table that reads and
scores (the paper's) ranks items near the last one, and so finds much, but ranks the items just taken too high; a table of its own
(`is_tied` false, gSASRec's) does the reverse. `offset` lies between: what an item is scored by may leave what it is read by, slowly.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.nn.transformer import CausalTransformer, last_state
from semid.types import Batch


class SASRec(nn.Module):
    """is_tied: one table reads and scores items; offset: times a vector of its own, zero at the start, is added to what an item is
    then scored by (Adam's steps are of one size whatever the gradient, so this is its speed beside the table's). is_cosine: scores are
    cosines, as a loss over cosines needs. temporal: other layers than the transformer's, called with (vectors [B, S, D], time, length,
    request) as `nn.hstu.HSTU` is."""

    def __init__(self, num_items: int, *, width: int = 128, layers: int = 2, heads: int = 2, feedforward: int = 256,
                 dropout: float = 0.5, max_length: int = 50, is_tied: bool = True, offset: float = 0.0,
                 is_cosine: bool = False, temporal: nn.Module | None = None):
        super().__init__()
        self.item = nn.Embedding(num_items, width)
        nn.init.normal_(self.item.weight, std=0.02)
        self.output = None if is_tied else nn.Parameter(torch.randn(num_items, width) * 0.02)
        self.offset, self.scale = nn.Parameter(torch.zeros(num_items, width)) if is_tied and offset else None, offset
        self.is_cosine = is_cosine
        self.temporal = temporal or CausalTransformer(width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout,
                                                      max_length=max_length)

    def states(self, batch: Batch) -> Tensor:
        """Return [B, S, D]: the user after each position. Input vectors are multiplied by sqrt(D), as the paper's code does: items
        then outweigh positions from the first step, and recall is up by a tenth (dev/LOG.md). An empty history reads a zero vector."""
        x = self.item(batch.item.clamp_min(0)) * self.item.embedding_dim**0.5
        x = x.masked_fill(batch.item[..., None] < 0, 0.0)
        return self.temporal(x, batch.time, batch.length, batch.request)

    def item_vectors(self) -> Tensor:
        """Return [N, D]: what a state is multiplied with."""
        if self.output is not None:
            return self.output
        return self.item.weight if self.offset is None else self.item.weight + self.scale * self.offset

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N]: dot products or cosines."""
        state = last_state(self.states(batch), batch.length)
        if self.is_cosine:
            return (F.normalize(state, dim=1) @ F.normalize(self.item_vectors(), dim=1).T).float()
        if self.offset is None:
            return (state @ self.item_vectors().T).float()
        return (state @ self.item.weight.T + self.scale * (state @ self.offset.T)).float()  # no third table for each request
