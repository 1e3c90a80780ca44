"""Stochastic length shortens as often as the formula says, and what it keeps stays in order with the next kept item as target."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.data.batch import SequenceBatches
from semid.data.stochastic_length import StochasticLength, keep
from semid.errors import ConfigError
from tests.toyworld.world import walk


@pytest.mark.parametrize(("n", "share"), [(30, 0.0), (42, 0.1022), (100, 0.8416), (200, 0.9604)])
def test_histories_are_shortened_as_often_as_the_formula_says(n, share):
    """max_length 100, alpha 1.6: 39 items are kept with probability 1 - 100^1.6 / n^2 = 1 - 1584.9 / n^2."""
    rng = np.random.default_rng(0)
    lengths = np.array([len(keep(n, 100, 1.6, rng)) for _ in range(10_000)])
    assert set(lengths) <= {39, n}
    assert (lengths < n).mean() == pytest.approx(share, abs=0.015)


def test_recent_items_are_kept_more_often_and_the_newest_always():
    rng = np.random.default_rng(0)
    times = np.zeros(80)
    for _ in range(4000):
        places = keep(80, 40, 1.2, rng)
        assert (np.diff(places) > 0).all()
        times[places] += 1
    assert times[-1] == 4000
    assert times[60:79].mean() > 1.5 * times[:19].mean()


def test_kept_items_keep_their_order_and_ask_for_the_next_kept_one():
    world = walk(users=50, length=20)
    whole = SequenceBatches(world.train, max_length=20, tokens=200, seed=0)
    short = StochasticLength(whole, max_length=20, alpha=1.2, seed=0)
    before, after = whole.at(3), short.at(3)
    assert (after.length < before.length).any()
    for row, n in enumerate(after.length.tolist()):
        place = {int(time): s for s, time in enumerate(before.time[row, : before.length[row]])}
        places = [place[int(time)] for time in after.time[row, :n]]
        assert places == sorted(set(places))
        assert after.item[row, :n].tolist() == before.item[row, places].tolist()
        assert after.target[row, : n - 1].tolist() == after.item[row, 1:n].tolist()
        assert after.target[row, n - 1] == before.target[row, before.length[row] - 1]
        assert (after.target[row, n:] == -1).all()
    assert torch.equal(short.at(3).item, after.item)


def test_alpha_2_changes_nothing_and_others_are_refused():
    whole = SequenceBatches(walk(users=20).train, max_length=20, tokens=100, seed=0)
    a, b = whole.at(0), StochasticLength(whole, max_length=20, alpha=2.0, seed=0).at(0)
    assert torch.equal(a.item, b.item)
    assert torch.equal(a.target, b.target)
    with pytest.raises(ConfigError, match="alpha in"):
        StochasticLength(whole, max_length=20, alpha=1.0, seed=0)
