"""Ranking metrics: against ranx where nothing is tied, against all orders where something is."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.errors import DataError
from semid.evaluation.metrics import RANKING, Truth, average_precision, f1, hit, mrr, ndcg, precision, recall, tie_groups
from semid.types import Recommendations


def lists(items, scores=None):
    """Recommendations from ragged lists; scores default to strictly falling ones."""
    width = max((len(row) for row in items), default=0)
    item = np.full((len(items), width), -1, np.int32)
    score = np.full((len(items), width), -np.inf, np.float32)
    for b, row in enumerate(items):
        item[b, : len(row)] = row
        score[b, : len(row)] = np.arange(len(row), 0, -1) if scores is None else scores[b]
    return Recommendations(np.arange(len(items), dtype=np.int32), item, score, "test")


def truth(targets):
    return Truth(np.concatenate([np.asarray(t, np.int32) for t in targets]), np.cumsum([0] + [len(t) for t in targets]))


def one_order(name, order, targets, k):
    """Any ranking metric of one list without ties, in plain Python."""
    places = [p for p, item in enumerate(order[:k]) if item in targets]
    hits = len(places)
    return {
        "recall": hits / len(targets),
        "hit": float(hits > 0),
        "ndcg": sum(1 / np.log2(p + 2) for p in places) / sum(1 / np.log2(p + 2) for p in range(min(len(targets), k))),
        "mrr": 1 / (places[0] + 1) if places else 0.0,
        "map": sum((i + 1) / (p + 1) for i, p in enumerate(places)) / len(targets),
        "precision": hits / k,
        "f1": 2 * hits / (k + len(targets)),
    }[name]


def all_orders(name, groups, targets, k):
    """The metric of every order inside the groups."""
    choices = product(*(permutations(group) for group in groups))
    return [one_order(name, [item for group in choice for item in group], targets, k) for choice in choices]


def test_hand_computed_single_target():
    r, t = lists([[7, 3, 5]]), truth([[5]])
    assert recall(r, t, 2) == 0
    assert recall(r, t, 3) == hit(r, t, 3) == 1
    assert ndcg(r, t, 3) == pytest.approx(1 / 2)  # 1 / log2(4)
    for metric in (mrr, average_precision, precision):
        assert metric(r, t, 3) == pytest.approx(1 / 3)
    assert f1(r, t, 3) == pytest.approx(1 / 2)


def test_two_of_three_equal_scores_share_the_hit():
    r = lists([[1, 2, 3, 4]], [[2.0, 1.0, 1.0, 1.0]])
    assert recall(r, truth([[3]]), 2) == pytest.approx(1 / 3)  # one of three places lies above the cut
    assert recall(r, truth([[3]]), 2, optimistic=True) == 1
    assert mrr(r, truth([[4]]), 4) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert hit(r, truth([[2, 3]]), 3) == pytest.approx(1)  # two places for two of three: one target at least
    assert hit(r, truth([[2, 3]]), 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", RANKING)
def test_metrics_agree_with_plain_python_without_ties(name):
    rng = np.random.default_rng(5)
    items = [rng.permutation(40)[: rng.integers(1, 31)] for _ in range(100)]
    targets = [rng.permutation(40)[: rng.integers(1, 6)] for _ in range(100)]
    for k in (1, 5, 10):
        wanted = [one_order(name, row, goal, k) for row, goal in zip(items, targets)]
        np.testing.assert_allclose(RANKING[name](lists(items), truth(targets), k), wanted, atol=1e-12)


@pytest.mark.slow  # ranx compiles for a minute
@pytest.mark.parametrize("name", RANKING)
def test_metrics_agree_with_ranx_without_ties(name):
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(3)
    items = [rng.permutation(40)[: rng.integers(1, 31)] for _ in range(200)]
    targets = [rng.permutation(40)[: rng.integers(1, 6)] for _ in range(200)]
    qrels = ranx.Qrels({f"q{b:03}": {f"i{i}": 1 for i in t} for b, t in enumerate(targets)})
    run = ranx.Run({f"q{b:03}": {f"i{i}": float(99 - p) for p, i in enumerate(row)} for b, row in enumerate(items)})
    theirs = {"hit": "hit_rate"}.get(name, name)
    for k in (1, 5, 10):
        wanted = ranx.evaluate(qrels, run, f"{theirs}@{k}", return_mean=False, make_comparable=True)
        np.testing.assert_allclose(RANKING[name](lists(items), truth(targets), k), wanted, atol=1e-12)


@pytest.mark.parametrize("name", RANKING)
def test_ties_equal_the_mean_over_all_orders(name):
    cases = [
        ([[1], [2, 3, 4], [5, 6]], [3]),
        ([[1, 2, 3, 4], [5]], [2, 3]),
        ([[1, 2], [3, 4, 5], [6]], [2, 4, 5, 6]),
        ([[1, 2, 3], [4, 5, 6]], [1, 2, 3, 9]),
        ([[1], [2], [3]], [8, 9]),
        ([[1, 2, 3, 4, 5]], [1, 2, 3, 4]),
    ]
    for k in range(1, 8):
        for groups, targets in cases:
            order = [item for group in groups for item in group]
            score = [float(-g) for g, group in enumerate(groups) for _ in group]
            r, t = lists([order], [score]), truth([targets])
            values = all_orders(name, groups, targets, k)
            assert RANKING[name](r, t, k)[0] == pytest.approx(np.mean(values), abs=1e-12)
            assert RANKING[name](r, t, k, optimistic=True)[0] == pytest.approx(max(values), abs=1e-12)


@pytest.mark.parametrize("name", RANKING)
def test_monte_carlo_over_shuffled_groups_is_within_three_sigma(name):
    rng = np.random.default_rng(11)
    score = -np.sort(rng.integers(0, 8, 40)).astype(float)
    targets, k, draws = rng.permutation(50)[:6], 10, 4000
    t, order = truth([targets]), rng.permutation(40)
    shuffled = np.stack([order[np.lexsort((rng.random(40), -score))] for _ in range(draws)])
    values = RANKING[name](lists(shuffled.tolist()), truth([targets] * draws), k)
    sigma = values.std() / np.sqrt(draws)
    assert abs(RANKING[name](lists([order], [score]), t, k)[0] - values.mean()) <= 3 * sigma + 1e-12


@st.composite
def questions(draw):
    """Lists with ties and padding, and one to four targets each, over 12 items."""
    b = draw(st.integers(1, 4))
    items = [draw(st.permutations(range(12)))[: draw(st.integers(0, 12))] for _ in range(b)]
    scores = [sorted(draw(st.lists(st.integers(0, 4), min_size=len(row), max_size=len(row))), reverse=True) for row in items]
    targets = [draw(st.permutations(range(12)))[: draw(st.integers(1, 4))] for _ in range(b)]
    return lists(items, scores), truth(targets), items, targets


@given(questions(), st.integers(1, 14))
@settings(max_examples=150, deadline=None)
def test_values_lie_between_zero_the_optimistic_value_and_one(question, k):
    r, t, *_ = question
    for name, metric in RANKING.items():
        expected, best = metric(r, t, k), metric(r, t, k, optimistic=True)
        assert (expected >= 0).all(), name
        assert (expected <= best + 1e-12).all(), name
        assert (best <= 1 + 1e-12).all(), name


@given(questions())
@settings(max_examples=100, deadline=None)
def test_recall_and_hit_never_fall_as_the_list_grows(question):
    r, t, *_ = question
    for metric in (recall, hit):
        values = np.stack([metric(r, t, k) for k in range(1, 14)])
        assert (np.diff(values, axis=0) >= -1e-12).all()


@given(questions(), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_ndcg_is_one_only_for_a_perfect_list(question, k):
    _, t, items, targets = question
    perfect = [len(set(row[: min(k, len(goal))]) & set(goal)) == min(k, len(goal)) for row, goal in zip(items, targets)]
    plain = lists(items)  # no ties
    assert (np.isclose(ndcg(plain, t, k), 1) == perfect).all()


@given(questions(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_the_cases_changes_nothing(question, random):
    r, t, _, targets = question
    order = list(range(len(t)))
    random.shuffle(order)
    turned = Recommendations(r.user[order], r.item[order], r.score[order], r.scale)
    for metric in RANKING.values():
        np.testing.assert_array_equal(metric(turned, truth([targets[b] for b in order]), 5), metric(r, t, 5)[order])


def test_an_empty_list_scores_zero():
    r, t = lists([[], [3]]), truth([[3], [3]])
    for name, metric in RANKING.items():
        assert metric(r, t, 1).tolist() == [0, 1], name


def test_lists_without_columns_score_zero():
    r, t = lists([[], []]), truth([[3], [3, 4]])
    for metric in RANKING.values():
        assert metric(r, t, 5).tolist() == [0, 0]


def test_the_scores_of_padding_do_not_join_a_tie():
    item = np.array([[4, -1, -1]], np.int32)
    r = Recommendations(np.zeros(1, np.int32), item, np.array([[1, 1, 1]], np.float32), "test")
    assert recall(r, truth([[4]]), 1) == 1


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    items = [rng.permutation(30)[:20] for _ in range(50)]
    scores = [np.sort(rng.integers(0, 5, 20))[::-1] for _ in range(50)]
    t = truth([rng.permutation(30)[: rng.integers(1, 5)] for _ in range(50)])
    whole = {name: metric(lists(items, scores), t, 10) for name, metric in RANKING.items()}
    monkeypatch.setattr("semid.evaluation.metrics.CHUNK", 70)
    for name, metric in RANKING.items():
        np.testing.assert_array_equal(metric(lists(items, scores), t, 10), whole[name])


def test_tie_groups_are_intervals_with_their_targets():
    groups = tie_groups(lists([[9, 1, 2, 3, 8]], [[5, 4, 4, 4, 1]]), truth([[8, 2, 1]]))
    assert groups.first.tolist() == [1, 4]
    assert groups.stop.tolist() == [4, 5]
    assert groups.targets.tolist() == [2, 1]
    assert groups.before.tolist() == [0, 2]


def test_truth_where_drops_cases_without_targets():
    t, rows = truth([[1, 2], [3], [4, 5]]).where(np.array([False, True, False, True, True]))
    assert rows.tolist() == [0, 2]
    assert t.item.tolist() == [2, 4, 5]
    assert t.offsets.tolist() == [0, 1, 3]


def test_truth_refuses_a_case_without_targets():
    with pytest.raises(DataError, match=r"none in case 1"):
        truth([[1], [], [2]])


def test_half_a_million_cases_take_under_two_seconds():
    import time

    rng = np.random.default_rng(0)
    item = rng.integers(0, 3000, (300_000, 50)).astype(np.int32)
    score = -np.sort(rng.integers(0, 40, item.shape), axis=1).astype(np.float32)
    r = Recommendations(np.arange(len(item), dtype=np.int32), item, score, "test")
    t = Truth(rng.integers(0, 3000, len(item)).astype(np.int32), np.arange(len(item) + 1))
    start = time.perf_counter()
    ndcg(r, t, 10)
    assert time.perf_counter() - start < 2  # about 0.06 on an idle core
