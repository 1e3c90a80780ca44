"""The layers of T5: pre-norm blocks without biases, unscaled attention, and positions as a bias on the scores.

Source: Raffel et al., arXiv 1910.10683, section 2.1; the published weights' initialisation and dropout places.
Axes: B memories (users), R decoder rows (B times the beams of a user, grouped by user), T keys, Q queries, D width, H heads,
W width of a head, t tokens a beam has written. A "key-value" tensor is float [2, B, H, T, W]: keys first, values second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.nn.dropout import Dropout
from semid.nn.linear import Linear

EPS = 1e-6  # of every norm


def relative_bucket(distance: Tensor, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128) -> Tensor:
    """Map key position minus query position to a bucket: one each while near, logarithmic up to `max_distance`, then one.

    distance int64 [...] -> int64 [...] in [0, num_buckets). Two-sided: the upper half of the buckets is for keys to the
    right of the query. One-sided: keys to the right share bucket 0 with the query itself (causality hides them).

    >>> relative_bucket(torch.tensor([-200, -3, 0, 3]), bidirectional=True).tolist()
    [15, 3, 0, 19]
    """
    side = num_buckets // 2 if bidirectional else num_buckets
    start = (distance > 0).long() * side if bidirectional else 0
    distance = distance.abs() if bidirectional else (-distance).clamp_min(0)
    exact = side // 2
    far = torch.log(distance.clamp_min(1).float() / exact) / math.log(max_distance / exact) * (side - exact)
    return start + torch.where(distance < exact, distance, (exact + far.long()).clamp_max(side - 1))


class RelativeBias(nn.Module):
    """What a head adds to a score for the distance of key and query. One table serves all layers of a stack."""

    def __init__(self, heads: int, width: int, *, bidirectional: bool):
        super().__init__()
        self.bidirectional = bidirectional
        self.table = nn.Embedding(32, heads)
        nn.init.normal_(self.table.weight, std=width**-0.5)

    def forward(self, queries: int, keys: int) -> Tensor:
        """Bias of the last `queries` of `keys` positions: float32 [H, Q, T]."""
        position = torch.arange(keys, device=self.table.weight.device)
        return self.between(position[keys - queries :], position)

    def between(self, query: Tensor, key: Tensor) -> Tensor:
        """Bias for any positions: int64 [Q] and [T] -> float32 [H, Q, T]."""
        distance = key - query[:, None]  # [Q, T]
        return self.table(relative_bucket(distance, bidirectional=self.bidirectional)).permute(2, 0, 1).contiguous()


class Attention(nn.Module):
    """Multi-head attention without scaling or biases; heads may be wider than `width / heads`."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float):
        super().__init__()
        self.heads, self.head_width = heads, head_width
        inner = heads * head_width
        self.query = Linear(width, inner, bias=False)
        self.key_value = Linear(width, 2 * inner, bias=False)
        self.out = Linear(inner, width, bias=False)
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.query.weight, std=(width * head_width) ** -0.5)
        nn.init.normal_(self.key_value.weight, std=width**-0.5)
        nn.init.normal_(self.out.weight, std=inner**-0.5)

    def remember(self, x: Tensor) -> Tensor:
        """Keys and values of x [B, T, D]: float [2, B, H, T, W]."""
        return self.key_value(x).view(*x.shape[:2], 2, self.heads, self.head_width).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, key_value: Tensor, bias: Tensor) -> Tensor:
        """x [B, Q, D], key_value [2, B, H, T, W], bias broadcast to [B, H, Q, T], the lowest float where a key is hidden."""
        query = self.query(x).view(*x.shape[:2], self.heads, self.head_width).transpose(1, 2)  # [B, H, Q, W]
        key, value = key_value
        weight = torch.softmax(query @ key.transpose(-1, -2) + bias, dim=-1)  # [B, H, Q, T]
        mixed = self.dropout(weight).to(value.dtype) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))

    def extend(self, x: Tensor, past: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Self-attention of one more token, without dropout: x [R, D], past [t, 2, R, H, W], bias [H, 1, t + 1] -> (out, past).

        Time comes first in `past`, so that appending copies whole blocks, and a few keys a row are elementwise work: four
        times faster than products of 1 x W matrices.
        """
        query = self.query(x).view(-1, self.heads, self.head_width)  # [R, H, W]
        past = torch.cat([past, self.key_value(x).view(1, len(x), 2, self.heads, self.head_width).transpose(1, 2)])
        key, value = past.unbind(1)
        score = (query * key).sum(-1, keepdim=True) + bias.permute(2, 1, 0)[..., None]  # [t + 1, R, H, 1]
        mixed = (torch.softmax(score, dim=0).to(value.dtype) * value).sum(0)
        return self.out(mixed.flatten(1)), past


class FeedForward(nn.Module):
    """ReLU network `width -> hidden... -> width`. T5 has one hidden layer; GRID two of equal width."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float):
        super().__init__()
        sizes = [width, *hidden, width]
        layers = [Linear(i, o, bias=False) for i, o in pairwise(sizes)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        self.layers = nn.ModuleList(layers)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.dropout(F.relu(layer(x), inplace=True))
        return last(x)


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, width: int, heads: int, head_width: int, hidden: Sequence[int], dropout: float):
        super().__init__()
        self.norm, self.attention = nn.RMSNorm(width, EPS), Attention(width, heads, head_width, dropout)
        self.feed_norm, self.feedforward = nn.RMSNorm(width, EPS), FeedForward(width, hidden, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.norm(x)
        x = x + self.dropout(self.attention(normed, self.attention.remember(normed), bias))
        return x + self.dropout(self.feedforward(self.feed_norm(x)))


class Encoder(nn.Module):
    """Embedded tokens [B, T, D] to states [B, T, D]."""

    def __init__(self, layers: int, *, width: int, heads: int, head_width: int, hidden: Sequence[int], dropout: float):
        super().__init__()
        self.bias = RelativeBias(heads, width, bidirectional=True)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, head_width, hidden, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(width, EPS)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, visible: Tensor, position: Tensor | None = None) -> Tensor:
        """visible bool, broadcast to [B, 1, T, T]: may the query (third axis) see the key (fourth)? position int64 [T], None = in order."""
        position = torch.arange(x.shape[1], device=x.device) if position is None else position
        bias = self.bias.between(position, position) + hide(visible)  # [B, H, T, T]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, bias)
        return self.dropout(self.norm(x))


class DecoderBlock(nn.Module):
    """Causal self-attention, attention over the memory, feed-forward; each pre-norm with a residual."""

    def __init__(self, width: int, heads: int, head_width: int, hidden: Sequence[int], dropout: float):
        super().__init__()
        self.norm, self.attention = nn.RMSNorm(width, EPS), Attention(width, heads, head_width, dropout)
        self.cross_norm, self.cross = nn.RMSNorm(width, EPS), Attention(width, heads, head_width, dropout)
        self.feed_norm = nn.RMSNorm(width, EPS)
        self.feedforward: nn.Module = FeedForward(width, hidden, dropout)  # or a mixture of them
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor, memory: Tensor, hidden_memory: Tensor) -> Tensor:
        normed = self.norm(x)
        x = x + self.dropout(self.attention(normed, self.attention.remember(normed), bias))
        return self._after_self_attention(x, memory, hidden_memory)

    def extend(self, x: Tensor, past: Tensor, bias: Tensor, memory: Tensor, hidden_memory: Tensor) -> tuple[Tensor, Tensor]:
        mixed, past = self.attention.extend(self.norm(x), past, bias)
        return self._after_self_attention(x + mixed, memory, hidden_memory), past

    def _after_self_attention(self, x: Tensor, memory: Tensor, hidden_memory: Tensor) -> Tensor:
        # All rows of a user are queries of one attention: its keys and values are never copied to the beams.
        query = self.cross_norm(x).view(memory.shape[1], -1, x.shape[-1])  # [B, R/B * Q, D]
        x = x + self.dropout(self.cross(query, memory, hidden_memory)).view_as(x)
        return x + self.dropout(self.feedforward(self.feed_norm(x)))


class Decoder(nn.Module):
    """Embedded tokens to states, over memories [B, T, D] with R a multiple of B: whole sequences or token by token."""

    def __init__(self, layers: int, *, width: int, heads: int, head_width: int, hidden: Sequence[int], dropout: float):
        super().__init__()
        self.bias = RelativeBias(heads, width, bidirectional=False)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads, head_width, hidden, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(width, EPS)
        self.dropout = Dropout(dropout)

    def remember(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Keys and values of memory [B, T, D] for each layer: computed once per user."""
        return tuple(block.cross.remember(memory).contiguous() for block in cast("list[DecoderBlock]", self.blocks))

    def forward(self, x: Tensor, memory: tuple[Tensor, ...], hidden_memory: Tensor, *, is_causal: bool = True) -> Tensor:
        """x [R, Q, D] -> [R, Q, D]; hidden_memory: `hide` of a mask that broadcasts to [B, 1, R/B * Q, T]. is_causal: a token sees those
        before it, otherwise none but itself."""
        length = x.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        bias = self.bias(length, length) + hide(seen if is_causal else seen & seen.T)  # [H, Q, Q]
        x = self.dropout(x)
        for block, seen in zip(self.blocks, memory):
            x = block(x, bias, seen, hidden_memory)
        return self.dropout(self.norm(x))

    def extend(self, x: Tensor, memory: tuple[Tensor, ...], hidden_memory: Tensor,
               past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One more token a row, without dropout: x [R, D], past [t, 2, R, H, W] a layer -> ([R, D], past with it)."""
        bias = self.bias(1, past[0].shape[0] + 1)
        longer = []
        for block, seen, own in zip(cast("list[DecoderBlock]", self.blocks), memory, past):
            x, own = block.extend(x, own, bias, seen, hidden_memory)
            longer.append(own)
        return self.norm(x), tuple(longer)


def hide(visible: Tensor) -> Tensor:
    """0 where visible (bool [...]), else the lowest float32, so that a row that sees nothing stays finite."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, torch.finfo(torch.float32).min)
