"""Preferences between sessions that the model itself wrote: the best and the worst of its beams by a reward.

Source: OneRec, arXiv 2502.18965, algorithm 2 (iterative preference alignment).
Axes: B rows, G proposed sessions of a row, P items of a session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from semid.protocols import Batches
from semid.training.rollouts import check_reward
from semid.types import Batch

SessionProposal = Callable[[Batch], Tensor]
SessionValue = Callable[[Batch, Tensor], Tensor]


class SessionPairs:
    """Batches of sessions in which some rows have a pair, extra["session_pair"] int64 [B, 2, P]; -1 elsewhere.

    A row gets one with probability `ratio`, drawn from (seed, step): propose (batch -> sessions int64 [B, G, P], distinct) writes its
    sessions, reward (batch, sessions -> float [B, G]) chooses among them. No pair where the rewards differ by `gap` or less, or where the
    catalogue gave out in the midst of a session. Resuming needs no state where what proposes stands still, as the reference does.
    """

    def __init__(self, batches: Batches, propose: SessionProposal, reward: SessionValue, *, items: int, ratio: float, gap: float = 0.0,
                 seed: int, device: str = "cpu"):
        self.batches, self.propose, self.reward, self.items = batches, propose, reward, items
        self.ratio, self.gap, self.seed, self.device = ratio, gap, seed, device
        self.steps_per_epoch = batches.steps_per_epoch

    def at(self, step: int) -> Batch:
        batch = self.batches.at(step).to(self.device)
        pair = torch.full((len(batch), 2, self.items), -1, device=batch.item.device)
        drawn = torch.from_numpy(np.flatnonzero(np.random.default_rng((self.seed, step, 2)).random(len(batch)) < self.ratio))
        if len(drawn):
            rows = drawn.to(batch.item.device)
            pair[rows] = self._pairs(batch.only(rows))
        return replace(batch, extra={**batch.extra, "session_pair": pair})

    def _pairs(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            sessions = self.propose(batch)
            reward = self.reward(batch, sessions)
        check_reward(reward, sessions[:, :, 0])
        is_whole = (sessions >= 0).all(2)
        high, best = reward.masked_fill(~is_whole, -torch.inf).max(1)
        low, worst = reward.masked_fill(~is_whole, torch.inf).min(1)
        is_pair = high - low > self.gap  # not where no session is whole: -inf
        found = torch.stack([best, worst], dim=1)[..., None].expand(-1, -1, sessions.shape[2])
        return sessions.gather(1, found).masked_fill(~is_pair[:, None, None], -1)
