"""Light heads on one state, each for the futures that carry one human prior, and the contrast that trains them.

Source: "Don't Waste It: Guiding Generative Recommenders with Structured Human Priors via Multi-head Decoding", arXiv 2511.10492.
Axes: M states, D width, H heads, C priors (tags of items), G segments of the horizon, P future items, N items, K negatives, J pairs of
a state and a future item.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.nn.linear import Linear

Composition = Literal["hierarchical", "multiplicative", "additive"]

TWIN = 0.99
"""Cosine of two items' vectors from which they are taken for the same: no negatives of each other."""


class ResidualHead(nn.Module):
    """x + SiLU(W x + b). start: zero (the identity until it learns), normal (cut at two spreads of .02) or torch's own for W; b is zero."""

    def __init__(self, width: int, start: Literal["zero", "normal", "linear"]):
        super().__init__()
        self.map = Linear(width, width)
        if start == "zero":
            nn.init.zeros_(self.map.weight)
        elif start == "normal":
            nn.init.trunc_normal_(self.map.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.map(x))


class PriorHeads(nn.Module):
    """H heads over C priors and G segments of the horizon, short term first. A head is for `prior` and `segment`, int64 [H], -1 = any.

    multiplicative: C G heads of their own. additive: G heads for the segments, whatever the prior, then C for the priors, whatever the
    segment. hierarchical (the paper's proposal): f_c of each prior, then g_cs(f_c(h) + e_s), so that the horizons of a prior share its
    first step. Heads of two indices come prior by prior. Of the hierarchy: is_tied: one g for all segments of a prior;
    has_segment_vectors: the e_s, zero at first; has_bottleneck: D -> D/2 -> D in front of f_c.
    Flat heads start as the identity.
    """

    prior: Tensor
    segment: Tensor

    def __init__(self, width: int, priors: int, segments: int = 1, *, composition: Composition = "hierarchical", is_tied: bool = False,
                 has_segment_vectors: bool = True, has_bottleneck: bool = False):
        super().__init__()
        if priors < 1 or segments < 1:
            raise ConfigError(f"prior heads: want at least one prior and one segment, got {priors} and {segments}")
        self.composition, self.priors, self.segments = composition, priors, segments
        pairs = [(c, s) for c in range(priors) for s in range(segments)]
        if composition == "additive":
            pairs = [(-1, s) for s in range(segments)] + [(c, -1) for c in range(priors)]
        is_deep = composition == "hierarchical"
        self.first = nn.ModuleList(nn.Sequential(*_bottleneck(width, has_bottleneck), ResidualHead(width, "normal"))
                                   for _ in range(priors) if is_deep)
        count = priors if is_deep and is_tied else len(pairs)
        self.last = nn.ModuleList(ResidualHead(width, "normal" if is_deep else "zero") for _ in range(count))
        self.horizon = nn.Parameter(torch.zeros(segments, width)) if is_deep and has_segment_vectors else None
        self.register_buffer("prior", torch.tensor([c for c, _ in pairs]), persistent=False)
        self.register_buffer("segment", torch.tensor([s for _, s in pairs]), persistent=False)

    def __len__(self) -> int:
        return len(self.prior)

    def forward(self, state: Tensor) -> list[Tensor]:
        """state [..., D] -> H tensors [..., D]."""
        if self.composition != "hierarchical":
            return [head(state) for head in self.last]
        found = []
        for c, first in enumerate(self.first):
            known = first(state)
            for s in range(self.segments):
                inner = known if self.horizon is None else known + self.horizon[s].to(known.dtype)
                found.append(self.last[c if len(self.last) == self.priors else c * self.segments + s](inner))
        return found


class FreeHeads(nn.Module):
    """H heads that stand for nothing in particular: `prior` and `segment` are -1. They start at random, so that they differ."""

    prior: Tensor
    segment: Tensor

    def __init__(self, width: int, count: int):
        super().__init__()
        self.last = nn.ModuleList(ResidualHead(width, "linear") for _ in range(count))
        for name in ("prior", "segment"):
            self.register_buffer(name, torch.full((count,), -1), persistent=False)

    def __len__(self) -> int:
        return len(self.last)

    def forward(self, state: Tensor) -> list[Tensor]:
        """state [..., D] -> H tensors [..., D]."""
        return [head(state) for head in self.last]


def _bottleneck(width: int, has_bottleneck: bool) -> list[nn.Module]:
    half = width // 2
    return [Linear(width, half), nn.LayerNorm(half), nn.SiLU(), Linear(half, width)] if has_bottleneck else []


def discounts(horizon: int, rate: float) -> Tensor:
    """Return float32 [P], rate^p of the offsets p = 0 .. P - 1, normalised to sum 1."""
    weight = rate ** torch.arange(horizon, dtype=torch.float32)
    return weight / weight.sum()


def futures(target: Tensor, horizon: int) -> Tensor:
    """Return int64 [B, S, P]: the items that follow each position, in order, -1 where the history ends. target int64 [B, S]: the next."""
    padded = F.pad(target, (0, horizon - 1), value=-1)
    return padded.unfold(1, horizon, 1)  # a target's own successor is the target one position on


def future_contrast(state: Tensor, table: Tensor, row: Tensor, target: Tensor, negatives: Tensor, scale: Tensor) -> Tensor:
    """Return float32 [J]: -log exp(s cos(z, e+)) / (exp(s cos(z, e+)) + sum over negatives of exp(s cos(z, e-))).

    state [M, D] and table [N, D] of unit rows; row int64 [J]: whose state a pair has; target int64 [J]; negatives int64 [K], distinct;
    scale: s, a scalar. A negative that is the target, or whose cosine with it exceeds `TWIN`, doesn't count.
    A state's negatives are summed once for all its pairs. O(M K D).
    """
    logits = scale * (state @ table[negatives].T.to(state.dtype)).float()  # [M, K]
    true = scale * (state[row] * table[target].to(state.dtype)).sum(1).float()  # [J]
    total = torch.logsumexp(logits, dim=1)[row]
    place = torch.full((len(table),), -1, dtype=torch.int64, device=table.device)
    place[negatives] = torch.arange(len(negatives), device=table.device)
    drawn_as = place[target]
    is_drawn = drawn_as >= 0  # the target is in the sum once, as it shall be, and is the same number there: bfloat16 rounds the products
    true = torch.where(is_drawn, logits[row, drawn_as.clamp_min(0)], true)
    norm = torch.where(is_drawn, total, torch.logaddexp(total, true))
    distinct, own = target.unique(return_inverse=True)
    with torch.no_grad():
        is_twin = (table[distinct] @ table[negatives].T > TWIN) & (distinct[:, None] != negatives)  # [targets, K]
    doubtful = torch.nonzero(is_twin.any(1)[own]).squeeze(1)
    if len(doubtful):
        same = is_twin[own[doubtful]] | (target[doubtful, None] == negatives)
        rest = logits[row[doubtful]].masked_fill(same, -torch.inf)
        norm = norm.index_put((doubtful,), torch.logsumexp(torch.cat([rest, true[doubtful, None]], dim=1), dim=1))
    return norm - true
