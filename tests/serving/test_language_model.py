"""A served language model: new items without training, 8-bit layers, explanations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from semid.data.batch import history_batch
from semid.recipes import minionerec, rere
from semid.run import load, train
from semid.serving.quantized import quantized
from semid.types import Catalog, IdMap
from tests.generators.language import save_model
from tests.toyworld.world import walk

pytest.importorskip("transformers")


@pytest.mark.parametrize("recipe", [minionerec, rere])
def test_linear_layers_of_a_language_model_can_be_8_bit(recipe, tmp_path):
    settings = dataclasses.asdict(recipe.smoke()) | ({"tokenizer_steps": 20} if recipe is minionerec else {})
    settings["tuning"] |= {"model": str(save_model(tmp_path / "model", is_tied=False)), "epochs": 1}
    run = train(recipe.__name__.split(".")[-1], walk(users=20), out=tmp_path / "run", settings=settings)
    small = dataclasses.replace(run, recommender=quantized(run.recommender))
    exact = {row["item_id"]: row["score"] for row in run.recommend(history=["item3", "item5"], k=60)}
    assert all(row["score"] == pytest.approx(exact[row["item_id"]], rel=0.1) for row in small.recommend(history=["item3", "item5"], k=10))


def test_new_items_of_minionerec_get_codes_and_are_recommended(tmp_path):
    world = walk(users=20)
    settings = dataclasses.asdict(minionerec.smoke()) | {"tokenizer_steps": 20}
    settings["tuning"] |= {"epochs": 1}
    train("minionerec", world, out=tmp_path / "run", settings=settings)
    run = load(tmp_path / "run")
    placing = minionerec.newcomers(run.config, world.catalog, tmp_path / "run")
    assert placing is not None
    near = world.catalog.views["text"][5:6] + 0.01
    new = Catalog(IdMap(["fresh"]), world.catalog.table.slice(5, 1), {"title": ["Item fresh"]}, {"text": near})
    codes, vectors = placing.place(new, run.recommender.ids)
    grown = run.recommender.with_items(codes, vectors)
    assert (codes[0, :2] == run.recommender.ids.codes[5, :2]).all()
    assert len(grown.tree) == len(run.recommender.tree) + 1
    answer = grown.recommend(history_batch([np.array([3, 64])], max_history=50), k=65)
    assert set(answer.item[0].tolist()) == set(range(65))
