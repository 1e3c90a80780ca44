"""A causal pre-norm transformer over positions, the temporal model of SASRec and of the two-level generator.

Axes: B rows, S positions, D width, H heads, W width of a head, T positions kept, M new positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.nn.dropout import Dropout
from semid.nn.linear import Linear


@dataclass(frozen=True)
class Kept:
    """Keys and values of items read before. key_value float32 [layers, B, 2, H, T, W]; length int64 [B]: how many of the T
    positions a row has filled, from the left."""

    key_value: Tensor
    length: Tensor

    def join(self, own: Tensor) -> Kept:
        """Return T + M positions: those kept, then `own` [layers, B, 2, H, M, W] from each row's length on; length is unchanged."""
        room = F.pad(self.key_value, (0, 0, 0, own.shape[4]))
        position = self.length[:, None] + torch.arange(own.shape[4], device=own.device)  # [B, M]
        index = position[None, :, None, None, :, None].expand_as(own)
        return replace(self, key_value=room.scatter(4, index, own))


class CausalAttention(nn.Module):
    """Multi-head self-attention that sees only the past.

    Histories are padded on the right, so causality alone keeps padding out of every real position. Products run in the
    autocast type, attention itself in float32: torch's bf16 attention is slower than its float32 kernel on CPUs.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ConfigError(f"attention: want a width that {heads} heads divide, got {width}")
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

    def extend(self, x: Tensor, kept: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """New positions x [B, M, D] after kept keys and values [B, 2, H, T, W] -> (out [B, M, D], those of x [B, 2, H, M, W]).

        visible: bool [B, 1, M, T + M], which position sees which.
        """
        b, m, d = x.shape
        q, k, v = self.qkv(x).view(b, m, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # [B, H, M, W]
        own = torch.stack([k, v], dim=1)
        key, value = torch.cat([kept, own], dim=3).unbind(1)
        mixed = F.scaled_dot_product_attention(q, key, value, attn_mask=visible)
        return self.out(mixed.transpose(1, 2).reshape(b, m, d)), own


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

    def extend(self, x: Tensor, kept: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """As `CausalAttention.extend`."""
        mixed, own = self.attention.extend(self.norm1(x), kept, visible)
        x = x + mixed
        return x + self.feedforward(self.norm2(x)), own


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
        x = self._placed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def last(self, x: Tensor, length: Tensor) -> Tensor:
        """`last_state` of `forward`, for which the top block needs one query a row: x [B, S, D], length int64 [B] -> [B, D]."""
        x = self._placed(x)
        *below, top = cast("list[Block]", list(self.blocks))
        for block in below:
            x = block(x)
        return self.norm(top.last(x, (length - 1).clamp_min(0)))

    def extend(self, x: Tensor, kept: Kept) -> tuple[Tensor, Kept]:
        """Read M more items of each history, x [B, M, D], after those in `kept`; the states [B, M, D] equal `forward`'s.

        Rows may hold fewer kept items and fewer new ones than the widest: what stands beyond is read by nobody. O(M (T + M)).
        For evaluation: no dropout.
        """
        new = torch.arange(x.shape[1], device=x.device)
        position = kept.length[:, None] + new  # [B, M]
        x = x + self.position(position.clamp_max(self.position.num_embeddings - 1))
        past = torch.arange(kept.key_value.shape[4], device=x.device) < kept.length[:, None]  # [B, T]
        visible = torch.cat([past[:, None, :].expand(-1, len(new), -1), (new <= new[:, None]).expand(len(x), -1, -1)], dim=2)[:, None]
        own = []
        for block, before in zip(cast("list[Block]", self.blocks), kept.key_value):
            x, key_value = block.extend(x, before, visible)
            own.append(key_value)
        return self.norm(x), kept.join(torch.stack(own))

    def _placed(self, x: Tensor) -> Tensor:
        check_length(x.shape[1], self.position.num_embeddings)
        return self.dropout(x + self.position.weight[: x.shape[1]])

    def nothing(self, rows: int) -> Kept:
        """What is kept of histories that nobody has read: no position."""
        block = cast("Block", self.blocks[0])
        width, heads = self.position.embedding_dim, block.attention.heads
        empty = self.position.weight.new_empty(len(self.blocks), rows, 2, heads, 0, width // heads)
        return Kept(empty, torch.zeros(rows, dtype=torch.int64, device=empty.device))


def check_length(got: int, most: int) -> None:
    """Raise `ConfigError` for a history of more items than the model has places for."""
    if got > most:
        raise ConfigError(f"histories: want at most {most} items, got {got}; cut them with semid.data.batch.latest")


def last_state(states: Tensor, length: Tensor) -> Tensor:
    """Return the state after each row's last item. states [B, S, D], length int64 [B] -> [B, D]."""
    return states[torch.arange(len(states), device=states.device), (length - 1).clamp_min(0)]
