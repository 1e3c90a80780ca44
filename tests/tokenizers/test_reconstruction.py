"""Codes that say everything, something, nothing of a vector."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semid.nn.kmeans import residual_kmeans
from semid.tokenizers import codebooks
from semid.tokenizers.reconstruction import reconstruction_error
from semid.types import SemanticIds


def world(noise: float) -> tuple[SemanticIds, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 8, (2000, 2))
    books = rng.normal(size=(2, 8, 5))
    vectors = books[0][codes[:, 0]] + books[1][codes[:, 1]] + noise * rng.normal(size=(2000, 5))
    return SemanticIds(codes.astype(np.int16), (8, 8)), vectors.astype(np.float32)


def test_sums_of_code_vectors_are_told_whole_and_noise_is_what_is_left():
    assert reconstruction_error(*world(0.0), ridge=1e-6) < 1e-6
    ids, vectors = world(1.0)
    assert reconstruction_error(ids, vectors) == pytest.approx(5 / (vectors - vectors.mean(0)).var(0).sum(), rel=0.1)


def test_codes_without_sense_explain_nothing_even_where_every_item_has_its_own():
    ids, vectors = world(1.0)
    shuffled = SemanticIds(np.random.default_rng(1).permutation(ids.codes), ids.sizes)
    assert reconstruction_error(shuffled, vectors) == pytest.approx(1.0, abs=0.03)
    alone = SemanticIds(np.arange(2000, dtype=np.int16)[:, None], (2000,))
    assert reconstruction_error(alone, vectors) == pytest.approx(1.0, abs=1e-4)


def test_it_is_close_to_the_own_error_of_residual_kmeans():
    _, vectors = world(1.0)
    points = torch.from_numpy(vectors)
    books = residual_kmeans(points, 2, 8, generator=torch.Generator().manual_seed(0))
    ids = codebooks.assign(points, books, source="")
    own = codebooks.unexplained(points, ids.codes, books)[-1]
    assert own * 0.8 < reconstruction_error(ids, vectors) < own * 1.1


def test_items_without_a_vector_and_padding_take_no_part():
    ids, vectors = world(0.0)
    vectors[:500] = 0
    assert reconstruction_error(ids, vectors, ridge=1e-6) < 1e-6
    padded = ids.codes.copy()
    padded[600:, 1] = -1
    assert 0.1 < reconstruction_error(SemanticIds(padded, ids.sizes), vectors) < 0.9
    assert math.isnan(reconstruction_error(ids, np.zeros_like(vectors)))
