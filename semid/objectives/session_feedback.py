"""What a reward model of sessions learns: the sessions that people took, against those of others, and what they were worth to them.

A model is a `scorers.session_reward.SessionReward`. Source: OneRec, arXiv 2502.18965, equation 12.
Axes: B rows, P items of a session, T towers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semid.nn.losses import known_cross_entropy
from semid.types import Batch, Loss


@dataclass(frozen=True)
class SessionFeedback:
    """Sum over towers of the binary cross-entropy. Tower 1, taken: a row's own session (1) against the next row's (0), unless that is
    the same. Tower 2, where `median` is given: is the mean value of the own session, extra["reward"], above it? Nobody knows that of
    another's session.

    The paper's labels (watch time, view-through, follow, like) come from a log that says them; public logs of interactions don't.
    """

    median: float | None = None

    def __call__(self, model, batch: Batch) -> Loss:
        session = batch.extra["session"]
        pair = torch.stack([session, session.roll(1, dims=0)], dim=1)  # [B, 2, P]
        logits = model(batch, pair)  # [B, 2, T]
        label, is_known = torch.zeros_like(logits), torch.zeros_like(logits, dtype=torch.bool)
        label[:, 0, 0] = 1
        is_known[:, 0, 0] = True
        is_known[:, 1, 0] = (pair[:, 0] != pair[:, 1]).any(1)  # who took the same is no counterexample
        if self.median is not None:
            label[:, 0, 1] = (batch.extra["reward"].mean(1) > self.median).float()
            is_known[:, 0, 1] = True
        loss = known_cross_entropy(logits, label, is_known)
        right = (logits[:, 0, 0] > logits[:, 1, 0]).float().mean()
        return Loss(loss, signals={"own_first": right})
