"""Pairs of sessions: the best against the worst of what the model wrote, for the rows that were drawn."""

from __future__ import annotations

import pytest
import torch

from semid.data.batch import SessionBatches
from semid.errors import DataError
from semid.training.session_pairs import SessionPairs
from tests.toyworld.world import walk

WRITTEN = torch.tensor([[1, 2], [3, 4], [5, 6], [7, -1]])


def pairs(reward, *, ratio: float = 1.0, gap: float = 0.0) -> SessionPairs:
    batches = SessionBatches(walk(users=40).train, max_length=8, items=2, batch_size=50, seed=0)
    return SessionPairs(batches, lambda batch: WRITTEN.expand(len(batch), -1, -1), reward, items=2, ratio=ratio, gap=gap, seed=0)


def test_the_best_is_preferred_to_the_worst_and_unfinished_sessions_are_neither():
    batch = pairs(lambda batch, sessions: torch.tensor([0.0, 2.0, -1.0, -9.0]).expand(len(batch), -1)).at(0)
    assert batch.extra["session_pair"].tolist() == [[[3, 4], [5, 6]]] * len(batch)
    assert len(batch.extra["session"]) == len(batch)


def test_the_reward_sees_the_drawn_rows_alone_and_about_as_many_as_asked():
    asked = []

    def reward(batch, sessions):
        asked.append(len(batch))
        return (batch.item[:, :1] % 7 * torch.arange(4.0)).float()

    made = pairs(reward, ratio=0.2)
    drawn = 0
    for step in range(8):
        batch = made.at(step)
        has_pair = batch.extra["session_pair"][:, 1, 0] >= 0
        drawn += int(has_pair.sum())
        assert not (has_pair & (batch.item[:, 0] % 7 == 0)).any()  # equal rewards make no pair
        assert torch.equal(made.at(step).extra["session_pair"], batch.extra["session_pair"])
    assert 0.1 * 8 * 50 < sum(asked) / 2 < 0.3 * 8 * 50
    assert 0 < drawn < sum(asked) / 2


def test_pairs_need_a_gap_between_their_rewards():
    reward = lambda batch, sessions: torch.tensor([0.0, 0.5, 0.2, 0.1]).expand(len(batch), -1)
    assert (pairs(reward, gap=0.4).at(0).extra["session_pair"] >= 0).all()
    assert (pairs(reward, gap=0.5).at(0).extra["session_pair"] < 0).all()


def test_no_ratio_no_pairs_and_nothing_is_written():
    def reward(batch, sessions):
        raise AssertionError("nobody asked")

    assert (pairs(reward, ratio=0.0).at(0).extra["session_pair"] == -1).all()


@pytest.mark.parametrize(("reward", "message"), [
    (lambda batch, sessions: torch.full((len(batch), 4), torch.nan), "want finite numbers, got nan"),
    (lambda batch, sessions: torch.zeros(len(batch)), "want a float tensor"),
])
def test_rewards_that_are_none_are_refused(reward, message):
    with pytest.raises(DataError, match=message):
        pairs(reward).at(0)
