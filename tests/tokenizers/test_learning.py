import numpy as np
import pyarrow as pa
import pytest
import torch

from semid.data.bundled import movielens
from semid.encoders.hashed import text_vectors
from semid.errors import DataError
from semid.protocols import Tokenizer
from semid.tokenizers import learning
from semid.tokenizers.cost import CoST
from semid.tokenizers.learning import Standardizer, VectorBatches
from semid.tokenizers.letter import Letter
from semid.tokenizers.residual_vq import ResidualVQ
from semid.tokenizers.rqvae import RQVAE
from semid.training.fit import Optimization
from semid.training.log import Log
from semid.types import Catalog, IdMap


def test_an_epoch_holds_every_item_once_and_the_next_in_another_order():
    vectors = torch.randn(10, 3)
    batches = VectorBatches(vectors, batch_size=4, seed=0)
    assert batches.steps_per_epoch == 3
    first, second = (torch.cat([batches.at(step).item for step in range(s, s + 3)]) for s in (0, 3))
    assert [len(batches.at(step).item) for step in range(3)] == [4, 3, 3]
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()
    batch = batches.at(1)
    assert batch.vectors.equal(vectors[batch.item])


def test_standardised_elements_have_mean_zero_and_mean_square_one_with_angles_kept():
    vectors = torch.from_numpy(np.random.default_rng(0).normal(3, 0.01, (500, 8))).float()
    standardize = Standardizer(8)
    standardize.adapt(vectors)
    out = standardize(vectors)
    torch.testing.assert_close(out.mean(0), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(out.square().mean(), torch.tensor(1.0), atol=1e-3, rtol=0)
    centred = vectors - vectors.mean(0)
    got, want = (torch.cosine_similarity(x[0], x[1], dim=0) for x in (out, centred))
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0)


def test_identical_vectors_standardise_to_finite_numbers():
    standardize = Standardizer(4)
    standardize.adapt(torch.ones(5, 4))
    assert torch.isfinite(standardize(torch.ones(5, 4))).all()


def clustered(count: int = 800, dim: int = 24, centres: int = 20) -> Catalog:
    """Items around shared centres in a space of 6 dimensions, seen through a linear map."""
    rng = np.random.default_rng(0)
    inner = rng.normal(size=(centres, 6))[rng.integers(0, centres, count)] + 0.3 * rng.normal(size=(count, 6))
    vectors = (inner @ rng.normal(size=(6, dim)) + 1.0).astype(np.float32)
    views = {"text": vectors, "cf": rng.normal(size=(count, 8)).astype(np.float32)}
    return Catalog(IdMap([f"i{k}" for k in range(count)]), pa.table({"row": list(range(count))}), {}, views)


def films() -> Catalog:
    """The first two thousand bundled films, by hashed words of titles and genres, without those whose words are another's."""
    text = movielens().catalog.text
    vectors = text_vectors([f"{title} {genres}" for title, genres in zip(text["title"][:2000], text["categories"][:2000], strict=True)], 64)
    vectors = vectors[np.sort(np.unique(vectors, axis=0, return_index=True)[1])]
    return Catalog(IdMap([f"i{k}" for k in range(len(vectors))]), pa.table({"row": list(range(len(vectors)))}), {}, {"text": vectors})


FAST = Optimization(learning_rate=3e-3, beta2=0.999, weight_decay=1e-4, clip=1.0, warmup=20)
"""So that a few hundred steps suffice for a few hundred items."""
SMALL = {"levels": 3, "size": 16, "steps": 60, "batch_size": 128}
NETWORK = {"hidden": (32, 16), "latent": 8, **SMALL}
MAKERS = {
    "rqvae": lambda **kw: RQVAE("text", **NETWORK, **kw),
    "residual_vq": lambda **kw: ResidualVQ("text", **SMALL, **kw),
    "cost": lambda **kw: RQVAE("text", loss=CoST(), **NETWORK, **kw),
    "letter": lambda **kw: RQVAE("text", loss=Letter(groups=4), last_epsilon=0.003, **NETWORK, **kw),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@makers
def test_it_is_a_tokenizer_whose_codes_are_used_and_separate_items(make):
    items = clustered(400)
    tokenizer = make().fit(items, seed=0)
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.assign(items)
    assert all(len(np.unique(ids.codes[:, level])) >= 0.9 * 16 for level in range(3))
    assert ids.num_distinct > 0.3 * len(items)
    left = tokenizer.unexplained(items, ids.codes)
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.6
    distances = tokenizer.distances(items, ids.codes)
    assert distances.shape == (400, 16)
    assert (distances.argmin(1) == ids.codes[:, 2]).mean() > 0.99


@makers
def test_same_seed_same_bits(make):
    items = clustered(400)
    a, b = (make().fit(items, seed=3).model.state_dict() for _ in range(2))
    assert all(a[name].equal(b[name]) for name in a)


@makers
def test_training_does_not_touch_the_caller_s_random_state(make):
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    make().fit(clustered(200), seed=0)
    assert torch.rand(3).equal(want)


@makers
def test_a_saved_tokenizer_assigns_the_same_codes(make, tmp_path):
    items = clustered(400)
    tokenizer = make().fit(items, seed=0)
    tokenizer.save(tmp_path / "t.safetensors")
    again = type(tokenizer).load(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(again.assign(items).codes, tokenizer.assign(items).codes)
    assert again.assign(items).source == tokenizer.assign(items).source


@makers
def test_fewer_items_than_codes_is_one_clear_message(make):
    with pytest.raises(DataError, match="want at least 16 items"):
        make().fit(clustered(10), seed=0)


@makers
def test_constant_vectors_are_one_clear_message_and_twins_get_the_same_codes(make):
    items = clustered(64).with_view("text", np.ones((64, 6), np.float32))
    with pytest.raises(DataError, match="want at least 16 different vectors.*all equal; give vectors that tell items apart"):
        make().fit(items, seed=0)
    twins = items.with_view("text", np.repeat(clustered(32).view("text"), 2, axis=0))
    codes = make().fit(twins, seed=0).assign(twins).codes
    np.testing.assert_array_equal(codes[::2], codes[1::2])


@makers
def test_a_run_cut_short_and_resumed_ends_with_the_same_bits(make, tmp_path):
    items = clustered(400)
    whole = make().fit(items, seed=0).model.state_dict()

    def stop(record):
        if record["step"] >= 30:
            raise OSError("power cut")

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(OSError, match="power cut"):
        make(checkpoint=path, log=Log(view=stop)).fit(items, seed=0)
    resumed = make(checkpoint=path).fit(items, seed=0).model.state_dict()
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_the_weights_kept_are_of_the_second_half(monkeypatch):
    """Codebooks start as clusters of what a random network makes of the items, many of whose codes are distinct and say nothing."""
    asked = []
    monkeypatch.setattr(learning, "fit", lambda *args, validation, **settings: asked.append(validation))
    RQVAE("text", size=16, steps=200).fit(clustered(), seed=0)
    [validation] = asked
    assert (validation.since, validation.every, validation.select, validation.patience) == (100, 20, "distinct", None)
