"""Purity and head-room, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semid.tokenizers.prefixes import chance_purity, head_room, purity
from semid.types import SemanticIds


def ids(codes, sizes) -> SemanticIds:
    return SemanticIds(np.array(codes, np.int16), sizes)


def test_purity_equals_hand_counts():
    found = ids([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [2, 0]], (3, 2))
    label = np.array([5, 5, 6, 6, 6, -1])
    # code 0 holds 5 5 6: shares 1/2, 1/2, 0; code 1 holds 6 6: 1, 1; the unknown item is left out
    assert purity(found, label)[0] == pytest.approx((0.5 + 0.5 + 0 + 1 + 1) / 5)
    assert purity(found, label)[1] == 1.0  # only the two of (0, 0) share
    assert chance_purity(label) == pytest.approx((2 * 1 + 3 * 2) / (5 * 4))


def test_codes_without_sense_have_the_purity_of_chance_however_fine_they_are():
    rng = np.random.default_rng(0)
    label, codes = rng.choice(4, p=[0.4, 0.3, 0.2, 0.1], size=6000), rng.integers(0, [20, 40], (6000, 2))
    for found in purity(ids(codes, (20, 40)), label):
        assert found == pytest.approx(chance_purity(label), abs=0.02)


def test_items_alone_say_nothing():
    assert all(math.isnan(share) for share in purity(ids([[0], [1]], (2,)), np.array([0, 0])))


def test_head_room_counts_free_last_codes_as_items_see_them():
    found = head_room(ids([[0, 0], [0, 1], [0, 2], [1, 0], [1, 0], [2, 1]], (3, 3)))
    # prefix 0 is full for three items, prefixes 1 and 2 have two free for the other three
    assert found == {"least": 0, "median": 1.0, "full": 0.5}
