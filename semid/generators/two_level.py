"""Two-level generator: a causal model over items, and a small decoder that writes the codes of the next one.

The temporal model reads one vector per history item, so its sequence is L times shorter than flattened codes and all
positions train in one pass. A beam costs L steps of the small depth decoder alone; the history is read once.

Axes: B rows, S positions, D width, L levels, V codes in the widest level, M supervised positions, R beam rows, F view width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from semid.nn.dropout import Dropout
from semid.nn.transformer import CausalTransformer, last_state
from semid.types import Batch, SemanticIds


@dataclass(frozen=True)
class DepthState:
    """user float [R, D]; prefix float [R, D], the sum of the chosen codes' embeddings; level: how many were chosen."""

    user: Tensor
    prefix: Tensor
    level: int

    def select(self, rows: Tensor) -> DepthState:
        return replace(self, user=self.user[rows], prefix=self.prefix[rows])


class ItemInput(nn.Module):
    """The vector of an item as the history shows it: id embedding + its codes' embeddings + projected content.

    Any of the three may be left out; without the id part the model reads new items as well as old ones.
    content: float32 [N, F] or None; start: float32 [N, D] initial id embeddings or None.
    """

    def __init__(self, ids: SemanticIds, width: int, *, use_id: bool, use_codes: bool, content: Tensor | None,
                 start: Tensor | None, dropout: float):
        super().__init__()
        self.item = nn.Embedding(len(ids), width) if use_id else None
        if self.item is not None:
            nn.init.normal_(self.item.weight, std=0.02)
            if start is not None:
                with torch.no_grad():
                    self.item.weight.copy_(start)
        self.code = nn.Embedding(sum(ids.sizes), width) if use_codes else None
        if self.code is not None:
            nn.init.normal_(self.code.weight, std=0.02)
        self.project = nn.Linear(content.shape[1], width) if content is not None else None
        if content is not None:
            self.register_buffer("content", content)
        self.dropout = Dropout(dropout)

    def forward(self, item: Tensor, tokens: Tensor) -> Tensor:
        """item int64 [...] (-1 pads give row 0, which causality hides), tokens int64 [..., L] -> [..., D]."""
        item = item.clamp_min(0)
        total: Tensor | float = 0.0
        if self.item is not None:
            total = total + self.item(item)
        if self.code is not None:
            total = total + self.code(tokens).sum(-2)
        if self.project is not None:
            # Project each distinct item of the batch once: F is several times D.
            distinct, slot = item.unique(return_inverse=True)
            total = total + self.project(self.dropout(self.content[distinct]))[slot]
        return total


class TwoLevel(nn.Module):
    """Causal transformer over item vectors, then per level `norm(user + prefix + mlp([user, prefix])) . code^T`.

    ids: unpadded codes of N items. `input` and `output` code tables are separate parameters.
    """

    def __init__(self, ids: SemanticIds, *, width: int = 128, layers: int = 2, heads: int = 2, feedforward: int = 256,
                 dropout: float = 0.4, max_length: int = 50, use_id: bool = True, use_codes: bool = True,
                 content: Tensor | None = None, start: Tensor | None = None, time_gaps: bool = False):
        super().__init__()
        self.input = ItemInput(ids, width, use_id=use_id, use_codes=use_codes, content=content, start=start, dropout=0.2)
        self.gap = nn.Embedding(12, width) if time_gaps else None
        if self.gap is not None:
            nn.init.normal_(self.gap.weight, std=0.02)
        self.temporal = CausalTransformer(width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout,
                                          max_length=max_length)
        self.depth = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), Dropout(dropout), nn.Linear(2 * width, width))
            for _ in ids.sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in ids.sizes)
        self.output = nn.ParameterList(nn.Parameter(torch.randn(size, width) * 0.02) for size in ids.sizes)
        self.prefix = nn.Embedding(sum(ids.sizes), width)
        nn.init.normal_(self.prefix.weight, std=0.02)
        self.sizes = ids.sizes
        self.register_buffer("offset", torch.tensor(np.concatenate([[0], np.cumsum(ids.sizes)[:-1]])))
        self.register_buffer("codes", torch.empty(0), persistent=False)
        self.set_ids(ids)

    def set_ids(self, ids: SemanticIds) -> None:
        """Use other codes for the same items (or more items, where no id embedding is read)."""
        self.codes = torch.from_numpy(ids.codes.astype(np.int64)).to(self.offset.device)

    def states(self, batch: Batch) -> Tensor:
        """Return [B, S, D]: what is known of the user after each position."""
        codes = self.codes[batch.item.clamp_min(0)]
        x = self.input(batch.item, codes + self.offset)
        if self.gap is not None:
            x = x + self.gap(gap_bucket(batch.time))
        return self.temporal(x)

    def level(self, level: int, user: Tensor, prefix: Tensor) -> Tensor:
        """Logits of one level. user, prefix [M, D] -> float32 [M, sizes[level]]."""
        hidden = self.norms[level](user + prefix + self.depth[level](torch.cat([user, prefix], dim=-1)))
        return (hidden @ self.output[level].T.to(hidden.dtype)).float()

    def logits(self, batch: Batch) -> Tensor:
        """Return float32 [M, L, V], teacher forced; -inf beyond a level's size."""
        supervised = batch.target >= 0
        user = self.states(batch)[supervised]
        tokens = self.codes[batch.target[supervised]] + self.offset  # [M, L]
        out = []
        prefix = torch.zeros_like(user)
        for level in range(len(self.sizes)):
            out.append(self._wide(self.level(level, user, prefix)))
            prefix = prefix + self.prefix(tokens[:, level])
        return torch.stack(out, dim=1)

    def start(self, batch: Batch) -> DepthState:
        user = last_state(self.states(batch), batch.length)
        return DepthState(user, torch.zeros_like(user), 0)

    def step(self, state: DepthState, codes: Tensor | None) -> tuple[Tensor, DepthState]:
        if codes is not None:
            prefix = state.prefix + self.prefix(codes + self.offset[state.level])
            state = replace(state, prefix=prefix, level=state.level + 1)
        return self._wide(self.level(state.level, state.user, state.prefix)), state

    def _wide(self, logits: Tensor) -> Tensor:
        missing = max(self.sizes) - logits.shape[-1]
        return nn.functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits


def gap_bucket(time: Tensor) -> Tensor:
    """Bucket the seconds since the event before: 0 = first or same day, then a bucket per doubling of days. int64 [B, S] in [0, 11]."""
    days = torch.zeros_like(time)
    days[:, 1:] = ((time[:, 1:] - time[:, :-1]).clamp_min(0)) // 86_400
    return (days.float() + 1).log2().floor().long().clamp_max(10) + (days > 0).long() * 0
