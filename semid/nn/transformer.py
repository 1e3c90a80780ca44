"""A causal pre-norm transformer over positions, the temporal model of SASRec and of the two-level generator.

Axes: B rows, S positions, D width, H heads.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.nn.dropout import Dropout
from semid.nn.linear import Linear


class CausalAttention(nn.Module):
    """Multi-head self-attention that sees only the past.

    Histories are padded on the right, so causality alone keeps padding out of every real position. Products run in the
    autocast type, attention itself in float32: torch's bf16 attention is slower than its float32 kernel on CPUs.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"attention: want a width that {heads} heads divide, got {width}")
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, s, d = x.shape
        qkv = self.qkv(x).view(b, s, 3, self.heads, d // self.heads)
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))  # [B, H, S, D/H]
        if x.device.type == "cpu":
            q, k, v = q.float(), k.float(), v.float()
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.dropout(self.out(mixed.transpose(1, 2).reshape(b, s, d)))

    def last(self, x: Tensor, at: Tensor) -> Tensor:
        """Row b of `forward` at position at[b] alone, int64 [B] -> [B, D]."""
        b, s, d = x.shape
        qkv = self.qkv(x).float().view(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # [3, B, H, S, D/H]
        query = qkv[0].gather(2, at[:, None, None, None].expand(-1, self.heads, 1, d // self.heads))  # [B, H, 1, D/H]
        future = torch.arange(s, device=x.device) > at[:, None]  # [B, S]
        mixed = F.scaled_dot_product_attention(query, qkv[1], qkv[2], attn_mask=~future[:, None, None])
        return self.dropout(self.out(mixed.reshape(b, d)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.feedforward = nn.Sequential(Linear(width, feedforward), nn.GELU(), Dropout(dropout),
                                         Linear(feedforward, width), Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feedforward(self.norm2(x))

    def last(self, x: Tensor, at: Tensor) -> Tensor:
        """Row b of `forward` at position at[b] alone, int64 [B] -> [B, D]."""
        x = last_state(x, at + 1) + self.attention.last(self.norm1(x), at)
        return x + self.feedforward(self.norm2(x))


class CausalTransformer(nn.Module):
    """Item vectors [B, S, D] to states [B, S, D]; state s has read positions 0..s. Learned absolute positions.

    max_length: the longest history. Positions count back from the newest item would move with each event; counting from
    the oldest keeps states valid when one event is appended.
    """

    def __init__(self, width: int, *, layers: int, heads: int, feedforward: int, dropout: float, max_length: int):
        super().__init__()
        self.position = nn.Embedding(max_length, width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, time: Tensor | None = None, length: Tensor | None = None, request: Tensor | None = None) -> Tensor:
        """x [B, S, D] -> [B, S, D]. Clock and lengths are not read; temporal models that do (`nn.hstu`) take its place."""
        x = self.dropout(x + self.position.weight[: x.shape[1]])
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def last(self, x: Tensor, length: Tensor) -> Tensor:
        """`last_state` of `forward`, for which the top block needs one query a row: x [B, S, D], length int64 [B] -> [B, D]."""
        x = self.dropout(x + self.position.weight[: x.shape[1]])
        *below, top = cast("list[Block]", list(self.blocks))
        for block in below:
            x = block(x)
        return self.norm(top.last(x, (length - 1).clamp_min(0)))


def last_state(states: Tensor, length: Tensor) -> Tensor:
    """Return the state after each row's last item. states [B, S, D], length int64 [B] -> [B, D]."""
    return states[torch.arange(len(states), device=states.device), (length - 1).clamp_min(0)]
