"""P5 over the two-level generator: every index answers with real items, and names that mean something beat random numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from semid.data.batch import case_batches
from semid.data.split import split
from semid.errors import DataError
from semid.recipes import p5
from semid.recommenders import CodeRecommender
from semid.run import load, train
from semid.training.job import Job
from semid.types import Catalog, Protocol
from semid.validation import measure
from tests.tokenizers.test_p5 import communities
from tests.toyworld.world import walk

INDEXES = ("random", "independent", "title", "sequential", "collaborative", "semantic", "hybrid")


def short(epochs: int = 2, **changes) -> dict:
    settings = dataclasses.asdict(p5.smoke())
    return {**settings, "two_level": {**settings["two_level"], "epochs": epochs}, **changes}


@pytest.mark.parametrize("index", INDEXES)
def test_every_index_fills_its_lists_with_real_items_and_is_read_again(index, tmp_path):
    world = walk(users=60)
    settings = {"two_level": short()["two_level"], **({"leaf": 20, "clusters": 4} if index == "hybrid" else {})}
    run = train(f"p5:{index}", world, out=tmp_path / "run", settings=settings)
    recommender = run.recommender
    assert isinstance(recommender, CodeRecommender)
    assert recommender.ids.num_distinct == len(world.catalog)
    assert (recommender.generator.input.item is not None) == (index == "hybrid")
    assert recommender.generator.input.content is None
    _, batch = next(case_batches(world, world.test))
    answer = recommender.recommend(batch, k=len(world.catalog))
    assert all(len(set(row)) == len(world.catalog) for row in answer.item.tolist())  # codes of all lengths, every item once
    assert (answer.item >= 0).all()
    np.testing.assert_array_equal(load(tmp_path / "run").recommender.recommend(batch, k=10).item, answer.item[:, :10])


def test_under_the_whole_generator_the_same_names_come_with_content_and_ids(tmp_path):
    world = walk(users=60)
    settings = {name: value for name, value in short().items() if name not in ("index", "is_two_level")}
    run = train("p5:two_level_collaborative", world, out=tmp_path / "run", settings=settings)
    recommender = run.recommender
    assert isinstance(recommender, CodeRecommender)
    assert recommender.generator.input.item is not None
    assert recommender.generator.input.content is not None
    alone = p5.names(p5.Config(**{**settings, "index": "collaborative", "two_level": p5.smoke().two_level}), world, Job())
    np.testing.assert_array_equal(recommender.ids.codes, alone.codes)
    _, batch = next(case_batches(world, world.test))
    again = load(tmp_path / "run").recommender.recommend(batch, k=10).item
    np.testing.assert_array_equal(again, recommender.recommend(batch, k=10).item)


def test_items_without_categories_or_titles_say_what_to_give():
    world = walk(users=20)
    bare = dataclasses.replace(world, catalog=Catalog(world.catalog.items, pa.table({"price": world.catalog.table["price"]})))
    for index, wanted in (("semantic", "column of categories"), ("title", "column title or name")):
        with pytest.raises(DataError, match=wanted):
            p5.names(p5.Config(index=index), bare, Job())


def test_categories_are_read_as_values_or_as_paths():
    world = walk(users=20)
    assert p5.category_paths(world.catalog)[:2] == [["c0"], ["c1"]]
    table = pa.table({"categories": [["a", "b"], [], None] * 21 + [["a"]]})
    assert p5.category_paths(Catalog(world.catalog.items, table))[:3] == [["a", "b"], [], []]


def test_clusters_with_private_tokens_beat_random_numbers_where_users_have_communities():
    """The sheet's one asserted order, HID > RID: the mean of three seeds of the same short training."""
    events, _ = communities(users=600)
    world = split(events, Catalog(events.items, pa.table({"row": list(range(len(events.items)))})), Protocol())
    recall = {index: np.mean([measure(train("p5", world, seed=seed, settings=short(4, index=index, clusters=5, leaf=70)).recommender, world,
                                      seen="remove")["recall@10"] for seed in range(3)]) for index in ("hybrid", "random")}
    assert recall["hybrid"] > recall["random"] + 0.02


def test_the_index_is_made_of_training_rows_alone():
    """Items that users took last, moved: no index may change."""
    world = walk()
    blind = dataclasses.replace(world, events=dataclasses.replace(world.events, item=np.zeros_like(world.events.item)),
                                source=dataclasses.replace(world.source, item=np.zeros_like(world.source.item)))
    for index in ("sequential", "collaborative"):
        config = p5.Config(index=index, leaf=20, clusters=4)
        np.testing.assert_array_equal(p5.names(config, blind, Job()).codes, p5.names(config, world, Job()).codes)
