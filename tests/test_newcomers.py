"""New items are expected to be taken like the known ones that read like them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from semid.newcomers import NEAREST, Newcomers
from semid.recipes import cost, semid
from semid.run import find_recipe, train
from semid.tokenizers.collisions import nearest_free_code
from semid.tokenizers.residual_kmeans import ResidualKMeans
from semid.types import Catalog, IdMap
from tests.toyworld.world import walk


@pytest.mark.parametrize("changes", [{}, {"code_views": ("text",)}, {"tokenizer": "rqvae", "tokenizer_steps": 40},
                                     {"tokenizer": "product"}], ids=str)
def test_a_new_item_gets_the_codes_of_its_twin_and_all_the_content_that_the_generator_reads(changes: dict, tmp_path: Path):
    settings = dataclasses.asdict(dataclasses.replace(semid.smoke(), text="auto", epochs=1, cf_dim=8, **changes))
    data = walk(users=60)
    run = train("semid", data, out=tmp_path / "run", settings=settings)
    content = run.recommender.generator.input.content.numpy()
    found = semid.newcomers(run.config, run.catalog, run.folder)
    assert found is not None
    twin = Catalog(IdMap(["new"]), data.catalog.table.slice(5, 1), {}, {"text": data.catalog.view("text")[5:6]})
    codes, vectors = found.place(twin, run.recommender.ids)
    assert vectors.shape == (1, content.shape[1])
    np.testing.assert_allclose(vectors[0, :16], content[5, :16], atol=1e-5)
    if changes.get("code_views") == ("text",):
        assert codes[0, :-1].tolist() == run.recommender.ids.codes[5, :-1].tolist()
    assert codes[0].tolist() not in run.recommender.ids.codes.tolist()


@pytest.mark.parametrize("name", ["letter", "letter:two_level", "cost", "cost:two_level", "discrec"])
def test_a_new_item_gets_the_prefix_of_its_twin_from_a_learnt_tokenizer(name: str, tmp_path: Path):
    """By text alone: behaviour shaped LETTER's encoder, but isn't read by it."""
    data = walk(users=60)
    run = train(name, data, out=tmp_path / "run", settings=short(dataclasses.asdict(find_recipe(name)[0].smoke())))
    found = find_recipe(name)[0].newcomers(run.config, run.catalog, run.folder)
    assert found is not None
    twin = Catalog(IdMap(["new"]), data.catalog.table.slice(5, 1), {}, {"text": data.catalog.view("text")[5:6]})
    ids = run.recommender.ids
    codes, _ = found.place(twin, ids)
    assert codes.shape == (1, ids.codes.shape[1])
    assert codes[0, :2].tolist() == ids.codes[5, :2].tolist()
    assert codes[0].tolist() not in ids.codes.tolist()


def short(settings: dict) -> dict:
    """A handful of steps, and vectors of behaviour that need none; no variant's own."""
    quick = {"epochs": 1, "epoch_steps": 0, "steps": 10, "look_every": 10, "tokenizer_steps": 40, "cf": "spectral", "groups": 2,
             "text": "auto"}
    return {name: short(value) if isinstance(value, dict) else quick.get(name, value) for name, value in settings.items()
            if name != "is_two_level"}


def test_a_generator_without_content_takes_no_new_items(tmp_path: Path):
    settings = dataclasses.asdict(dataclasses.replace(semid.smoke(), text="auto", epochs=1, has_content=False))
    run = train("semid", walk(users=60), out=tmp_path / "run", settings=settings)
    assert semid.newcomers(run.config, run.catalog, run.folder) is None


def test_hstu_takes_no_new_items_under_codes_of_another_recipe_either(tmp_path: Path):
    two_level = dataclasses.replace(semid.smoke(), text="auto", epochs=1, cf_dim=8, temporal="hstu")
    settings = dataclasses.asdict(dataclasses.replace(cost.smoke(), is_two_level=True, two_level=two_level))
    run = train("cost", walk(users=60), out=tmp_path / "run", settings=settings)
    assert cost.newcomers(run.config, run.catalog, run.folder) is None


def test_expected_behaviour_is_the_weighted_mean_of_the_nearest_by_text():
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    text, past = unit(rng.normal(size=(30, 6))).astype(np.float32), unit(rng.normal(size=(30, 4))).astype(np.float32)
    newcomers = Newcomers(ResidualKMeans(("text", "cf")), ("text", "cf"), 10, "none", {"cf": 4}, nearest_free_code, walk().catalog)
    new = unit(rng.normal(size=(3, 6))).astype(np.float32)
    name, found = newcomers._expected(new, np.concatenate([text, past], axis=1))
    assert name == "cf"
    for row in range(3):
        cosine = text @ new[row]
        near = np.argsort(-cosine)[:NEAREST]
        mean = (np.maximum(cosine[near], 0)[:, None] * past[near]).sum(0)
        assert np.allclose(found[row], mean / np.linalg.norm(mean), atol=1e-5)
    assert not newcomers._expected(np.zeros((1, 6), np.float32), np.concatenate([text, past], axis=1))[1].any()
