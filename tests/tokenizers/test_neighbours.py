"""Neighbours that share codes, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semid.tokenizers.neighbours import agreement, chance, nearest
from semid.types import SemanticIds


def test_nearest_equals_numpy_and_knows_nobody_without_a_vector():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 6)).astype(np.float32)
    vectors[[3, 7]] = 0
    rows, found = nearest(vectors, np.array([0, 3, 9, 40]), 5)
    assert rows.tolist() == [0, 9, 40]
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    for row, near in zip(rows, found, strict=True):
        cosine = unit @ unit[row]
        cosine[[row, 3, 7]] = -2
        assert near.tolist() == np.argsort(-cosine)[:5].tolist()


def test_without_two_known_items_nobody_has_a_neighbour():
    rows, found = nearest(np.eye(4, dtype=np.float32) * [[1], [0], [0], [0]], np.arange(4), 3)
    assert len(rows) == 0
    assert all(math.isnan(share) for share in agreement(SemanticIds(np.zeros((4, 2), np.int16), (1, 1)), rows, found))


def test_agreement_counts_prefixes_of_paths_and_any_digits_of_sets():
    codes = np.array([[0, 1, 2], [0, 1, 3], [1, 1, 2], [0, 2, 2]], np.int16)
    rows, neighbour = np.array([0, 1]), np.array([[1, 2], [0, 3]])
    # 0-1 share two codes, 0-2 none (though their last two are equal), 1-0 two, 1-3 one
    assert agreement(SemanticIds(codes, (2, 3, 4)), rows, neighbour) == [0.75, 0.5, 0.0]
    # as digits: 0-1 two, 0-2 two, 1-0 two, 1-3 one
    assert agreement(SemanticIds(codes, (2, 3, 4), "set"), rows, neighbour) == [1.0, 0.75, 0.0]


def test_padding_is_shared_by_nobody():
    ids = SemanticIds(np.array([[0, -1], [0, -1]], np.int16), (1, 2))
    assert agreement(ids, np.array([0]), np.array([[1]])) == [1.0, 0.0]


def test_chance_is_what_even_codes_have():
    codes = np.stack(np.meshgrid(range(4), range(8), range(20), indexing="ij"), -1).reshape(-1, 3)[:, :2].astype(np.int16)
    first, second = chance(SemanticIds(codes, (4, 8)))
    assert first == pytest.approx(159 / 639, abs=0.005)  # of 639 others, 159 have the first code too
    assert second == pytest.approx(19 / 639, abs=0.003)
