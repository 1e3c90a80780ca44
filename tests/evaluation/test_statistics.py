"""Intervals, paired tests and Holm: against scipy and by hand."""

import time
from itertools import product

import numpy as np
import pytest
from scipy import stats

from semid.errors import DataError
from semid.evaluation.statistics import AcrossSeeds, across_seeds, bootstrap, holm, paired_permutation


@pytest.mark.parametrize("values", [
    np.random.default_rng(0).binomial(1, 0.08, 4000).astype(float),  # few distinct values: the multinomial way
    np.random.default_rng(1).gamma(2, 1, 400),  # all distinct: the way by indices
], ids=["few values", "all distinct"])
def test_bootstrap_agrees_with_scipy(values):
    ours = bootstrap(values, samples=20_000, seed=0)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, batch=500, method="percentile", rng=0).confidence_interval
    error = values.std() / np.sqrt(len(values))
    assert ours == pytest.approx(tuple(theirs), abs=0.05 * error)


def test_bootstrap_covers_the_truth_at_its_level():
    rng = np.random.default_rng(2)
    intervals = [bootstrap(rng.binomial(1, 0.3, 300).astype(float), samples=300, seed=s, level=0.9) for s in range(400)]
    assert np.mean([low <= 0.3 <= high for low, high in intervals]) == pytest.approx(0.9, abs=0.05)


def test_bootstrap_is_a_function_of_its_seed():
    values = np.random.default_rng(3).random(500)
    assert bootstrap(values, seed=7) == bootstrap(values, seed=7) != bootstrap(values, seed=8)


def test_bootstrap_refuses_no_values():
    with pytest.raises(DataError, match="no cases"):
        bootstrap(np.empty(0))


def test_bootstrap_of_many_users_is_quick():
    values = np.random.default_rng(4).binomial(10, 0.1, 600_000) / 10
    start = time.perf_counter()
    bootstrap(values)
    assert time.perf_counter() - start < 2  # about 0.05 on an idle core


def test_permutation_equals_full_enumeration():
    a, b = np.array([0.3, 0.9, 0.5, 0.8, 0.1, 0.7, 1.0, 0.6]), np.array([0.1, 0.4, 0.6, 0.2, 0.1, 0.3, 0.9, 0.2])
    flips = np.array(list(product([1, -1], repeat=8))) @ (a - b)
    exact = (np.abs(flips) >= abs((a - b).sum()) - 1e-9).mean()
    assert paired_permutation(a, b, samples=40_000) == pytest.approx(exact, abs=4 * np.sqrt(exact / 40_000))


@pytest.mark.parametrize("shift", [0.0, 0.004, 0.01])
def test_permutation_agrees_with_scipy(shift):
    rng = np.random.default_rng(5)
    a, b = rng.choice([0, 0, 0, 0.5, 1], 600) + shift, rng.choice([0, 0, 0, 0.5, 1], 600)
    ours = paired_permutation(a, b, samples=10_000, seed=1)
    theirs = stats.permutation_test((a, b), lambda x, y, axis: (x - y).mean(axis=axis), vectorized=True, batch=200,
                                    permutation_type="samples", n_resamples=10_000, rng=1).pvalue
    assert ours == pytest.approx(theirs, abs=0.025)


def test_permutation_of_equal_runs_is_one():
    a = np.random.default_rng(6).random(50)
    assert paired_permutation(a, a) == 1


def test_permutation_is_symmetric_and_never_zero():
    a, b = np.ones(200), np.zeros(200)
    assert paired_permutation(a, b, samples=999) == paired_permutation(b, a, samples=999) == 1 / 1000


def test_permutation_under_the_null_is_uniform():
    rng = np.random.default_rng(7)
    p = [paired_permutation(*rng.binomial(1, 0.2, (2, 200)).astype(float), samples=400, seed=s) for s in range(300)]
    assert np.mean(np.array(p) <= 0.1) <= 0.15


def test_permutation_refuses_unequal_cases():
    with pytest.raises(DataError, match="10 and 9"):
        paired_permutation(np.zeros(10), np.zeros(9))


def test_holm_by_hand():
    # Sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1 -> never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(8)
    for _ in range(100):
        p = rng.random(6) ** 3
        rejected, alpha = np.zeros(6, bool), 0.05
        for step, i in enumerate(np.argsort(p)):
            if p[i] > alpha / (6 - step):
                break
            rejected[i] = True
        assert ((holm(p) <= alpha) == rejected).all()


def test_seeds_are_summarised_by_their_means():
    assert across_seeds([np.array([0.0, 1.0]), np.array([1.0, 1.0]), np.array([0.0, 0.0])]) == AcrossSeeds(0.5, 0.5, 3)


def test_one_seed_has_no_spread():
    assert across_seeds([np.array([0.0, 1.0])]) == AcrossSeeds(0.5, None, 1)


def test_cases_of_one_user_count_as_one_user():
    """Four equal cases a user say no more than one: the interval and p-value are those of the users, not half as wide."""
    rng = np.random.default_rng(0)
    a, b, user = rng.random(300), rng.random(300), np.arange(300)
    often, several = np.repeat(a, 4), np.repeat(user, 4)
    low, high = bootstrap(often, user=several, samples=4000)
    wanted = np.subtract(*bootstrap(a, samples=4000)[::-1])
    assert high - low == pytest.approx(wanted, rel=0.06)
    assert np.subtract(*bootstrap(often, samples=4000)[::-1]) < 0.6 * wanted
    assert paired_permutation(often, np.repeat(b, 4), user=several) == paired_permutation(a, b, user=user) == paired_permutation(a, b)


def test_users_of_many_cases_weigh_by_their_cases():
    values, user = np.array([1.0, 1.0, 1.0, 0.0]), np.array([7, 7, 7, 9])
    assert bootstrap(values, user=user) == (0.0, 1.0)
    assert bootstrap(np.ones(4), user=user) == (1.0, 1.0)
