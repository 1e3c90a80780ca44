import numpy as np
import pyarrow as pa
import pytest
import torch

from semid.errors import ConfigError, DataError
from semid.protocols import Tokenizer
from semid.tokenizers.product import Product, balanced_axes
from semid.types import Catalog, IdMap


def catalog(count: int = 500, dim: int = 18) -> Catalog:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(count, dim)) * (1 + np.arange(dim)) ** -1.0 + 2).astype(np.float32)
    return Catalog(IdMap([f"i{k}" for k in range(count)]), pa.table({"row": list(range(count))}), {}, {"text": vectors})


def test_digits_form_a_set_and_all_codes_are_used():
    items = catalog()
    tokenizer = Product("text", digits=4, size=16).fit(items, seed=0)
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.assign(items)
    assert ids.order == "set"
    assert ids.sizes == (16,) * 4
    assert all(len(np.unique(ids.codes[:, digit])) == 16 for digit in range(4))
    np.testing.assert_array_equal(tokenizer.distances(items, ids.codes).argmin(1), ids.codes[:, 3])


def test_the_rotation_keeps_distances_and_balances_variances():
    points = torch.from_numpy(catalog(dim=16).view("text"))
    points = points - points.mean(0)
    axes = balanced_axes(points, 4)
    torch.testing.assert_close(axes.T @ axes, torch.eye(16), atol=1e-5, rtol=0)
    product = (points @ axes).var(0).log().unflatten(0, (4, 4)).sum(1)
    in_order = points.var(0).log().unflatten(0, (4, 4)).sum(1)
    assert product.max() - product.min() < (in_order.max() - in_order.min()) / 3


def test_columns_that_fill_no_piece_are_the_narrowest():
    points = torch.from_numpy(catalog(dim=18).view("text"))
    points = points - points.mean(0)
    axes = balanced_axes(points, 4)
    assert axes.shape == (18, 16)
    assert ((points @ axes).var(0).sum() / points.var(0).sum()) > 0.98


def test_same_seed_same_codes_and_a_saved_tokenizer_assigns_them(tmp_path):
    items = catalog()
    a, b = (Product("text", digits=4, size=16).fit(items, seed=1) for _ in range(2))
    np.testing.assert_array_equal(a.assign(items).codes, b.assign(items).codes)
    a.save(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(Product.load(tmp_path / "t.safetensors").assign(items).codes, a.assign(items).codes)


def test_constant_vectors_are_one_clear_message():
    items = catalog().with_view("text", np.ones((500, 8), np.float32))
    with pytest.raises(DataError, match="want at least 16 different vectors.*all equal"):
        Product("text", digits=4, size=16).fit(items, seed=0)


def test_unexplained_equals_numpy_and_the_last_digit_leaves_the_reconstruction_error():
    items = catalog(dim=16)
    tokenizer = Product("text", digits=4, size=16).fit(items, seed=0)
    codes = tokenizer.assign(items).codes
    vectors, axes = items.view("text").astype(np.float64), tokenizer.rotation.numpy().astype(np.float64)
    centred = vectors - tokenizer.shift.numpy()
    found = tokenizer.unexplained(items, codes)
    for digits in range(1, 5):
        known = np.concatenate([tokenizer.codebooks[d].numpy()[codes[:, d]] * (d < digits) for d in range(4)], axis=1)
        assert found[digits - 1] == pytest.approx(np.square(centred - known @ axes.T).sum() / np.square(centred).sum(), rel=1e-4)
    assert found == sorted(found, reverse=True)


def test_too_many_digits_or_too_few_items_say_what_to_choose():
    with pytest.raises(ConfigError, match="choose digits <= 18"):
        Product("text", digits=32, size=16).fit(catalog(), seed=0)
    with pytest.raises(DataError, match="want at least 256 items"):
        Product("text", digits=4).fit(catalog(100), seed=0)
