import logging
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.errors import DataError
from semid.tokenizers.collisions import (
    assign_rows,
    collision_report,
    extra_level,
    minimum_cost,
    nearest_free_code,
    next_free,
    next_number,
    popularity_rank,
    sinkhorn,
)
from semid.tokenizers.residual_kmeans import ResidualKMeans
from semid.types import SemanticIds
from tests.tokenizers.test_learning import films

EXACT = [extra_level, partial(extra_level, is_unique_zero=True), popularity_rank, next_free, minimum_cost]


def residual_ids(count: int, *, size: int = 32, duplicates: float = 0.2, levels: int = 3, seed: int = 0):
    """Random vectors, a share of them copies, under random residual codebooks: (ids, distances, popularity)."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 8))
    copies = rng.random(count) < duplicates
    vectors[copies] = vectors[rng.integers(0, count, copies.sum())]
    codes, residual = [], vectors
    for level in range(levels):
        codebook = rng.normal(size=(size, 8)) * 0.6**level
        distances = ((residual[:, None] - codebook) ** 2).sum(2)
        codes.append(distances.argmin(1))
        residual = residual - codebook[codes[-1]]
    ids = SemanticIds(np.stack(codes, 1).astype(np.int16), (size,) * levels, source="test")
    return ids, distances.astype(np.float32), rng.integers(0, 50, count)


def cost(ids, distances):
    return distances[np.arange(len(ids)), ids.codes[:, 2]].sum(dtype=np.float64)


@pytest.mark.parametrize("policy", EXACT)
def test_every_item_has_its_own_codes_with_a_fifth_identical_vectors(policy):
    ids, distances, popularity = residual_ids(5000)
    assert ids.num_distinct < 4500
    after = policy(ids, distances, popularity)
    assert after.num_distinct == 5000
    np.testing.assert_array_equal(after.codes[:, :2], ids.codes[:, :2])
    assert after.source.startswith("test + ")


@pytest.mark.parametrize("policy", EXACT)
@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 60), size=st.integers(1, 4), duplicates=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99))
def test_exact_policies_are_exact_however_crowded(policy, count, size, duplicates, seed):
    ids, distances, popularity = residual_ids(count, size=size, duplicates=duplicates, seed=seed)
    assert policy(ids, distances, popularity).num_distinct == count


@pytest.mark.parametrize("policy", [*EXACT, sinkhorn])
def test_unique_ids_keep_their_codes(policy):
    ids = SemanticIds(np.array([[0, 0], [0, 1], [1, 0]], np.int16), (2, 2))
    after = policy(ids, np.array([[0, 1], [1, 0], [0, 1]], np.float32), np.ones(3, np.int64))
    np.testing.assert_array_equal(after.codes[:, :2], ids.codes)


def test_extra_level_counts_from_zero_as_tiger_and_from_one_as_grid():
    ids = SemanticIds(np.array([[3], [1], [3], [3]], np.int16), (4,))
    args = np.zeros((4, 4), np.float32), np.zeros(4, np.int64)
    assert extra_level(ids, *args).codes.tolist() == [[3, 0], [1, 0], [3, 1], [3, 2]]
    assert extra_level(ids, *args).sizes == (4, 3)
    grid = extra_level(ids, *args, is_unique_zero=True)
    assert grid.codes.tolist() == [[3, 1], [1, 0], [3, 2], [3, 3]]
    assert grid.sizes == (4, 4)


def test_popularity_rank_zero_is_the_most_popular_and_ties_keep_row_order():
    ids = SemanticIds(np.array([[3], [3], [3], [0]], np.int16), (4,))
    after = popularity_rank(ids, np.zeros((4, 4), np.float32), np.array([5, 9, 5, 1]))
    assert after.codes.tolist() == [[3, 1], [3, 0], [3, 2], [0, 0]]


def test_next_free_leaves_the_most_popular_and_moves_others_to_the_nearest_free_code():
    ids = SemanticIds(np.array([[0, 1], [0, 1], [0, 1], [0, 2]], np.int16), (1, 4))
    distances = np.array([[9, 0, 1, 5], [9, 0, 1, 5], [3, 0, 1, 5], [9, 9, 0, 9]], np.float32)
    after = next_free(ids, distances, np.array([2, 7, 3, 1]))
    assert after.codes[:, 1].tolist() == [3, 1, 0, 2]   # row 1 stays; row 2 then row 0 choose; code 2 is taken


@pytest.mark.parametrize("policy", [next_free, minimum_cost])
def test_more_items_than_codes_under_a_prefix_get_one_more_level_said_in_the_log(policy, caplog):
    ids = SemanticIds(np.zeros((10, 2), np.int16), (3, 4))
    with caplog.at_level(logging.WARNING):
        after = policy(ids, np.zeros((10, 4), np.float32), np.arange(10))
    assert after.num_distinct == 10
    assert after.sizes == (3, 4, 3)
    assert (after.codes[6:, 2] == 0).all()              # the four most popular
    assert "6 items" in caplog.text


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 3), (5, 9), (40, 64), (64, 64)])
@pytest.mark.parametrize("kind", ["real", "ties", "equal"])
def test_assign_rows_costs_what_scipy_s_assignment_costs(rows, columns, kind):
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(rows)
    matrix = {"real": rng.random((rows, columns)), "ties": rng.integers(0, 3, (rows, columns)).astype(float),
              "equal": np.ones((rows, columns))}[kind]
    column = assign_rows(matrix)
    assert len(set(column.tolist())) == rows
    want = matrix[optimize.linear_sum_assignment(matrix)].sum()
    assert matrix[np.arange(rows), column].sum() == pytest.approx(want, abs=1e-9)


def test_minimum_cost_never_costs_more_than_next_free():
    for seed in range(5):
        ids, distances, popularity = residual_ids(800, size=16, seed=seed)
        best, greedy = minimum_cost(ids, distances, popularity), next_free(ids, distances, popularity)
        if best.levels == 3:
            assert cost(best, distances) <= cost(greedy, distances) + 1e-3


def test_sinkhorn_separates_unlike_items_and_reports_identical_ones(caplog):
    ids, distances, popularity = residual_ids(600, size=32, duplicates=0.0)
    after = sinkhorn(ids, distances, popularity)
    report = collision_report(ids, after, distances)
    assert report["rate_after"] < report["rate_before"] / 3
    same = SemanticIds(np.zeros((5, 2), np.int16), (2, 8))
    with caplog.at_level(logging.WARNING):
        after = sinkhorn(same, np.tile(np.arange(8, dtype=np.float32), (5, 1)), np.zeros(5, np.int64))
    assert after.num_distinct == 1
    assert "4 of 5 items still share their codes" in caplog.text


@pytest.mark.slow
def test_sinkhorn_leaves_few_of_the_collisions_of_films():
    """Of real vectors, of which no two are equal. Measured: .257 before, .001 after."""
    items = films()
    tokenizer = ResidualKMeans("text", levels=3, size=64).fit(items, seed=0)
    ids = tokenizer.assign(items)
    distances = tokenizer.distances(items, ids.codes)
    report = collision_report(ids, sinkhorn(ids, distances, np.zeros(len(items), np.int64)), distances)
    assert report["rate_before"] > 0.1
    assert report["rate_after"] < report["rate_before"] / 3


def test_collision_report_equals_hand_counts():
    before = SemanticIds(np.array([[0, 0], [0, 0], [0, 0], [1, 1]], np.int16), (2, 4))
    distances = np.tile(np.array([1, 2, 3, 4], np.float32), (4, 1))
    after = next_free(before, distances, np.array([3, 2, 1, 0]))
    assert collision_report(before, after, distances) == {
        "rate_before": 0.5, "rate_after": 0.0, "colliding_share_before": 0.75, "colliding_share_after": 0.0,
        "largest_group_before": 3, "largest_group_after": 1, "moved": 2, "added_levels": 0, "distortion": 8 / 5}


def test_new_items_take_the_wanted_code_or_the_nearest_free_one():
    taken = SemanticIds(np.array([[0, 0], [0, 1], [1, 0]], np.int16), (2, 4))
    distances = np.array([[0.0, 1.0, 3.0, 2.0]] * 3, np.float32)
    codes = nearest_free_code(taken, np.array([[0, 0], [0, 0], [1, 0]]), distances)
    assert codes.tolist() == [[0, 3], [0, 2], [1, 1]]
    free = SemanticIds(taken.codes[1:], (2, 4))
    assert nearest_free_code(free, np.array([[0, 0]]), distances).tolist() == [[0, 0]]
    with pytest.raises(DataError, match=r"new item 2 .*all 4 codes under its prefix \(0,\) are taken"):
        nearest_free_code(taken, np.array([[0, 0]] * 3), distances)


def test_new_items_fill_the_overflow_level_in_turn():
    taken = SemanticIds(np.array([[0, 0, 0], [0, 1, 0]], np.int16), (1, 2, 2))
    codes = nearest_free_code(taken, np.array([[0, 1], [0, 1]]), np.array([[1.0, 0.0]] * 2, np.float32))
    assert codes.tolist() == [[0, 1, 1], [0, 0, 1]]


def test_new_items_get_the_lowest_free_number_of_their_codes():
    taken = SemanticIds(np.array([[3, 0], [3, 2], [5, 0]], np.int16), (8, 3))
    wanted, distances = np.array([[3], [4], [4]]), np.zeros((3, 8), np.float32)
    assert next_number(taken, wanted, distances).tolist() == [[3, 1], [4, 0], [4, 1]]
    assert next_number(taken, wanted, distances, is_unique_zero=True).tolist() == [[3, 1], [4, 0], [4, 1]]
    with pytest.raises(DataError, match="all 3 numbers"):
        next_number(taken, np.array([[3], [3]]), distances)
    alone = SemanticIds(np.array([[3, 1], [3, 2], [5, 0]], np.int16), (8, 4))  # 0 says that an item is alone, and this one isn't
    assert next_number(alone, wanted[:1], distances, is_unique_zero=True).tolist() == [[3, 3]]
    assert next_number(alone, wanted[:1], distances).tolist() == [[3, 0]]
