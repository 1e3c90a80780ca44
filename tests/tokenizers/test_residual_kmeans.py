import numpy as np
import pyarrow as pa
import pytest
import torch

from semid.errors import DataError, RunError
from semid.protocols import Tokenizer
from semid.tokenizers.residual_kmeans import ResidualKMeans
from semid.tokenizers.view import composed
from semid.types import Catalog, IdMap


def catalog(count: int = 600, **dims: int) -> Catalog:
    rng = np.random.default_rng(0)
    views = {name: rng.normal(size=(count, dim)).astype(np.float32) for name, dim in (dims or {"text": 16}).items()}
    return Catalog(IdMap([f"i{k}" for k in range(count)]), pa.table({"row": list(range(count))}), {}, views)


def test_it_is_a_tokenizer():
    assert isinstance(ResidualKMeans("text", levels=4, size=32).fit(catalog(), seed=0), Tokenizer)


def test_error_falls_with_every_level_and_all_codes_are_used():
    items = catalog()
    tokenizer = ResidualKMeans("text", levels=4, size=32).fit(items, seed=0)
    ids = tokenizer.assign(items)
    assert ids.sizes == (32,) * 4
    left = tokenizer.unexplained(items, ids.codes)
    assert left == sorted(left, reverse=True)
    assert left[0] < 0.9
    assert all(len(np.unique(ids.codes[:, level])) >= 0.9 * 32 for level in range(1, 4))


def test_unexplained_and_distances_equal_numpy():
    items = catalog()
    tokenizer = ResidualKMeans("text", levels=3, size=16).fit(items, seed=0)
    codes, books, x = tokenizer.assign(items).codes, tokenizer.codebooks.numpy(), items.view("text")
    before = x - books[0][codes[:, 0]] - books[1][codes[:, 1]]
    distances = tokenizer.distances(items, codes)
    np.testing.assert_allclose(distances, ((before[:, None] - books[2]) ** 2).sum(2), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(distances.argmin(1), codes[:, 2])
    left = ((before - books[2][codes[:, 2]]) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert tokenizer.unexplained(items, codes)[2] == pytest.approx(left, rel=1e-4)


def test_unit_residuals_leave_less_with_every_level():
    items = catalog()
    tokenizer = ResidualKMeans("text", size=32, unit_residuals=True).fit(items, seed=0)
    left = tokenizer.unexplained(items, tokenizer.assign(items).codes)
    assert left == sorted(left, reverse=True)


def test_same_seed_same_bits_and_another_seed_others():
    items = catalog()
    a, b, c = (ResidualKMeans("text", size=32).fit(items, seed=seed).assign(items).codes for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_new_items_receive_codes_as_old_ones_do():
    items = catalog()
    tokenizer = ResidualKMeans("text", size=32).fit(items, seed=0)
    some = Catalog(IdMap(["n0", "n1"]), pa.table({"row": [0, 1]}), {}, {"text": items.view("text")[5:7]})
    np.testing.assert_array_equal(tokenizer.assign(some).codes, tokenizer.assign(items).codes[5:7])


def test_a_tuple_of_views_stands_side_by_side_with_equal_weight():
    items = catalog(text=16, cf=4)
    items = items.with_view("cf", items.view("cf") * 100)
    both = composed(items, ("text", "cf"))
    assert both.shape == (600, 20)
    np.testing.assert_allclose(np.linalg.norm(both[:, :16], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(both[:, 16:], axis=1), 1, atol=1e-5)
    ids = ResidualKMeans(("text", "cf"), size=16).fit(items, seed=0).assign(items)
    assert ids.source == "residual k-means of text+cf"


def test_a_row_of_zeros_stays_zero_in_a_composed_view():
    items = catalog(2, text=3, cf=2).with_view("cf", np.zeros((2, 2), np.float32))
    assert not composed(items, ("text", "cf"))[:, 3:].any()


def test_fewer_items_than_codes_is_one_clear_message():
    with pytest.raises(DataError, match=r"want at least 256 items.*got 100.*choose size <= 100"):
        ResidualKMeans("text").fit(catalog(100), seed=0)


def test_fewer_different_vectors_than_codes_is_one_clear_message():
    items = catalog().with_view("text", np.repeat(np.eye(24, dtype=np.float32), 25, axis=0))
    with pytest.raises(DataError, match="want at least 32 different vectors.*got 600, 24 of them different; choose size <= 24"):
        ResidualKMeans("text", size=32).fit(items, seed=0)
    assert ResidualKMeans("text", size=24).fit(items, seed=0).assign(items).num_distinct == 24


def test_a_saved_tokenizer_assigns_the_same_codes(tmp_path):
    items = catalog(text=16, cf=4)
    tokenizer = ResidualKMeans(("text", "cf"), size=32, unit_residuals=True).fit(items, seed=0)
    tokenizer.save(tmp_path / "t.safetensors")
    again = ResidualKMeans.load(tmp_path / "t.safetensors")
    assert again.codebooks.equal(tokenizer.codebooks)
    np.testing.assert_array_equal(again.assign(items).codes, tokenizer.assign(items).codes)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "t.safetensors"
    for content in (b"", b"junk" * 10):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"t\.safetensors"):
            ResidualKMeans.load(path)
    with pytest.raises(RunError, match="missing"):
        ResidualKMeans.load(tmp_path / "missing")


def test_sampling_the_items_costs_little_error():
    items = catalog(4000)
    whole, part = (ResidualKMeans("text", size=16, sample=sample).fit(items, seed=0) for sample in (4000, 64))
    a, b = (t.unexplained(items, t.assign(items).codes)[-1] for t in (whole, part))
    assert b < 1.1 * a


def test_codebooks_have_one_row_a_code():
    tokenizer = ResidualKMeans("text", levels=2, size=32).fit(catalog(), seed=0)
    assert tokenizer.codebooks.shape == (2, 32, 16)
    assert tokenizer.codebooks.dtype == torch.float32
