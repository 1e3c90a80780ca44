"""Sums by key are the same however often they are added up on the way, and what waits for that is bounded."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from semid.nn import counting
from semid.nn.counting import summed
from semid.scorers.item_knn import following
from semid.tokenizers.p5 import together
from semid.types import IdMap, Interactions


def parts(count: int = 40, size: int = 500, keys: int = 60):
    rng = np.random.default_rng(0)
    return [(rng.integers(keys, size=size), rng.random(size)) for _ in range(count)]


@pytest.mark.parametrize("most", [10, 1200, 10**9])
def test_sums_are_the_same_bits_however_often_they_are_merged(most, monkeypatch):
    monkeypatch.setattr(counting, "MANY", most)
    key, weight = (np.concatenate(column) for column in zip(*parts(), strict=True))
    found, sums = summed(parts())
    np.testing.assert_array_equal(found, np.unique(key))
    np.testing.assert_array_equal(sums, np.bincount(key, weight))


def test_nothing_has_no_sums():
    assert [len(column) for column in summed([])] == [0, 0]


@pytest.mark.parametrize("pairs", [together, lambda train: following(train, window=10**6)], ids=["P5", "item-kNN"])
def test_pairs_of_long_histories_wait_in_bounded_memory(pairs, monkeypatch):
    """600 users with all of 60 items: 1,062,000 pairs, of which at most 3,540 differ."""
    monkeypatch.setattr(counting, "MANY", 20_000)
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(600, dtype=np.int32), 60)
    item = np.tile(np.arange(60, dtype=np.int32), 600)
    train = Interactions(user, rng.permuted(item.reshape(600, 60), axis=1).reshape(-1), np.arange(len(user), dtype=np.int64),
                         IdMap([str(u) for u in range(600)]), IdMap([str(i) for i in range(60)]))
    tracemalloc.start()
    row, _, weight = pairs(train)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(row) == 60 * 59
    assert (weight > 0).all()
    assert peak < 8e6, "a million pairs of 8 bytes"
