"""Attention over a set: no positions, but a second term for how two items relate, whose weight the user decides.

Axes: B rows, S items of a history, D width, H heads, W width of a head, F width of a user's vector.
Source: MMGRec, arXiv 2404.16555, relation-aware self-attention.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semid.nn.dropout import Dropout
from semid.nn.linear import Linear
from semid.nn.t5 import hide


class RelationAttention(nn.Module):
    """softmax((q k' + (s_q U_q x) (s_k U_k x)') / sqrt(W)) (v + s_v U_v x), heads side by side.

    U_q, U_k, U_v map D to W and serve all heads; s_q, s_k, s_v are numbers, each of a small network of the user's vector.
    is_relational: false leaves s and U out; what remains is ordinary attention.
    """

    def __init__(self, width: int, heads: int, head_width: int, user_width: int, *, is_relational: bool = True):
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.qkv = Linear(width, 3 * heads * head_width, bias=False)
        self.out = Linear(heads * head_width, width, bias=False)
        self.relation = Linear(width, 3 * head_width, bias=False) if is_relational else None
        half = user_width // 2
        self.scale = nn.ModuleList(nn.Sequential(nn.Linear(user_width, half), nn.ReLU(), nn.Linear(half, 1))
                                   for _ in range(3) if is_relational)

    def forward(self, x: Tensor, user: Tensor, hidden: Tensor) -> Tensor:
        """x [B, S, D], user [B, F], hidden float [B, 1, 1, S] (`hide` of the padding) -> [B, S, D]."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)  # [B, H, S, W]
        score = q @ k.transpose(-1, -2)
        if self.relation is not None:
            scale = torch.stack([network(user) for network in self.scale], dim=1)  # [B, 3, 1]
            scaled = self.relation(x).unflatten(2, (3, self.head_width)) * scale[:, None]  # [B, S, 3, W]
            uq, uk, uv = scaled[:, None].unbind(3)  # [B, 1, S, W]
            score, v = score + uq @ uk.transpose(-1, -2), v + uv
        weight = torch.softmax(score * self.head_width**-0.5 + hidden, dim=-1)
        return self.out((weight.to(v.dtype) @ v).transpose(1, 2).flatten(2))


class RelationBlock(nn.Module):
    """norm(x + attention(x)), then norm(x + feed-forward(x))."""

    def __init__(self, width: int, heads: int, head_width: int, user_width: int, feedforward: int, dropout: float, *,
                 is_relational: bool):
        super().__init__()
        self.attention = RelationAttention(width, heads, head_width, user_width, is_relational=is_relational)
        self.feedforward = nn.Sequential(Linear(width, feedforward, bias=False), nn.ReLU(), Linear(feedforward, width, bias=False))
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, user: Tensor, hidden: Tensor) -> Tensor:
        x = self.norm(x + self.dropout(self.attention(x, user, hidden)))
        return self.feed_norm(x + self.feedforward(x))


class RelationEncoder(nn.Module):
    """Item vectors [B, S, D] of a set to states [B, S, D]; to permute the items permutes the states."""

    def __init__(self, layers: int, *, width: int, heads: int, head_width: int, user_width: int, feedforward: int, dropout: float,
                 is_relational: bool = True):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(RelationBlock(width, heads, head_width, user_width, feedforward, dropout, is_relational=is_relational)
                                    for _ in range(layers))

    def forward(self, x: Tensor, user: Tensor, visible: Tensor) -> Tensor:
        """user [B, F]; visible bool [B, 1, 1, S]: which items are there."""
        x, hidden = self.dropout(x), hide(visible)
        for block in self.blocks:
            x = block(x, user, hidden)
        return x
