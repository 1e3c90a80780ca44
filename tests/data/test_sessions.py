"""Sessions as batches: every event but the first begins one, with what came before as its history."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.data.batch import SessionBatches
from semid.errors import ConfigError
from semid.types import IdMap, Interactions

ITEMS = {0: [3, 1, 4, 1, 5, 9], 1: [2, 6], 2: [7]}
VALUES = {0: [1, 5, 5, 1, 1, 4], 1: [3, 2], 2: [5]}


def train(*, has_values: bool = True) -> Interactions:
    user = np.concatenate([np.full(len(items), u) for u, items in ITEMS.items()]).astype(np.int32)
    flat = lambda table, dtype: np.concatenate([np.array(table[u]) for u in ITEMS]).astype(dtype)
    return Interactions(user, flat(ITEMS, np.int32), np.arange(len(user)), IdMap(list("abc")), IdMap([str(i) for i in range(10)]),
                        value=flat(VALUES, np.float32) if has_values else None)


def sessions(batches: SessionBatches, epoch: int = 0) -> list[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """(user, history, session) of an epoch, sorted."""
    found = []
    for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
        batch = batches.at(step)
        assert (batch.extra["session"] >= 0).all(), "all sessions of a batch have one length"
        for row in range(len(batch)):
            length = int(batch.length[row])
            assert batch.target[row, length - 1] == batch.extra["session"][row, 0]
            assert (batch.target[row] >= 0).sum() == 1
            found.append((int(batch.user[row]), tuple(batch.item[row, :length].tolist()), tuple(batch.extra["session"][row].tolist())))
    return sorted(found)


def test_every_event_but_the_first_begins_a_session_once_an_epoch():
    batches = SessionBatches(train(), max_length=3, items=2, batch_size=2, seed=0)
    wanted = [(0, (3,), (1, 4)), (0, (3, 1), (4, 1)), (0, (3, 1, 4), (1, 5)), (0, (1, 4, 1), (5, 9)), (0, (4, 1, 5), (9,)), (1, (2,), (6,))]
    assert sessions(batches) == sessions(batches, epoch=1) == sorted(wanted)


def test_only_whole_sessions_and_only_good_ones_where_asked():
    whole = SessionBatches(train(), max_length=9, items=3, batch_size=8, seed=0, is_whole=True)
    assert [session for _, _, session in sessions(whole)] == [(1, 4, 1), (4, 1, 5), (1, 5, 9)]
    good = SessionBatches(train(), max_length=9, items=2, batch_size=8, seed=0, least_value=2.5)
    assert [session for _, _, session in sessions(good)] == [(1, 4), (4, 1), (5, 9), (9,)]  # means 5, 3, 2.5, 4; (1, 5) has 1, (6,) 2


def test_values_come_along_where_there_are_any():
    batch = SessionBatches(train(), max_length=9, items=3, batch_size=8, seed=0, is_whole=True).at(0)
    table = {(1, 4, 1): [5, 5, 1], (4, 1, 5): [5, 1, 1], (1, 5, 9): [1, 1, 4]}
    assert batch.extra["reward"].tolist() == [table[tuple(session)] for session in batch.extra["session"].tolist()]
    assert "reward" not in SessionBatches(train(has_values=False), max_length=9, items=3, batch_size=8, seed=0).at(0).extra


def test_a_step_is_the_same_bits_each_time():
    one, two = (SessionBatches(train(), max_length=3, items=2, batch_size=2, seed=0) for _ in range(2))
    two.at(9)
    assert torch.equal(one.at(1).extra["session"], two.at(1).extra["session"])


@pytest.mark.parametrize(("settings", "has_values", "message"), [
    ({"items": 7, "is_whole": True}, True, "want one session of 7 items at least, got none"),
    ({"items": 2, "least_value": 9.0}, True, "want one session of 2 items at least, got none"),
    ({"items": 2, "least_value": 1.0}, False, "least_value compares values, which these events don't have"),
])
def test_sessions_that_nobody_had_are_refused(settings, has_values, message):
    with pytest.raises(ConfigError, match=message):
        SessionBatches(train(has_values=has_values), max_length=3, batch_size=2, seed=0, **settings)
