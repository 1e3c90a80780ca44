"""What a target is compared with: an item that the user has not, another of its cluster, and people who took them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from semid.data.indexing import IndexingBatches
from semid.data.pairs import SetBatches
from semid.errors import DataError
from semid.types import IdMap, Interactions

ITEMS, USERS = 30, 20
PREFIX = np.stack(np.unravel_index(np.arange(ITEMS) // 3, (2, 5)), axis=1)  # three items a cluster
PREFIX[29] = (1, 6)  # and one alone


@pytest.fixture
def world() -> Interactions:
    rng = np.random.default_rng(0)
    rows = [(u, i) for u in range(USERS) for i in sorted(rng.permutation(ITEMS - 2)[: 2 + u % 6])] + [(3, 29)]
    user, item = np.array(sorted(rows), np.int32).T
    return Interactions(user, np.ascontiguousarray(item), np.arange(len(user)), IdMap([f"u{u}" for u in range(USERS)]),
                        IdMap([f"i{i}" for i in range(ITEMS)]))


def batches(world: Interactions, prefix=PREFIX) -> IndexingBatches:
    return IndexingBatches(SetBatches(world, max_length=4, batch_size=16, seed=0), prefix, seed=0)


def test_each_row_holds_what_its_target_is_compared_with(world):
    made, owned, met = batches(world), set(zip(world.user.tolist(), world.item.tolist(), strict=True)), set()
    group = [tuple(path) for path in PREFIX.tolist()]
    for step in range(20 * made.steps_per_epoch):
        batch = made.at(step)
        target, alike = batch.target[batch.target >= 0].tolist(), batch.extra["alike"].tolist()
        rejected, takers = batch.extra["rejected"][:, 0].tolist(), batch.extra["takers"].tolist()
        for user, t, r, a, took in zip(batch.user.tolist(), target, rejected, alike, takers, strict=True):
            assert (user, r) not in owned
            assert group[r] != group[t]
            assert group[a] == group[t]
            assert (a == t) == (t == 29)
            for who, item in zip(took, (t, r, a), strict=True):
                assert (who, item) in owned if item != 28 else who == -1  # nobody took the last but one
            met.add((t, a))
    assert {(0, 1), (0, 2), (1, 0), (2, 1), (29, 29)} <= met


def test_what_is_left_is_drawn_evenly(world):
    made = batches(world)
    target = np.full(40_000, 4)
    user = np.zeros(40_000, np.int64)
    count = Counter(made._rejected(user, target, np.random.default_rng(0)).tolist())
    left = set(range(ITEMS)) - set(world.item[world.user == 0].tolist()) - {3, 4, 5}
    assert set(count) == left
    assert max(count.values()) < 1.15 * min(count.values())


def test_a_batch_is_a_function_of_its_step(world):
    one, other = batches(world).at(7), batches(world).at(7)
    assert all(torch.equal(one.extra[name], other.extra[name]) for name in ("rejected", "alike", "takers"))
    assert not torch.equal(one.extra["rejected"], batches(world).at(7 + batches(world).steps_per_epoch).extra["rejected"])


def test_clusters_that_leave_nothing_to_reject_are_told_so(world):
    with pytest.raises(DataError, match=r"a user has 7 of 30 items and a cluster 30; give more items"):
        batches(world, np.zeros((ITEMS, 2), np.int64))
