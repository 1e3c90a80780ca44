"""Popularity, item-kNN and EASE against a few lines of numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.errors import ConfigError, DataError
from semid.recommenders import tensors_of
from semid.scorers.ease import EASE
from semid.scorers.item_knn import ItemKNN, RecentItemKNN, both_ways, following, spectral_vectors
from semid.scorers.popularity import Popularity, RecentPopularity
from semid.types import IdMap, Interactions


def events(seed: int = 0, users: int = 30, items: int = 12) -> Interactions:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, users)
    user = np.repeat(np.arange(users, dtype=np.int32), lengths)
    return Interactions(user, rng.integers(items, size=len(user)).astype(np.int32), np.arange(len(user), dtype=np.int64),
                        IdMap([f"u{u}" for u in range(users)]), IdMap([f"i{i}" for i in range(items)]))


def brute_force_knn(train: Interactions, *, window: int, backward: float, shrink: float, norm: float) -> np.ndarray:
    weight = np.zeros((len(train.items), len(train.items)))
    for u in range(len(train.users)):
        history = train.item[train.offsets[u] : train.offsets[u + 1]]
        for a in range(len(history)):
            for b in range(a + 1, min(len(history), a + window + 1)):
                if history[a] != history[b]:
                    weight[history[a], history[b]] += (b - a) ** -0.5
                    weight[history[b], history[a]] += backward * (b - a) ** -0.5
    damp = (np.bincount(train.item, minlength=len(train.items)) + shrink) ** -norm
    return weight * damp[:, None] * damp[None, :]


def test_item_knn_equals_brute_force():
    train = events()
    wanted = brute_force_knn(train, window=4, backward=0.5, shrink=10, norm=0.5)
    knn = ItemKNN.fit(train, window=4, backward=0.5, shrink=10, norm=0.5, profile=3, decay=0.5, neighbours=12)
    histories = [np.array([3, 1, 4, 1, 5]), np.array([2]), np.array([], np.int64)]
    scores = knn.score(history_batch(histories, max_history=50)).numpy()
    np.testing.assert_allclose(scores[0], wanted[5] + 0.5 * wanted[1] + 0.25 * wanted[4], rtol=1e-5)
    np.testing.assert_allclose(scores[1], wanted[2], rtol=1e-5)
    assert (scores[2] == 0).all()


def test_item_knn_keeps_the_strongest_neighbours():
    train = events()
    full = ItemKNN.fit(train, neighbours=12, profile=1).score(history_batch([np.array([3])], max_history=5))[0]
    pruned = ItemKNN.fit(train, neighbours=2, profile=1).score(history_batch([np.array([3])], max_history=5))[0]
    kept = torch.nonzero(pruned).squeeze(1)
    assert len(kept) == 2
    assert set(kept.tolist()) <= set(torch.nonzero(full >= full.sort().values[-2]).squeeze(1).tolist())


def test_pairs_leave_out_pairs_of_an_item_with_itself():
    row, column, weight = both_ways(following(events(), window=5), 12, 1.0)
    assert (row != column).all()
    assert (weight > 0).all()
    dense = np.zeros((12, 12))
    dense[row, column] = weight
    np.testing.assert_allclose(dense, dense.T)


def test_spectral_vectors_rebuild_the_matrix_when_the_rank_allows():
    train = events()
    vectors = spectral_vectors(train, dim=12)
    wanted = brute_force_knn(train, window=60, backward=1.0, shrink=10, norm=0.5)
    u, s, _ = np.linalg.svd(wanted)
    np.testing.assert_allclose((vectors**2).sum(0), s[:12], rtol=1e-3, atol=1e-5)
    assert vectors.dtype == np.float32


def test_spectral_vectors_leave_the_generators_of_all_devices_as_they_are(monkeypatch):
    """`torch.manual_seed` seeds accelerators as well."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    spectral_vectors(events(), dim=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded


def test_ease_equals_the_closed_form():
    train = events()
    x = np.zeros((30, 12))
    x[train.user, train.item] = 1
    inverse = np.linalg.inv(x.T @ x + 7.0 * np.eye(12))
    wanted = np.eye(12) - inverse / np.diag(inverse)
    wanted[np.diag_indices(12)] = 0
    ease = EASE.fit(train, regularisation=7.0)
    np.testing.assert_allclose(ease.weights.numpy(), wanted, atol=1e-5)
    scores = ease.score(history_batch([np.array([1, 2, 2])], max_history=50))
    np.testing.assert_allclose(scores[0].numpy(), wanted[1] + wanted[2], atol=1e-5)


def test_ease_refuses_a_catalogue_it_cannot_invert(monkeypatch):
    monkeypatch.setattr("semid.scorers.ease.MAX_ITEMS", 11)
    with pytest.raises(ConfigError, match="at most 11 items.*got 12"):
        EASE.fit(events())


def test_popularity_counts_training_events():
    train = events()
    scores = Popularity.fit(train).score(history_batch([np.array([0]), np.array([1])], max_history=5))
    np.testing.assert_array_equal(scores[0].numpy(), np.bincount(train.item, minlength=12))
    assert torch.equal(scores[0], scores[1])


def test_recent_popularity_counts_the_days_before_the_request_and_no_later_ones():
    train = events()
    train = replace(train, time=train.time * 86_400)
    scorer = RecentPopularity.fit(train, days=7)
    day = np.array([0, 3, 20, 90])
    batch = history_batch([np.array([i]) for i in range(4)], max_history=5)
    batch.extra["request"] = torch.from_numpy(day * 86_400)
    for row, now in enumerate(day):
        taken = train.item[(train.time < now * 86_400) & (train.time >= (now - 7) * 86_400)]
        np.testing.assert_array_equal(scorer.score(batch)[row].numpy(), 1 + np.bincount(taken, minlength=12))
    last = train.item[-7:]  # one event a day: what was taken last stays recent
    for request in (None, torch.full((4,), 10**10)):
        found = scorer.with_items(2).score(replace(batch, extra={} if request is None else {"request": request}))
        np.testing.assert_array_equal(found[3].numpy(), [*(1 + np.bincount(last, minlength=12)), 1, 1])


def test_recent_item_knn_is_the_product_and_an_order_is_no_time():
    train = replace(events(), time=events().time * 86_400)
    knn, recent = ItemKNN.fit(train), RecentPopularity.fit(train)
    batch = history_batch([np.array([3, 1]), np.array([2])], max_history=5)
    found = RecentItemKNN.of(tensors_of(RecentItemKNN(knn, recent, torch.tensor(0.5)))).score(batch)
    torch.testing.assert_close(found, knn.score(batch) * recent.score(batch).sqrt())
    with pytest.raises(DataError, match="an order alone"):
        RecentPopularity.fit(replace(train, time_unit="ordinal"))


def test_items_that_nobody_took_have_no_spectral_vector_even_where_the_rank_is_low():
    """20 of 200 items were taken, and 64 directions are asked for: those that are missing came out as noise of the others."""
    user = np.repeat(np.arange(30, dtype=np.int32), 5)
    item = np.random.default_rng(0).integers(20, size=150).astype(np.int32)
    train = Interactions(user, item, np.arange(150, dtype=np.int64), IdMap([f"u{u}" for u in range(30)]),
                         IdMap([f"i{i}" for i in range(200)]))
    vectors = spectral_vectors(train, dim=64)
    assert not vectors[20:].any()
    assert vectors[:20].any(axis=1).all()
