"""Reward model of sessions: how much will this user like these items together?

Source: OneRec, arXiv 2502.18965, section 3.4, equations 10 to 12. Deviations: (1) users are known by their histories, read by target
attention, and by no features; (2) the towers are those of the labels at hand (the paper's four: watch time, view-through, follow, like).
Axes: B rows, C sessions of a history, P items of a session, S history positions, D width, T towers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semid.nn.t5 import EncoderBlock, hide
from semid.types import Batch


class SessionReward(nn.Module):
    """e_i = v_i * u_i, with u_i what item i's attention finds in the history; self-attention over the items of the session; their sum;
    `towers` small networks. Items of one session may stand in any order: the reward is the same."""

    def __init__(self, num_items: int, *, towers: int, width: int = 64, heads: int = 2, hidden: int = 128, dropout: float = 0.1):
        super().__init__()
        self.item = nn.Embedding(num_items, width)
        nn.init.normal_(self.item.weight, std=1.0)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.nothing = nn.Parameter(torch.zeros(width))
        self.together = EncoderBlock(width, heads, width // heads, (hidden,), dropout)
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1)) for _ in range(towers))

    def forward(self, batch: Batch, sessions: Tensor) -> Tensor:
        """sessions int64 [B, C, P] (-1 pads) -> logits float32 [B, C, T]."""
        is_item = sessions >= 0
        item = self.item(sessions.clamp_min(0))  # [B, C, P, D]
        own = item * self._interest(batch, item)
        flat, real = own.flatten(0, 1), is_item.flatten(0, 1)  # [B C, P, ...]
        mixed = self.together(flat, hide(real[:, None, None]))
        pooled = (mixed * real[..., None]).sum(1)  # [B C, D]
        return torch.cat([tower(pooled) for tower in self.towers], dim=1).float().view(*sessions.shape[:2], -1)

    def _interest(self, batch: Batch, item: Tensor) -> Tensor:
        """What each item's attention finds in the history, [B, C, P, D]; a learnt vector where it is empty."""
        past = self.item(batch.item.clamp_min(0))  # [B, S, D]
        score = self.query(item).flatten(1, 2) @ self.key(past).transpose(1, 2) / past.shape[-1] ** 0.5  # [B, C P, S]
        weight = torch.softmax(score.float() + hide(batch.item[:, None] >= 0), dim=2)
        found = (weight.to(past.dtype) @ self.value(past)).view_as(item)
        return torch.where((batch.length > 0)[:, None, None, None], found, self.nothing.to(found.dtype))

    @torch.no_grad()
    def probabilities(self, batch: Batch, sessions: Tensor) -> Tensor:
        """Return float32 [B, C, T] in (0, 1)."""
        return torch.sigmoid(self(batch, sessions))

    def reward(self, batch: Batch, sessions: Tensor, weights: Tensor) -> Tensor:
        """Return float32 [B, C]: the towers' probabilities, each standardised over all these sessions, times `weights` [T], summed.

        So towers weigh alike whatever their spread, and sessions of a history that are all as good have rewards near each other.
        """
        value = self.probabilities(batch, sessions)
        scaled = (value - value.mean((0, 1))) / (value.std((0, 1)) + 1e-6)
        return (scaled * weights).sum(2)
