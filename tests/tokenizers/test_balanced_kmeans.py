"""Balanced residual k-means: even codes at every level, at little more error than plain ones."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from semid.tokenizers.balanced_kmeans import BalancedKMeans
from semid.tokenizers.residual_kmeans import ResidualKMeans
from semid.types import Catalog, IdMap


def skewed(count: int = 500, seed: int = 0) -> Catalog:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 8)).astype(np.float32)
    vectors[: 2 * count // 3] *= 0.2
    names = IdMap([f"i{row}" for row in range(count)])
    return Catalog(names, pa.table({"item_id": names.ids.tolist()}), {}, {"text": vectors})


def entropy(codes: np.ndarray) -> float:
    share = np.bincount(codes) / len(codes)
    return float(-(share[share > 0] * np.log2(share[share > 0])).sum())


@pytest.mark.parametrize("is_exact", [True, False])
def test_codes_of_every_level_are_even_and_plain_ones_are_not(is_exact):
    catalog = skewed()
    balanced = BalancedKMeans("text", levels=3, size=16, is_exact=is_exact).fit(catalog, seed=0)
    codes = balanced.assign(catalog).codes
    for level in range(3):
        size = np.bincount(codes[:, level], minlength=16)
        assert size.max() - size.min() <= 1
    assert entropy(codes[:, 0]) > 0.99 * np.log2(16)
    plain = ResidualKMeans("text", levels=3, size=16).fit(catalog, seed=0)
    theirs = plain.assign(catalog).codes
    assert entropy(theirs[:, 0]) < 0.95 * np.log2(16)
    left, best = balanced.unexplained(catalog, codes)[-1], plain.unexplained(catalog, theirs)[-1]
    assert best < left < (1.75 if is_exact else 4) * best  # the paper's way is the dearer one


def test_known_items_keep_their_codes_over_a_file_and_new_ones_get_the_nearest(tmp_path):
    catalog, new = skewed(), skewed(20, seed=1)
    balanced = BalancedKMeans("text", levels=2, size=16).fit(catalog, seed=0)
    balanced.save(tmp_path / "tokenizer.safetensors")
    again = BalancedKMeans.load(tmp_path / "tokenizer.safetensors")
    np.testing.assert_array_equal(again.assign(catalog).codes, balanced.assign(catalog).codes)
    first = again.assign(new).codes[:, 0]
    distance = ((new.view("text")[:, None] - again.codebooks[0].numpy()) ** 2).sum(2)
    np.testing.assert_array_equal(first, distance.argmin(1))
    assert again.width == 8


def test_same_seed_same_codes():
    fitted = [BalancedKMeans("text", size=8).fit(skewed(100), seed=seed).assign(skewed(100)).codes for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fitted[0], fitted[1])
    assert (fitted[0] != fitted[2]).any()
