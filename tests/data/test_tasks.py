from __future__ import annotations

import numpy as np
import torch

from semid.data.tasks import TaskBatches
from tests.toyworld.world import ITEMS, walk

WORLD = walk(users=20)
"""20 users with 10 training events each: 9 targets a user."""


def tasks(**options):
    usual = {"histories": {0: None, 3: 50}, "items": (4, 5), "num_items": ITEMS, "max_length": 4, "batch_size": 32, "seed": 0}
    return TaskBatches(WORLD.train, **usual | options)


def rows(batches, epoch=0):
    """(task, history, target) of every row of an epoch."""
    found = []
    for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
        batch = batches.at(step)
        for task, item, length, target in zip(batch.extra["task"], batch.item, batch.length, batch.target, strict=True):
            assert (target >= 0).sum() == 1
            assert (item[length:] == -1).all()
            found.append((int(task), tuple(item[:length].tolist()), int(target.max())))
    return found


def test_an_epoch_holds_every_row_of_every_task_once():
    found = rows(tasks(batch_size=1))
    assert np.bincount([task for task, _, _ in found]).tolist() == [180, 0, 0, 50, ITEMS, ITEMS]
    assert sorted(target for task, _, target in found if task == 4) == list(range(ITEMS))
    assert sorted(found) == sorted(rows(tasks(batch_size=1), epoch=1))


def test_histories_are_what_the_user_took_before_and_tasks_on_one_item_have_none():
    events = WORLD.train
    walks = [tuple(events.item[events.offsets[user] : events.offsets[user + 1]].tolist()) for user in range(20)]
    wanted = {(walk[max(0, end - 4) : end], walk[end]) for walk in walks for end in range(1, len(walk))}
    found = rows(tasks(batch_size=1))
    assert {(history, target) for task, history, target in found if task == 0} == wanted
    assert {(history, target) for task, history, target in found if task == 3} <= wanted
    assert all(history == () for task, history, _ in found if task in (4, 5))


def test_a_batch_is_a_function_of_its_step():
    one, other = tasks(), tasks()
    for step in (5, 0, 40, 5):
        a, b = one.at(step), other.at(step)
        assert torch.equal(a.item, b.item)
        assert torch.equal(a.extra["task"], b.extra["task"])
        assert (a.user[a.length == 0] == -1).all()
    assert not torch.equal(tasks(seed=1).at(0).target, one.at(0).target)


def test_fewer_rows_than_a_batch_are_one_batch():
    assert tasks(batch_size=10_000).steps_per_epoch == 1
    assert len(tasks(batch_size=10_000).at(3)) == 180 + 50 + 2 * ITEMS
