"""Batches without order: each pair once, negatives that nobody took, histories without their target."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from semid.data.pairs import PairBatches, SetBatches
from semid.errors import DataError
from semid.types import IdMap, Interactions


def events(pairs: list[tuple[int, int]], users: int, items: int) -> Interactions:
    user, item = np.array(sorted(pairs), np.int32).T
    return Interactions(user, np.ascontiguousarray(item), np.arange(len(user)), IdMap([f"u{u}" for u in range(users)]),
                        IdMap([f"i{i}" for i in range(items)]))


@pytest.fixture
def world() -> Interactions:
    rng = np.random.default_rng(0)
    return events([(u, i) for u in range(40) for i in rng.permutation(12)[: 1 + u % 9]] + [(3, 5), (3, 5)], 40, 12)


def test_every_pair_comes_once_an_epoch_with_items_that_the_user_has_not(world):
    batches, owned = PairBatches(world, batch_size=10, negatives=4, seed=0), set(zip(world.user, world.item, strict=True))
    seen = Counter()
    for step in range(batches.steps_per_epoch):
        batch = batches.at(step)
        seen.update(zip(batch.user.tolist(), batch.extra["chosen"].tolist(), strict=True))
        for user, rejected in zip(batch.user.tolist(), batch.extra["rejected"].tolist(), strict=True):
            assert not {(user, item) for item in rejected} & owned
    assert set(seen) <= owned
    assert set(seen.values()) == {1}
    assert len(seen) == len(owned) // 10 * 10


def test_negatives_are_even_over_what_is_left():
    world = events([(0, 0), (0, 2), (1, 1)], 2, 5)
    batches = PairBatches(world, batch_size=2, negatives=3000, seed=0)
    count = Counter(item for step in range(4) for user, row in zip(*(lambda b: (b.user.tolist(), b.extra["rejected"].tolist()))(
        batches.at(step)), strict=True) if user == 0 for item in row)
    assert set(count) == {1, 3, 4}
    assert max(count.values()) < 1.1 * min(count.values())


def test_by_user_every_user_comes_as_often_as_another():
    world = events([(0, i) for i in range(50)] + [(1, 0)], 2, 60)
    batches = PairBatches(world, batch_size=51, is_by_user=True, seed=0)
    users = torch.cat([batches.at(step).user for step in range(40)])
    assert 0.45 < users.float().mean() < 0.55


def test_every_other_item_is_as_often_in_a_history():
    world = events([(0, i) for i in range(12)], 1, 13)
    batches = SetBatches(world, max_length=4, batch_size=12, seed=0)
    count = np.zeros((12, 12))
    for step in range(1500):
        batch = batches.at(step)
        for row, target in zip(batch.item, batch.target[:, -1], strict=True):
            count[target, row] += 1
    others = count[~np.eye(12, dtype=bool)]
    assert not count.diagonal().any()
    assert others.mean() == 1500 * 4 / 11
    assert others.std() < 1.3 * np.sqrt(1500 * 4 / 11 * 7 / 11)  # that of independent draws is 18.6


def test_sets_by_user_ask_every_user_as_often_as_another():
    world = events([(0, i) for i in range(48)] + [(1, 0), (1, 1)], 2, 60)
    batches = SetBatches(world, max_length=5, batch_size=50, is_by_user=True, seed=0)
    users = torch.cat([batches.at(step).user for step in range(40)])
    assert 0.45 < users.float().mean() < 0.55


def test_users_with_every_item_have_nothing_to_learn_from():
    with pytest.raises(DataError, match="want users who have not taken every item"):
        PairBatches(events([(0, 0), (0, 1)], 1, 2), batch_size=2, seed=0)


def test_a_history_holds_other_items_of_its_user_and_never_the_target(world):
    batches = SetBatches(world, max_length=5, batch_size=16, seed=0)
    own = {u: set(world.item[world.user == u].tolist()) for u in range(40)}
    targets = Counter()
    for step in range(batches.steps_per_epoch):
        batch = batches.at(step)
        for row, user in enumerate(batch.user.tolist()):
            length = int(batch.length[row])
            history = batch.item[row, :length].tolist()
            target = int(batch.target[row, length - 1])
            assert (batch.target[row] >= 0).sum() == 1
            assert set(history) | {target} <= own[user]
            assert target not in history
            assert len(set(history)) == length == min(5, len(own[user]) - 1)
            targets[user, target] += 1
    wanted = {(user, item) for user, items in own.items() if len(items) > 1 for item in items}
    assert targets == dict.fromkeys(wanted, 1)


def test_the_same_step_gives_the_same_bits(world):
    for make in (lambda: PairBatches(world, batch_size=8, negatives=3, is_by_user=True, seed=1),
                 lambda: SetBatches(world, max_length=4, batch_size=8, seed=1),
                 lambda: SetBatches(world, max_length=4, batch_size=8, is_by_user=True, seed=1)):
        one, other = make(), make()
        for step in (7, 0, 7, 30):
            a, b = one.at(step), other.at(step)
            assert all(torch.equal(x, y) for x, y in ((a.user, b.user), (a.item, b.item), (a.target, b.target)))
            assert all(torch.equal(a.extra[name], b.extra[name]) for name in a.extra)


def test_sets_want_a_user_with_two_items():
    with pytest.raises(DataError, match="two items"):
        SetBatches(events([(0, 0), (1, 1)], 2, 3), max_length=4, batch_size=2, seed=0)
