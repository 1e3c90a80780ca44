"""What changes when codes are made again, and what only seems to."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from semid.tokenizers.churn import churn
from semid.types import SemanticIds


def ids(codes, size: int) -> SemanticIds:
    codes = np.asarray(codes, np.int16)
    return SemanticIds(codes, (size,) * codes.shape[1])


def test_other_names_for_the_same_codes_are_no_change():
    rng = np.random.default_rng(0)
    old = rng.integers(0, 16, (500, 3))
    new = np.stack([rng.permutation(16)[level] for level in old.T], axis=1)
    assert churn(ids(old, 16), ids(new, 16)) == [0.0, 0.0, 0.0]


def test_items_that_moved_count_once_and_for_all_deeper_levels():
    old = np.repeat(np.arange(4), 25)[:, None] * [1, 1]
    new = old.copy()
    new[:10, 0] = 3  # ten items in another first code, the second as it was
    new[50:55, 1] = 0
    assert churn(ids(old, 4), ids(new, 4)) == pytest.approx([0.10, 0.15])


def test_the_renaming_is_the_best_one_to_one_assignment_and_a_later_fit_may_have_more_codes():
    rng = np.random.default_rng(1)
    old, new = rng.integers(0, 12, (400, 1)), rng.integers(0, 20, (400, 1))
    both = np.zeros((20, 20))
    np.add.at(both, (new[:, 0], old[:, 0]), 1)
    row, column = linear_sum_assignment(-both)
    assert churn(ids(old, 12), ids(new, 20)) == pytest.approx([1 - both[row, column].sum() / 400])
