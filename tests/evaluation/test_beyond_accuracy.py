"""What lists are like: hand-computed fractions and brute force."""

import numpy as np
import pyarrow as pa
import pytest

from semid.errors import DataError
from semid.evaluation import beyond_accuracy as beyond
from semid.types import Catalog, IdMap, Interactions, Recommendations, SemanticIds


def lists(items):
    item = np.array(items, np.int32)
    score = np.broadcast_to(np.arange(item.shape[1], 0, -1, np.float32), item.shape).copy()
    return Recommendations(np.arange(len(item), dtype=np.int32), item, score, "test")


def test_exposure_counts_the_first_k_only():
    r = lists([[0, 1, 2], [0, 3, -1]])
    assert beyond.exposure(r, 5, 2).tolist() == [2, 1, 0, 1, 0]
    assert beyond.coverage(beyond.exposure(r, 5, 2)) == 3 / 5


def test_gini_is_half_the_relative_mean_absolute_difference():
    x = np.random.default_rng(0).integers(0, 20, 30)
    assert beyond.gini(x) == pytest.approx(np.abs(x[:, None] - x).mean() / (2 * x.mean()))


def test_gini_and_entropy_at_their_extremes():
    assert beyond.gini(np.array([3, 3, 3, 3])) == 0
    assert beyond.gini(np.array([0, 0, 0, 7])) == 3 / 4
    assert beyond.entropy(np.array([3, 3, 3, 3])) == 2
    assert beyond.entropy(np.array([0, 0, 0, 7])) == 0
    assert np.isnan(beyond.gini(np.zeros(4, int)))
    assert np.isnan(beyond.entropy(np.zeros(4, int)))


def train(user, item, users=3, items=4):
    ids = lambda n: IdMap([str(i) for i in range(n)])
    return Interactions(np.array(user, np.int32), np.array(item, np.int32), np.arange(len(user)), ids(users), ids(items))


def test_a_repeat_does_not_make_an_item_better_known():
    assert beyond.known_share(train([0, 0, 0, 1], [2, 2, 3, 2])).tolist() == [0, 0, 1, 1 / 2]  # user 2 trains nothing


def test_novelty_is_the_mean_share_of_users_who_do_not_know():
    known = np.array([1, 1 / 2, 0, 0])
    assert beyond.novelty(lists([[0, 1, 2], [2, 3, -1]]), known, 2).tolist() == [1 / 4, 1]


def test_popularity_of_lists():
    popularity = np.array([6, 2, 1, 1])
    r = lists([[0, 1, 2], [2, -1, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(beyond.arp(r, popularity, 3), [3, 1, np.nan])
    assert beyond.long_tail(popularity).tolist() == [False, False, True, True]  # 6 + 2 of 10 are the head
    np.testing.assert_allclose(beyond.aplt(r, beyond.long_tail(popularity), 3), [1 / 3, 1, np.nan])


def test_popularity_lift_compares_lists_with_histories():
    popularity = np.array([6, 2, 1, 1])
    r = lists([[0], [1]])
    assert beyond.popularity_lift(r, popularity, np.array([2.0, 2.0]), 1) == 1  # 4 against 2: twice as popular
    assert beyond.popularity_lift(r, popularity, np.array([6.0, np.nan]), 1) == 0  # the other has no history
    assert np.isnan(beyond.popularity_lift(r, popularity, np.array([0.0, 0.0]), 1))  # of items that nobody took in training


def test_history_mean_equals_a_loop(monkeypatch):
    rng = np.random.default_rng(1)
    item, value = rng.integers(0, 9, 60), rng.random((9, 4))
    begin = rng.integers(0, 50, 30)
    end = begin + rng.integers(0, 10, 30)
    wanted = np.stack([value[item[a:b]].mean(axis=0) if b > a else np.full(4, np.nan) for a, b in zip(begin, end)])
    np.testing.assert_allclose(beyond.history_mean(item, begin, end, value), wanted)
    monkeypatch.setattr(beyond, "CHUNK", 40)
    np.testing.assert_allclose(beyond.history_mean(item, begin, end, value), wanted)
    np.testing.assert_allclose(beyond.history_mean(item, begin, end, value[:, 0]), wanted[:, 0])


def test_diversity_is_the_mean_cosine_distance_of_pairs(monkeypatch):
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((20, 5)).astype(np.float32)
    items = np.stack([rng.permutation(20)[:6] for _ in range(9)])
    items[0, 4:], items[1, 1:], items[2] = -1, -1, -1
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def loop(row):
        row = [i for i in row if i >= 0]
        pairs = [1 - unit[i] @ unit[j] for n, i in enumerate(row) for j in row[:n]]
        return np.mean(pairs) if pairs else np.nan

    for chunk in (4_000_000, 60):
        monkeypatch.setattr(beyond, "CHUNK", chunk)
        np.testing.assert_allclose(beyond.diversity(lists(items), vectors, 6), [loop(row) for row in items], rtol=1e-5)


def test_code_diversity_is_the_height_at_which_paths_meet():
    codes = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 5, 0], [3, 0, 0, 0]], np.int16)
    ids = SemanticIds(codes, (8, 8, 8, 8))
    pairs = {(0, 1): 1 / 4, (0, 2): 2 / 4, (0, 3): 1}
    for pair, distance in pairs.items():
        assert beyond.code_diversity(lists([pair]), ids, 2) == distance
    assert beyond.code_diversity(lists([[0, 1, 3, -1]]), ids, 4)[0] == pytest.approx((1 / 4 + 1 + 1) / 3)
    as_set = SemanticIds(codes, (8, 8, 8, 8), order="set")
    assert beyond.code_diversity(lists([[0, 3]]), as_set, 2) == 1 / 4  # one digit of four differs
    assert np.isnan(beyond.code_diversity(lists([[0, -1]]), ids, 2))


def test_category_shares_split_an_item_among_its_categories():
    table = pa.table({"genres": [["b", "a"], ["b"], [], None], "brand": ["x", None, "x", ""]})
    catalog = Catalog(IdMap(list("pqrs")), table)
    assert beyond.category_shares(catalog, "genres").tolist() == [[1 / 2, 1 / 2], [0, 1], [0, 0], [0, 0]]
    assert beyond.category_shares(catalog, "brand").tolist() == [[1], [0], [1], [0]]
    with pytest.raises(DataError, match="genres, brand"):
        beyond.category_shares(catalog, "genre")


def test_category_entropy_by_hand(monkeypatch):
    shares = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0.5, 0.5]], np.float32)
    r = lists([[0, 0], [0, 1], [0, 2], [0, 3], [2, -1], [-1, -1]])
    for chunk in (4_000_000, 6):
        monkeypatch.setattr(beyond, "CHUNK", chunk)
        np.testing.assert_allclose(beyond.category_entropy(r, shares, 2), [0, 1, 0, 1.5, np.nan, np.nan])


def test_miscalibration_by_hand():
    shares = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    history = np.array([[0.5, 0.5], [0.5, 0.5], [1, 0], [np.nan, np.nan], [0.5, 0]])
    got = beyond.miscalibration(lists([[0, 1], [0, 0], [0, 2], [0, 1], [2, -1]]), shares, history, 2)
    one_sided = 0.5 * np.log(0.5 / (0.99 + 0.01 * 0.5)) + 0.5 * np.log(0.5 / (0.01 * 0.5))
    np.testing.assert_allclose(got, [0, one_sided, 0, np.nan, np.nan], atol=1e-12)


@pytest.mark.parametrize("column", [pa.array([None, None], pa.string()), pa.array([[], []], pa.list_(pa.string()))])
def test_a_column_of_categories_without_any_is_none(column):
    assert beyond.known_categories(Catalog(IdMap(["a", "b"]), pa.table({"category": column}))) is None
