"""Parallel generator: all digits of the next item's code at once, each by a head of its own; the digits have no order.

One pass over the history answers a request: the log-probability of an item is the sum over its digits, so that a code of 32 digits
costs no more steps than one of 4. No item is excluded while digits are predicted; the lists of real items are made by `nn.digit_sum`
(every item) or `decoding.graph` (along a graph of like items).

Source: RPG, Hou et al., KDD 2025, arXiv 2506.05781: codes read as one vector an item, residual heads, cosines over a temperature.
Deviations: (1) an item's vector is the sum of its digits' vectors, not the mean, and is scaled as `history.ItemInput` says, which may add
an id embedding and content; (2) the transformer is `nn.transformer`'s, the paper's is GPT-2's.

Axes: B rows, S positions, D width, L digits, V codes of the widest digit, M supervised positions, N items, F content width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.generators.history import HistoryReader
from semid.nn.digit_sum import digit_sum
from semid.nn.linear import Linear
from semid.types import Batch, SemanticIds


class Parallel(HistoryReader):
    """p_l(code) = softmax over the digit's codes of cos(head_l(user), code vector) / temperature; head_l(x) = x + silu(W_l x + b_l).

    W and b start at zero: every head begins with the user itself. ids: codes of N items without padding, in any order.
    is_tied: a code is scored by the vector with which it is read. start, content, has_time_gaps: see `HistoryReader`.
    """

    codes: Tensor
    outside: Tensor

    def __init__(self, ids: SemanticIds, *, width: int = 128, layers: int = 2, heads: int = 2, feedforward: int = 256,
                 dropout: float = 0.5, max_length: int = 50, start: Tensor | None = None, content: Tensor | None = None,
                 has_time_gaps: bool = True, temperature: float = 0.07, is_tied: bool = True):
        if (ids.codes < 0).any():
            raise ConfigError("parallel generator: want codes of one length, got padded codes; use a collision policy without suffixes")
        super().__init__(ids, width=width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout, max_length=max_length,
                         start=start, content=content, temporal=None, has_time_gaps=has_time_gaps)
        self.register_buffer("codes", torch.from_numpy(ids.codes), persistent=False)
        self.register_buffer("outside", torch.arange(max(ids.sizes)) >= torch.tensor(ids.sizes)[:, None], persistent=False)  # [L, V]
        self.temperature = temperature
        self.head = Linear(width, ids.levels * width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.output = None if is_tied else nn.Parameter(torch.randn(sum(ids.sizes), width) * 0.02)

    def code_vectors(self) -> tuple[Tensor, ...]:
        """Return for each digit float32 [sizes[l], D]: unit vectors of its codes."""
        table = self.input.code.weight if self.output is None else self.output
        return F.normalize(table.float(), dim=1).split(self.sizes)

    def queries(self, user: Tensor) -> Tensor:
        """User states [M, D] to float32 [M, L, D], which score a digit's codes by products with their unit vectors."""
        hidden = user[:, None] + F.silu(self.head(user)).unflatten(1, (len(self.sizes), -1))
        return F.normalize(hidden.float(), dim=2) / self.temperature

    def supervised_queries(self, batch: Batch) -> Tensor:
        """Return `queries` at the supervised positions, float32 [M, L, D]."""
        where = torch.nonzero(batch.target.flatten() >= 0).squeeze(1)
        return self.queries(self.states(batch).flatten(0, 1)[where])

    def logits(self, batch: Batch) -> Tensor:
        """Return float32 [M, L, V] at the supervised positions; -inf beyond a digit's size. No digit depends on another."""
        return self._logits(self.supervised_queries(batch))

    def level_logits(self, batch: Batch) -> Tensor:
        """Return float32 [B, L, V] after each history; -inf beyond a digit's size."""
        return self._logits(self.queries(self.user(batch)))

    def _logits(self, queries: Tensor) -> Tensor:
        width = max(self.sizes)
        tables = [F.pad(table, (0, 0, 0, width - len(table))) if len(table) < width else table for table in self.code_vectors()]
        logits = torch.einsum("mld,lvd->mlv", queries, torch.stack(tables)).float()
        return logits.masked_fill(self.outside, -torch.inf) if min(self.sizes) < width else logits

    def log_probabilities(self, batch: Batch) -> Tensor:
        """Return float32 [B, L, V]: log p of each code of each digit after each history."""
        return torch.log_softmax(self.level_logits(batch), dim=2)

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N]: the sum over an item's digits of their log-probabilities."""
        return digit_sum(self.log_probabilities(batch), self.codes)
