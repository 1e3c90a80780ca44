"""Batches made by the model itself: it proposes items for each history, and rewards or pairs are put to them.

A proposal is a function `batch -> items int64 [B, G]`, distinct and best first, such as the beams of the current policy; a reward
a function of item rows, `(items [B, G], target [B], batch) -> float [B, G]`. Both run on the device of the batch. Resuming needs
no state: the weights, and with them the proposals, are those of the step.

Sources: rule and rank rewards on constrained beams are ReRe's (arXiv 2510.12211) and MiniOneRec's (arXiv 2510.24431).
Axes: B rows, G proposed items of a row, K rejected items, N items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from semid.errors import ConfigError, DataError
from semid.protocols import Batches, Scorer
from semid.types import Batch

Proposal = Callable[[Batch], Tensor]
Reward = Callable[[Tensor, Tensor, Batch], Tensor]


def rule(items: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """1 for the target, 0 for every other item."""
    return (items == target[:, None]).float()


def rank(items: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Minus the share 1 / log2(place + 2) of a miss at `place` (from 0) in the group's sum; 0 for a hit and in groups without one.

    The misses that the model ranks highest are punished most.
    """
    discount = 1 / torch.log2(torch.arange(items.shape[1], device=items.device) + 2.0)
    hit = items == target[:, None]
    return (-discount / discount.sum()).expand(items.shape).masked_fill(hit | ~hit.any(1, keepdim=True), 0.0)


@dataclass(frozen=True)
class Collaborative:
    """The score that another recommender gives an item after the same history, standardised within the group (it has no unit)."""

    scorer: Scorer

    def __call__(self, items: Tensor, target: Tensor, batch: Batch) -> Tensor:
        score = self.scorer.score(batch).to(items.device).gather(1, items)
        return (score - score.mean(1, keepdim=True)) / (score.std(1, keepdim=True) + 1e-4)


@dataclass(frozen=True)
class Semantic:
    """Cosine of an item's content vector with the target's. vectors: float [N, D] on the device of the batches."""

    vectors: Tensor

    def __call__(self, items: Tensor, target: Tensor, batch: Batch) -> Tensor:
        return torch.einsum("bgd,bd->bg", *(normalize(self.vectors[rows].float(), dim=-1) for rows in (items, target)))


@dataclass(frozen=True)
class Sum:
    """Rewards added up: Sum((rule, rank)) is ReRe's."""

    rewards: tuple[Reward, ...]

    def __call__(self, items: Tensor, target: Tensor, batch: Batch) -> Tensor:
        return torch.stack([reward(items, target, batch) for reward in self.rewards]).sum(0)


class Rollouts:
    """Groups with rewards: extra["candidates"] int64 [B, G] and extra["reward"] float32 [B, G].

    batches: one target a row, after the whole history (`data.batch.TargetBatches`). adds_target: where the group misses the target
    it replaces the last item, so that no group teaches nothing (off in the papers' scripts). codes integer [N, L]: an item that shares
    the target's codes is the target, since the model writes the same for both. Raises `DataError` for a reward of the wrong shape or with
    a NaN, `ConfigError` for groups with fewer items than asked for.
    """

    def __init__(self, batches: Batches, propose: Proposal, reward: Reward, codes: Tensor, *, device: str = "cpu",
                 adds_target: bool = False):
        self.batches, self.propose, self.reward, self.device, self.adds_target = batches, propose, reward, device, adds_target
        self.codes = codes
        self.steps_per_epoch = batches.steps_per_epoch

    def at(self, step: int) -> Batch:
        batch, target, items = _proposed(self.batches.at(step).to(self.device), self.propose)
        is_target = _equal(self.codes, items, target)
        items = torch.where(is_target, target[:, None], items)
        if self.adds_target:
            missed = ~is_target.any(1)
            items[missed, -1] = target[missed]
        with torch.no_grad():
            reward = self.reward(items, target, batch)
        check_reward(reward, items)
        return replace(batch, extra={**batch.extra, "candidates": items, "reward": reward.float()})


class Pairs:
    """The target against the best-ranked misses: extra["chosen"] int64 [B] and extra["rejected"] int64 [B, K].

    propose: more than K items a row, of which the first K that are not the target are rejected; the model's own beams are hard
    negatives. codes integer [N, L]: items that share the target's codes are no negatives.
    """

    def __init__(self, batches: Batches, propose: Proposal, codes: Tensor, *, negatives: int, device: str = "cpu"):
        self.batches, self.propose, self.codes, self.negatives, self.device = batches, propose, codes, negatives, device
        self.steps_per_epoch = batches.steps_per_epoch

    def at(self, step: int) -> Batch:
        batch, target, items = _proposed(self.batches.at(step).to(self.device), self.propose)
        is_target = _equal(self.codes, items, target)  # [B, G]
        order = is_target.int().argsort(dim=1, stable=True)[:, : self.negatives]
        rejected = items.gather(1, order).masked_fill(is_target.gather(1, order), -1)
        return replace(batch, extra={**batch.extra, "chosen": target, "rejected": rejected})


class RewardedPairs:
    """Best against worst of each group by reward (OneRec's iterative preference alignment), over `Rollouts`.

    Groups whose rewards differ by `gap` or less, and items with the same codes, give no pair: their rejected item is -1, their chosen one
    the target.
    """

    def __init__(self, rollouts: Rollouts, *, gap: float = 0.0):
        self.rollouts, self.gap = rollouts, gap
        self.steps_per_epoch = rollouts.steps_per_epoch

    def at(self, step: int) -> Batch:
        batch = self.rollouts.at(step)
        items, reward = batch.extra["candidates"], batch.extra["reward"]
        (high, best), (low, worst) = reward.max(1, keepdim=True), reward.min(1, keepdim=True)
        best, worst = items.gather(1, best), items.gather(1, worst)
        is_pair = (high - low > self.gap) & ~_equal(self.rollouts.codes, worst, best.squeeze(1))  # [B, 1]
        chosen = torch.where(is_pair, best, batch.target.amax(1, keepdim=True)).squeeze(1)
        return replace(batch, extra={**batch.extra, "chosen": chosen, "rejected": worst.masked_fill(~is_pair, -1)})


def _equal(codes: Tensor, items: Tensor, other: Tensor) -> Tensor:
    """bool [B, G]: whether items [B, G] have the codes of other [B]."""
    return (codes[items] == codes[other][:, None]).all(2)


def _proposed(batch: Batch, propose: Proposal) -> tuple[Batch, Tensor, Tensor]:
    """Return (batch, target int64 [B], items int64 [B, G])."""
    if ((batch.target >= 0).sum(1) != 1).any():
        raise ConfigError("rollouts: want one target a row, after its whole history, got others; use TargetBatches")
    with torch.no_grad():
        items = propose(batch)
    if (items < 0).any():
        raise ConfigError(f"rollouts: want {items.shape[1]} items for every history, got {int((items >= 0).sum(1).min())} in one; "
                          "ask for smaller groups, the catalogue has no more")
    return batch, batch.target.amax(1), items


def check_reward(reward: Tensor, items: Tensor) -> None:
    """Raise `DataError` for a reward that is no finite float tensor of the items' shape."""
    if not isinstance(reward, Tensor) or reward.shape != items.shape or not reward.is_floating_point():
        got = f"{reward.dtype} {tuple(reward.shape)}" if isinstance(reward, Tensor) else type(reward).__name__
        raise DataError(f"reward: want a float tensor {tuple(items.shape)}, one number an item, got {got}; "
                        "a reward is a function (items [B, G], target [B], batch) -> [B, G]")
    if not reward.isfinite().all():
        row, place = (int(at) for at in torch.nonzero(~reward.isfinite())[0])
        raise DataError(f"reward: want finite numbers, got {reward[row, place].item()} for item row {int(items[row, place])}; "
                        "mend the reward, or give such items its lowest value")
