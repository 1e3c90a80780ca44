"""Every event but a user's first is a target exactly once an epoch, and a batch is a function of the step alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.data.batch import NeighbourTargets, SequenceBatches, TargetBatches, case_batches, history_batch, latest
from semid.errors import DataError
from semid.types import IdMap, Interactions, Protocol
from tests.toyworld.world import walk


def events() -> Interactions:
    rng = np.random.default_rng(0)
    lengths = np.array([1, 2, 3, 40, 7, 100, 5, 5, 5])
    user = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return Interactions(user, rng.permutation(len(user)).astype(np.int32), np.arange(len(user), dtype=np.int64),
                        IdMap([str(u) for u in range(len(lengths))]), IdMap([str(i) for i in range(len(user))]))


def targets_of(batches, epoch: int = 0) -> list[int]:
    found = []
    for step in range(batches.steps_per_epoch):
        target = batches.at(epoch * batches.steps_per_epoch + step).target
        found += target[target >= 0].tolist()
    return sorted(found)


def test_each_event_is_a_target_once():
    train = events()
    wanted = sorted(train.item[np.arange(len(train)) > train.offsets[train.user]].tolist())
    assert targets_of(SequenceBatches(train, max_length=200, tokens=64, seed=0)) == wanted
    assert targets_of(SequenceBatches(train, max_length=8, tokens=64, seed=0)) == wanted
    assert targets_of(TargetBatches(train, max_length=8, batch_size=1, seed=0)) == wanted


def test_targets_follow_their_position():
    train = events()
    after = dict(zip(train.item[:-1].tolist(), train.item[1:].tolist(), strict=True))
    batches = SequenceBatches(train, max_length=8, tokens=64, seed=0)
    for step in range(batches.steps_per_epoch):
        batch = batches.at(step)
        for row in range(len(batch)):
            for position in range(int(batch.length[row])):
                assert after[int(batch.item[row, position])] == int(batch.target[row, position])
        assert batch.item.shape[1] <= 8


def test_target_batches_supervise_the_last_position_only():
    batch = TargetBatches(events(), max_length=5, batch_size=16, seed=0).at(0)
    assert ((batch.target >= 0).sum(1) == 1).all()
    assert (batch.target[torch.arange(16), batch.length - 1] >= 0).all()
    assert batch.item.shape[1] <= 5


def test_a_case_without_a_history_is_its_user_s():
    world = walk(users=4)
    next_one = world.test.history_begin[2]
    empty = lambda column: np.where(np.arange(4) == 1, next_one, column)
    cases = replace(world.test, history_begin=empty(world.test.history_begin), history_end=empty(world.test.history_end))
    for rows, batch in case_batches(world, cases):
        np.testing.assert_array_equal(batch.user, cases.user[rows])


def test_batches_are_a_function_of_the_step():
    one, other = (SequenceBatches(events(), max_length=8, tokens=32, seed=1) for _ in range(2))
    for step in (7, 0, 7, 3, 25):  # in any order
        assert torch.equal(one.at(step).item, other.at(step).item)
    assert not all(torch.equal(one.at(s).item, one.at(s + one.steps_per_epoch).item) for s in range(3))


def test_case_batches_hold_each_case_once_with_its_latest_history():
    world = walk(users=30)
    seen = []
    for rows, batch in case_batches(world, world.test, tokens=40):
        seen += rows.tolist()
        for row, case in enumerate(rows):
            begin, end = world.test.history_begin[case], world.test.history_end[case]
            assert batch.item[row, : int(batch.length[row])].tolist() == world.events.item[begin:end].tolist()
            assert world.test.target[case] not in batch.item[row]
    assert sorted(seen) == list(range(30))


def test_history_batch_cuts_to_the_latest_and_takes_empty_histories():
    batch = history_batch([np.arange(9), np.array([], np.int64)], max_history=4)
    assert batch.item.tolist() == [[5, 6, 7, 8], [-1, -1, -1, -1]]
    assert batch.length.tolist() == [4, 0]


def test_what_was_cut_from_a_history_still_counts_as_seen():
    world = walk(users=30, protocol=Protocol(max_history=4))
    for rows, batch in case_batches(world, world.test):
        for row, case in enumerate(rows):
            begin, end = world.test.history_begin[case], world.test.history_end[case]
            assert batch.length[row] == 4
            assert set(batch.seen[row].tolist()) - {-1} == set(world.events.item[begin:end].tolist())
    batch = history_batch([np.arange(9), np.arange(2)], max_history=4)
    assert batch.seen.tolist() == [list(range(9)), [0, 1] + [-1] * 7]


def test_latest_keeps_the_end_of_each_history():
    batch = latest(history_batch([np.arange(9), np.arange(2)], max_history=50), 3)
    assert batch.item.tolist() == [[6, 7, 8], [0, 1, -1]]
    assert batch.length.tolist() == [3, 2]
    assert batch.seen.tolist()[0] == list(range(9))


def soft(prior: float, decay: float = 0.5) -> NeighbourTargets:
    """Item 0 has neighbours 2 (weight 3) and 3 (weight 1), item 1 has none; 64 users took 0, 1, then 4."""
    user = np.repeat(np.arange(64, dtype=np.int32), 3)
    train = Interactions(user, np.tile(np.array([0, 1, 4], np.int32), 64), np.arange(192, dtype=np.int64),
                         IdMap([str(u) for u in range(64)]), IdMap([str(i) for i in range(5)]))
    neighbour = torch.tensor([[2, 3], [-1, -1], [0, -1], [0, -1], [0, 1]], dtype=torch.int32)
    weight = torch.tensor([[3.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    batches = SequenceBatches(train, max_length=8, tokens=10_000, seed=0)
    return NeighbourTargets(batches, neighbour, weight, train.counts, prior=prior, decay=decay, seed=0)


def test_neighbours_replace_the_share_of_targets_that_the_prior_asks_for():
    first = torch.cat([soft(64.0).at(step).target[:, 0] for step in range(200)])  # item 0 was taken 64 times: half are redrawn
    share = lambda item: (first == item).float().mean().item()
    assert abs(share(1) - 1 / 2) < 0.02
    assert abs(share(2) - 3 / 8) < 0.02
    assert abs(share(3) - 1 / 8) < 0.02


def test_without_a_prior_or_neighbours_targets_stay():
    batches = soft(0.0)
    assert (batches.at(3).target == batches.batches.at(3).target).all()
    later = soft(1e9, decay=0.0).at(0).target[:, 1]  # item 1 has no neighbours, and no step back is taken
    assert (later == 4).all()


def test_an_owned_item_is_never_a_redrawn_target():
    batches = soft(1e9)
    batches.neighbour = np.array([[1, 0], [0, -1], [0, -1], [0, -1], [0, 1]], np.int32)  # 0 leads to 1 or to itself
    target = torch.cat([batches.at(step).target for step in range(50)])
    assert not (target == 0).any()
    assert (target[:, 1] == 4).all()  # both 0 and 1 are owned by then


def test_redrawn_targets_are_a_function_of_the_step():
    assert (soft(64.0).at(5).target == soft(64.0).at(5).target).all()
    assert (soft(64.0).at(5).target != soft(64.0).at(6).target).any()


@pytest.mark.parametrize("batches", [lambda train: SequenceBatches(train, max_length=8, tokens=64, seed=0),
                                     lambda train: TargetBatches(train, max_length=8, batch_size=4, seed=0)])
def test_a_log_in_which_nobody_has_two_events_is_one_clear_message(batches):
    train = events()
    with pytest.raises(DataError, match="want users with at least two training events, got none"):
        batches(train.take(train.offsets[:-1]))


def test_times_stay_beside_their_items_where_a_history_is_cut():
    batch = history_batch([np.arange(9), np.arange(2)], [np.arange(9) * 10, np.arange(2) * 10 + 5], max_history=4)
    assert batch.time.tolist() == [[50, 60, 70, 80], [5, 15, 0, 0]]
    assert latest(batch, 3).item.tolist() == [[6, 7, 8], [0, 1, -1]]
    assert latest(batch, 3).time.tolist() == [[60, 70, 80], [5, 15, 0]]
