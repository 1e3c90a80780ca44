"""Learn from rewards of several items a history: GRPO, where an item is good or bad against its own group.

On rollouts of a beam the items are not drawn from the policy, and no weight corrects for it: it is a ranking loss on the top of
the list rather than a policy gradient (so in ReRe and MiniOneRec).

Source: Shao et al. (GRPO), arXiv 2402.03300, equations 3 and 4, with one gradient step a rollout as in ReRe (arXiv 2510.12211) and
MiniOneRec (arXiv 2510.24431).
Axes: B rows (groups), G items of a group, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semid.errors import DataError
from semid.nn.dropout import without_dropout
from semid.objectives.paths import paths
from semid.types import Batch, Loss


def group_advantages(reward: Tensor) -> Tensor:
    """Return float [B, G]: (reward - mean of the group) / (its standard deviation, n - 1 below, + 1e-4); 0 where all are equal.

    >>> group_advantages(torch.tensor([[-0.3904, -0.2463, 1.0, -0.1681]]).double()).round(decimals=3).tolist()
    [[-0.685, -0.46, 1.484, -0.338]]
    """
    return (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)


def divergence(logp: Tensor, reference: Tensor) -> Tensor:
    """Return exp(r - p) - (r - p) - 1 >= 0, of log-probabilities: an unbiased estimate of KL(policy, reference) from its samples."""
    gap = reference - logp
    return gap.exp() - gap - 1


def grpo_loss(logp: Tensor, reference: Tensor, advantage: Tensor, is_code: Tensor, beta: float) -> Tensor:
    """Return a scalar: minus (ratio x advantage - beta x divergence), mean over the codes of an item, then over items.

    logp, reference float [B, G, L], is_code bool [B, G, L], advantage float [B, G]. The ratio of the policy to itself is 1 and
    passes the gradient of logp.
    """
    ratio = (logp - logp.detach()).exp()
    loss = -(ratio * advantage[..., None] - beta * divergence(logp, reference))
    return ((loss * is_code).sum(2) / is_code.sum(2).clamp_min(1)).mean()


@dataclass(frozen=True)
class GRPO:
    """`grpo_loss` of extra["candidates"] under extra["reward"].

    reference: of `paths.frozen`. beta: weight of the divergence from it. Signals, the signs of reward hacking: reward (mean), no_hit
    (share of groups without the target, where hits alone are rewarded they only pull back), flat (share of groups whose rewards
    are all equal, which teach nothing), kl, entropy (nats a code), distinct (share of a group's items that differ; 1 for beams), coverage
    (distinct items in the batch over items of the catalogue).
    """

    reference: nn.Module
    beta: float = 1e-3

    def __call__(self, model, batch: Batch) -> Loss:
        items, reward = batch.extra["candidates"], batch.extra["reward"]
        if items.shape[1] < 2:
            raise DataError(f"GRPO: want groups of two items at least, got {items.shape[1]}; raise the number of beams")
        with without_dropout(model):
            ours = paths(model, batch, items)
        with torch.no_grad():
            theirs = paths(self.reference, batch, items)
        loss = grpo_loss(ours.logp, theirs.logp, group_advantages(reward), ours.is_code, self.beta)
        over_codes = lambda values: values.detach().sum() / ours.is_code.sum().clamp_min(1)
        is_hit = items == batch.target.amax(1, keepdim=True)
        return Loss(loss, signals={
            "reward": reward.mean(), "no_hit": 1 - is_hit.any(1).float().mean(),
            "flat": (reward.amax(1) == reward.amin(1)).float().mean(),
            "kl": over_codes(divergence(ours.logp, theirs.logp)), "entropy": over_codes(ours.entropy),
            "distinct": (items.sort(1).values.diff(dim=1) != 0).float().sum(1).add(1).mean() / items.shape[1],
            "coverage": len(items.unique()) / (model.codes[:, 0] >= 0).sum(),
        })
