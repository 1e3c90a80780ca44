"""A pre-norm causal transformer with rotary positions, RMS norms and SwiGLU, whose keys and values can be kept.

Rotary positions (arXiv 2104.09864) depend on distance alone: no longest history, and kept keys stay valid as it grows.
Axes: B rows (users), R beam rows (B times the beams of a user, grouped by user), T tokens, D width, H heads, W width of a head.
A "key-value" tensor is float [B, 2, H, T, W]: rotated keys first, values second.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.nn.dropout import Dropout
from semid.nn.linear import Linear

EPS = 1e-6  # of every norm


def rotation(position: Tensor, width: int) -> Tensor:
    """Cosines and sines of `rotate`: position int64 [...] -> float32 [2, ..., W/2], wavelengths 2 pi to 2 pi 10,000."""
    frequency = 10_000.0 ** -(torch.arange(0, width, 2, device=position.device) / width)
    angle = position[..., None] * frequency
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + W/2]) by the angle of its position. x [..., W], turn [2, ..., W/2]; keeps the dtype."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = turn.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class SwiGLU(nn.Module):
    """silu(gate x) * (value x), projected back. `hidden` is the width between (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.gate_value = Linear(width, 2 * hidden, bias=False)
        self.out = Linear(hidden, width, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_value(x).chunk(2, dim=-1)
        return self.out(self.dropout(F.silu(gate) * value))


class RotaryBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        if width % (2 * heads):
            raise ConfigError(f"attention: want a width that is a multiple of 2 x {heads} heads, got {width}")
        self.heads, self.head_width = heads, width // heads
        self.norm, self.feed_norm = nn.RMSNorm(width, EPS), nn.RMSNorm(width, EPS)
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.feedforward = SwiGLU(width, feedforward, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, D] at the positions of `turn` [2, T, W/2] -> (x, key-value). A token sees itself and those before."""
        query, key, value = self._project(x, turn)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._finish(x, mixed), torch.stack([key, value], dim=1)

    def extend(self, x: Tensor, turn: Tensor, history: Tensor, hidden: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """One more token a beam: x [R, 1, D] at positions `turn` [2, R, 1, 1, W/2] -> (x, past with this token).

        history: key-value [B, 2, H, T, W] of the users, shared by their beams; hidden float [B, 1, 1, T] is added to its
        scores; past: key-value [R, 2, H, t, W] of the beams' own tokens.
        """
        query, key, value = self._project(x, turn)  # [R, H, 1, W]
        past = torch.cat([past, torch.stack([key, value], dim=1)], dim=3)
        users, own = len(history), past.shape[3]
        grouped = query.view(users, -1, *query.shape[1::2]).transpose(1, 2)  # [B, H, R/B, W]
        far = grouped @ history[:, 0].transpose(-1, -2)  # [B, H, R/B, T]
        near = (query @ past[:, 0].transpose(-1, -2)).view(users, -1, self.heads, own).transpose(1, 2)  # [B, H, R/B, t]
        weight = torch.softmax(torch.cat([far + hidden, near], dim=-1) * self.head_width**-0.5, dim=-1).to(value.dtype)
        from_history = (weight[..., :-own] @ history[:, 1]).transpose(1, 2).reshape_as(query)
        from_past = weight[..., -own:].transpose(1, 2).reshape(len(x), self.heads, 1, own) @ past[:, 1]
        return self._finish(x, from_history + from_past), past

    def _project(self, x: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)  # [3, B, H, T, W]
        if x.device.type == "cpu":
            qkv = qkv.float()  # torch's bf16 attention is slower than its float32 kernel on CPUs
        return rotate(qkv[0], turn), rotate(qkv[1], turn), qkv[2]

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feedforward(self.feed_norm(x)))


class RotaryTransformer(nn.Module):
    """Embedded tokens [B, T, D] to states [B, T, D]; state t has read tokens 0..t."""

    def __init__(self, width: int, *, layers: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.head_width = width // heads
        self.blocks = nn.ModuleList(RotaryBlock(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(width, EPS)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return (states, a key-value tensor a layer)."""
        turn = rotation(torch.arange(x.shape[1], device=x.device), self.head_width)
        x = self.dropout(x)
        kept = []
        for block in self.blocks:
            x, key_value = block(x, turn)
            kept.append(key_value)
        return self.norm(x), tuple(kept)

    def extend(self, x: Tensor, position: Tensor, history: tuple[Tensor, ...], hidden: Tensor,
               past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One more token a beam, x [R, 1, D] at `position` int64 [R]; the rest as in `RotaryBlock.extend`, a tensor a layer."""
        turn = rotation(position[:, None, None], self.head_width)
        longer = []
        for block, seen, own in zip(cast("list[RotaryBlock]", self.blocks), history, past):
            x, own = block.extend(x, turn, seen, hidden, own)
            longer.append(own)
        return self.norm(x), tuple(longer)
