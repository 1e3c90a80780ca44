"""Rewards equal their formulas, groups and pairs hold what they say, and broken rewards are refused with a clear message."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.data.batch import SequenceBatches, TargetBatches
from semid.errors import ConfigError, DataError
from semid.training.rollouts import Collaborative, Pairs, RewardedPairs, Rollouts, Semantic, Sum, rank, rule
from tests.toyworld.world import ITEMS, walk

TARGETS = TargetBatches(walk(users=40).train, max_length=20, batch_size=6, seed=0)
OWN = torch.arange(ITEMS)[:, None]
"""A code of its own for every item."""


def after_target(batch):
    """Four items a row: the target is the third in even rows, and in none else."""
    target = batch.target.amax(1, keepdim=True)
    items = (target + torch.tensor([[1, 2, 0, 3]])) % ITEMS
    items[1::2, 2] = (target[1::2, 0] + 9) % ITEMS
    return items


def test_rule_and_rank_equal_the_papers_example():
    """G = 4, the hit at place 2: denominators log2 of 2, 3, 4, 5; a group without the hit gets 0 everywhere."""
    items = torch.tensor([[7, 8, 9, 10], [7, 8, 9, 10]])
    target = torch.tensor([9, 3])
    total = 1 / np.log2([2, 3, 4, 5])
    np.testing.assert_allclose(rank(items, target, None)[0].numpy(), [-total[0] / total.sum(), -total[1] / total.sum(), 0,
                                                                     -total[3] / total.sum()], rtol=1e-6)
    both = Sum((rule, rank))(items, target, None)
    np.testing.assert_allclose(both[0].numpy(), [-0.3904, -0.2463, 1.0, -0.1681], atol=1e-4)
    assert (both[1] == 0).all()


def test_other_rewards_are_functions_of_item_rows():
    class Scores:
        def score(self, batch):
            return torch.arange(ITEMS).float().expand(len(batch.item), ITEMS)

    batch = TARGETS.at(0)
    items, target = torch.tensor([[3, 1, 2]] * 6), torch.arange(6)
    assert Collaborative(Scores())(items, target, batch)[0].argsort().tolist() == [1, 2, 0]
    vectors = torch.eye(ITEMS)
    vectors[3] = vectors[1] + vectors[2]
    found = Semantic(vectors)(items, target, batch)
    np.testing.assert_allclose(found[1].numpy(), [2**-0.5, 1, 0], atol=1e-6)


def test_rollouts_hold_groups_and_their_rewards_and_are_a_function_of_the_step():
    rollouts = Rollouts(TARGETS, after_target, rule, OWN)
    batch = rollouts.at(3)
    assert rollouts.steps_per_epoch == TARGETS.steps_per_epoch
    assert torch.equal(batch.extra["candidates"], after_target(batch))
    assert batch.extra["reward"].sum(1).tolist() == [1, 0, 1, 0, 1, 0]
    assert torch.equal(rollouts.at(3).extra["candidates"], batch.extra["candidates"])
    assert torch.equal(batch.item, TARGETS.at(3).item)


def test_a_target_is_added_only_to_groups_that_miss_it():
    batch = Rollouts(TARGETS, after_target, rule, OWN, adds_target=True).at(0)
    assert (batch.extra["reward"].sum(1) == 1).all()
    plain = after_target(batch)
    assert torch.equal(batch.extra["candidates"][::2], plain[::2])
    assert torch.equal(batch.extra["candidates"][1::2, :3], plain[1::2, :3])
    assert torch.equal(batch.extra["candidates"][1::2, 3], batch.target.amax(1)[1::2])


def test_pairs_take_the_best_misses_and_skip_items_with_the_targets_codes():
    codes = torch.arange(ITEMS)[:, None].clone()
    batch = Pairs(TARGETS, after_target, codes, negatives=3).at(0)
    target = batch.target.amax(1)
    assert torch.equal(batch.extra["chosen"], target)
    assert ((batch.extra["rejected"][0] - target[0]) % ITEMS).tolist() == [1, 2, 3]
    assert ((batch.extra["rejected"][1] - target[1]) % ITEMS).tolist() == [1, 2, 9]
    codes[(target[0] + 1) % ITEMS] = target[0]
    shared = Pairs(TARGETS, after_target, codes, negatives=3).at(0)
    assert shared.extra["rejected"][0, 2] == -1
    assert ((shared.extra["rejected"][0, :2] - target[0]) % ITEMS).tolist() == [2, 3]


def test_best_against_worst_needs_a_difference():
    batch = RewardedPairs(Rollouts(TARGETS, after_target, Sum((rule, rank)), OWN)).at(0)
    target = batch.target.amax(1)
    assert torch.equal(batch.extra["chosen"], target)  # the hit, or the target itself where there is no pair
    assert ((batch.extra["rejected"][::2, 0] - target[::2]) % ITEMS).tolist() == [1, 1, 1]  # the highest-ranked miss is the worst
    assert (batch.extra["rejected"][1::2] == -1).all()


def test_an_item_with_the_codes_of_the_target_is_the_target_to_every_reward_and_pair():
    """The model writes the same for both, so one of them can't be right and the other the worst miss."""
    codes = OWN.clone()
    batch = TARGETS.at(0)
    target = batch.target.amax(1)
    codes[after_target(batch)[1, 0]] = codes[target[1]]  # in the second row, whose group misses the target, the first item is its twin
    found = Rollouts(TARGETS, after_target, Sum((rule, rank)), codes).at(0)
    assert found.extra["candidates"][1, 0] == target[1]
    assert found.extra["reward"][1].argmax() == 0
    pairs = RewardedPairs(Rollouts(TARGETS, after_target, Sum((rule, rank)), codes)).at(0)
    assert pairs.extra["chosen"][1] == target[1]
    assert pairs.extra["rejected"][1, 0] == after_target(batch)[1, 1]
    alike = RewardedPairs(Rollouts(TARGETS, after_target, Sum((rule, rank)), torch.zeros_like(codes))).at(0)
    assert (alike.extra["rejected"] == -1).all()


@pytest.mark.parametrize(("reward", "message"), [
    (lambda items, target, batch: torch.full(items.shape, torch.nan), r"want finite numbers, got nan for item row \d+"),
    (lambda items, target, batch: torch.zeros(len(items)), r"want a float tensor \(6, 4\), one number an item, got torch.float32 \(6,\)"),
    (lambda items, target, batch: items == target[:, None], r"got torch.bool \(6, 4\)"),
    (lambda items, target, batch: [[0.0] * 4] * 6, "got list"),
])
def test_broken_rewards_are_refused(reward, message):
    with pytest.raises(DataError, match=message):
        Rollouts(TARGETS, after_target, reward, OWN).at(0)


def test_groups_larger_than_the_catalogue_and_batches_of_many_targets_are_refused():
    with pytest.raises(ConfigError, match="want 4 items for every history, got 3 in one"):
        Rollouts(TARGETS, lambda batch: torch.tensor([[0, 1, 2, -1]] * len(batch)), rule, OWN).at(0)
    many = SequenceBatches(walk(users=40).train, max_length=20, tokens=100, seed=0)
    with pytest.raises(ConfigError, match="one target a row"):
        Rollouts(many, after_target, rule, OWN).at(0)
