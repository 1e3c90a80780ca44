"""Two views of a code's embedding: as it is, and mixed with the codes of its own item; a gate weighs them.

Source: DiscRec, arXiv 2506.15576, and its code.
Axes: R items (or beams), Q their codes in order, D width, H heads, W width of a head, t codes a beam has written.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semid.nn.dropout import Dropout
from semid.nn.linear import Linear
from semid.nn.t5 import hide


class DualBranch(nn.Module):
    """gate(s, c): s the embeddings, c = f + feed-forward(norm(f)), f = c0 + attention(c0) among an item's codes, c0 = norm(s + position).

    positions: places in an item. has_positions, has_attention: false leaves that part out; has_gate: false adds the branches up.
    Neither an item's neighbours nor the order of items is seen here: that is the transformer's.
    """

    def __init__(self, width: int, *, positions: int, heads: int = 2, feedforward: int = 1024, dropout: float = 0.1,
                 has_positions: bool = True, has_attention: bool = True, has_gate: bool = True):
        super().__init__()
        self.heads = heads
        self.position = nn.Embedding(positions, width) if has_positions else None
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width) if has_attention else None
        self.feedforward = nn.Sequential(Linear(width, feedforward), nn.ReLU(), Dropout(dropout), Linear(feedforward, width),
                                         Dropout(dropout))
        self.gate = nn.Parameter(torch.zeros(2, width)) if has_gate else None  # both branches count alike at first

    def forward(self, s: Tensor, *, is_causal: bool) -> Tensor:
        """s [R, Q, D] -> [R, Q, D]. is_causal: a code sees itself and those before it, as where they are written one by one."""
        length = s.shape[1]
        c = self._placed(s, torch.arange(length, device=s.device))
        if self.qkv is not None:
            q, k, v = self.qkv(c).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [R, H, Q, W]
            score = q @ k.transpose(-1, -2) * k.shape[-1] ** -0.5
            if is_causal:
                score = score + hide(torch.ones(length, length, dtype=torch.bool, device=s.device).tril())
            c = c + (torch.softmax(score, dim=-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)
        return self._joined(s, c)

    def extend(self, s: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """One more code a beam: s [R, D], past [t, 2, R, H, W], keys and values of those before -> ([R, D], past with it)."""
        c = self._placed(s, torch.tensor(len(past), device=s.device))
        if self.qkv is None:
            return self._joined(s, c), torch.cat([past, past.new_zeros(1, *past.shape[1:])])
        q, k, v = self.qkv(c).unflatten(1, (3, self.heads, -1)).unbind(1)  # [R, H, W]
        past = torch.cat([past, torch.stack([k, v])[None]])
        key, value = past.unbind(1)  # [t + 1, R, H, W]
        weight = torch.softmax((q * key).sum(-1, keepdim=True) * k.shape[-1] ** -0.5, dim=0)
        return self._joined(s, c + (weight.to(value.dtype) * value).sum(0).flatten(1)), past

    def empty(self, rows: int) -> Tensor:
        """Return the `past` of beams that have written nothing, [0, 2, R, H, W]."""
        return self.norm.weight.new_empty(0, 2, rows, self.heads, len(self.norm.weight) // self.heads)

    def _placed(self, s: Tensor, place: Tensor) -> Tensor:
        return self.norm(s if self.position is None else s + self.position(place))

    def _joined(self, s: Tensor, c: Tensor) -> Tensor:
        c = c + self.feedforward(self.feed_norm(c))
        return s + c if self.gate is None else gated(s, c, self.gate)


def gated(s: Tensor, c: Tensor, gate: Tensor) -> Tensor:
    """a_s s + a_c c with (a_s, a_c) = softmax(<s, gate_0>, <c, gate_1>). s, c [..., D]; gate [2, D]."""
    weight = torch.softmax(torch.stack([(s * gate[0]).sum(-1), (c * gate[1]).sum(-1)]), dim=0)[..., None]
    return weight[0] * s + weight[1] * c
