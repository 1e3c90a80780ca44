"""Codes of clusters that are never too full: unique once numbered, and alike for items that the same people take."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from semid.errors import DataError
from semid.protocols import Tokenizer
from semid.tokenizers.colarec import ColaRec
from semid.tokenizers.collisions import extra_level
from semid.types import Catalog, IdMap


def catalog(vectors: np.ndarray) -> Catalog:
    return Catalog(IdMap([f"i{k}" for k in range(len(vectors))]), pa.table({"row": range(len(vectors))}), {},
                   {"cf": vectors.astype(np.float32)})


def skewed(count: int = 500, width: int = 8) -> np.ndarray:
    """Half of the items in one dense place, a tenth of them identical."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, width))
    vectors[: count // 2] *= 0.01
    vectors[: count // 10] = vectors[0]
    return vectors


def test_it_is_a_tokenizer():
    assert isinstance(ColaRec("cf", levels=3, size=8).fit(catalog(skewed()), seed=0), Tokenizer)


@pytest.mark.parametrize(("levels", "size"), [(3, 8), (4, 5), (2, 23)])
def test_clusters_keep_to_their_bounds_and_numbers_make_codes_unique(levels, size):
    items = catalog(skewed())
    codes = ColaRec("cf", levels=levels, size=size).fit(items, seed=0).assign(items)
    for level in range(1, levels):
        _, count = np.unique(codes.codes[:, :level], axis=0, return_counts=True)
        assert count.max() <= size ** (levels - level)
    ids = extra_level(codes, np.empty(0), np.zeros(len(items)))
    assert ids.num_distinct == len(items)
    assert ids.levels == levels
    assert max(ids.sizes) <= size


def test_a_full_house_still_fits():
    items = catalog(skewed(64))
    codes = ColaRec("cf", levels=3, size=4).fit(items, seed=0).assign(items).codes
    assert set(np.unique(codes, axis=0, return_counts=True)[1].tolist()) == {4}


def test_distances_and_what_is_left_equal_numpy():
    items = catalog(skewed())
    tokenizer = ColaRec("cf", levels=3, size=8).fit(items, seed=0)
    codes, x = tokenizer.assign(items).codes, items.view("cf")
    own = tokenizer.distances(items, codes)[np.arange(500), codes[:, 1]]
    left = [0.0, 0.0]
    for row, (first, second) in enumerate(codes):
        places = [tokenizer.centroids[0][0, first].numpy(), tokenizer.centroids[1][first, second].numpy()]
        left = [total + ((x[row] - place) ** 2).sum() for total, place in zip(left, places, strict=True)]
        assert own[row] == pytest.approx(((x[row] - places[1]) ** 2).sum(), rel=1e-4, abs=1e-6)
    scattered = ((x - x.mean(0)) ** 2).sum()
    assert tokenizer.unexplained(items, codes) == pytest.approx([part / scattered for part in left], rel=1e-4)
    assert left[1] < left[0] < scattered


def test_saved_centroids_give_the_same_codes_and_another_seed_others(tmp_path):
    items = catalog(skewed())
    fit = lambda seed: ColaRec("cf", size=8).fit(items, seed=seed)
    codes = fit(0).assign(items).codes
    np.testing.assert_array_equal(fit(0).assign(items).codes, codes)
    assert (fit(1).assign(items).codes != codes).any()
    fit(0).save(tmp_path / "tokenizer.safetensors")
    np.testing.assert_array_equal(ColaRec.load(tmp_path / "tokenizer.safetensors").assign(items).codes, codes)


def test_too_many_items_and_too_few_are_told_so():
    with pytest.raises(DataError, match=r"3 levels of 4 codes want 4 to 64 items, got 65; choose a size of at least 5"):
        ColaRec("cf", size=4).fit(catalog(skewed(65)), seed=0)
    with pytest.raises(DataError, match="want 4 to 64 items, got 3"):
        ColaRec("cf", size=4).fit(catalog(skewed(3)), seed=0)
    with pytest.raises(DataError, match="at least 2 levels of at least 2 codes, got 1 of 4"):
        ColaRec("cf", levels=1, size=4)


def test_a_catalogue_that_outgrows_its_clusters_is_told_to_fit_anew():
    """Ten items make clusters with room for few; forty more of the same kind do not fit below them."""
    tokenizer = ColaRec("cf", levels=3, size=4).fit(catalog(np.linspace(0, 9, 10)[:, None]), seed=0)
    with pytest.raises(DataError, match="which was fitted to fewer, got .*fit it to this catalogue"):
        tokenizer.assign(catalog(np.full((60, 1), 0.1)))
