"""Human priors as a recipe: asking for a prior gives its items alone; priors give lists of more tags than interests without priors."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from semid.data.batch import case_batches
from semid.data.split import split
from semid.errors import ConfigError, DataError
from semid.recipes import human_priors
from semid.run import load, train
from semid.training.job import Job
from semid.training.log import Log
from semid.types import Catalog, IdMap, Protocol, Split
from tests.toyworld.world import events_of, walk

SHORT = replace(human_priors.smoke(), epochs=1)


def settings(config: human_priors.Config) -> dict:
    return dataclasses.asdict(config)


def test_a_head_asked_for_its_prior_returns_items_with_it_and_nothing_else(tmp_path):
    world = walk(users=60)
    run = train("human_priors", world, out=tmp_path / "run", settings=settings(SHORT))
    category = np.array(world.catalog.table["category"].to_pylist())
    for opened in (run, load(tmp_path / "run")):
        asked = opened.asked("category=c2")
        for _, batch in case_batches(world, world.test):
            found = asked.recommender.recommend(batch, k=10, seen="remove")
            assert (found.item >= 0).all()
            assert (category[found.item] == "c2").all()
        answers = asked.recommend(history=["item3", "item5"], k=16)
        assert {a["item_id"] for a in answers} == {f"item{i}" for i in range(2, 64, 4)}
    with pytest.raises(DataError, match=r"unknown prior 'category=c7' \(did you mean 'category="):
        run.asked("category=c7")
    with pytest.raises(ConfigError, match="popularity has no heads of priors; train human_priors"):
        train("popularity", world).asked("category=c2")


@pytest.mark.parametrize("variant", ["single", "multi_interest", "gated", "hstu", "first_seen", "mixture"])
def test_a_variant_trains_and_answers_alike_from_its_folder(variant, tmp_path):
    world = walk(users=60)
    own = human_priors.VARIANTS[variant]
    run = train(f"human_priors:{variant}", world, out=tmp_path / "run", settings=settings(SHORT) | own)
    _, batch = next(case_batches(world, world.test))
    ours, theirs = (r.recommender.recommend(batch, k=10) for r in (run, load(tmp_path / "run")))
    np.testing.assert_array_equal(ours.item, theirs.item)
    np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-5)
    if variant in ("single", "multi_interest"):
        with pytest.raises(ConfigError, match="the heads of this model stand for no priors"):
            run.asked("category=c1")


def test_items_without_categories_are_told_what_is_missing():
    world = walk(users=20)
    bare = dataclasses.replace(world, catalog=Catalog(world.catalog.items, pa.table({"price": world.catalog.table["price"]})))
    with pytest.raises(DataError, match="want items with a column of tags, such as category"):
        human_priors.run(SHORT, bare, Job())
    assert human_priors.run(replace(SHORT, priors=("price",), most=3), bare, Job()).names[0] == "price=0.."


@pytest.mark.parametrize(("changes", "message"), [
    ({"horizon": 3, "segments": 2}, "want a horizon that 2 segments divide, got 3"),
    ({"heads": "free", "gate": 0.5}, "want heads of priors to turn off, got free heads"),
])
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        human_priors.run(replace(SHORT, **changes), walk(users=20), Job())


def test_the_control_of_shuffled_tags_weighs_its_heads_by_the_tags_it_has():
    """Item 0 is half of all events: whose head it is then decides the shares."""
    world, records = walk(users=60), []
    popular = world.train.item.copy()
    popular[::2] = 0
    world = replace(world, train=replace(world.train, item=popular))
    recommender = human_priors.run(replace(SHORT, is_shuffled=True), world, Job(log=Log(view=records.append)))
    tags = recommender.scorer.tags.numpy()
    assert tags.sum(1).tolist() == [1] * 64
    own = np.array([world.train.counts[tags[:, head]].sum() for head in range(tags.shape[1])]) / len(world.train)
    share = next(record["share"] for record in records if "share" in record)
    np.testing.assert_allclose(list(share.values()), own, atol=1e-4)


TAGS, ITEMS = 8, 48


def one_of_each_tag(seed: int, users: int = 300, length: int = 30) -> tuple[Split, np.ndarray]:
    """Item i of tag i mod 8 is followed by one of its eight successors, int64 [N, 8], one of each tag, each as likely."""
    rng = np.random.default_rng(seed)
    after = rng.integers(ITEMS // TAGS, size=(ITEMS, TAGS)) * TAGS + np.arange(TAGS)
    item = [rng.integers(ITEMS, size=users)]
    for _ in range(length - 1):
        item.append(after[item[-1], rng.integers(TAGS, size=users)])
    names = IdMap([f"i{i}" for i in range(ITEMS)])
    catalog = Catalog(names, pa.table({"category": [f"c{i % TAGS}" for i in range(ITEMS)]}))
    return split(events_of(np.stack(item, axis=1), names), catalog, Protocol()), after


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_heads_find_a_successor_of_each_tag_and_with_the_tags_of_other_items_they_do_not(seed):
    world, after = one_of_each_tag(seed)
    config = human_priors.Config(horizon=1, segments=1, negatives=ITEMS, width=16, num_heads=1, feedforward=64, dropout=0.0, epochs=30,
                                 patience=30, optimization=replace(SHORT.optimization, weight_decay=0.0))
    found = {}
    for is_shuffled in (False, True):
        recommender, hits = human_priors.run(replace(config, is_shuffled=is_shuffled), world, Job(seed=seed)), []
        for _, batch in case_batches(world, world.test):
            last = batch.item.numpy()[np.arange(len(batch)), batch.length.numpy() - 1]
            lists = recommender.recommend(batch, k=TAGS, seen="keep").item
            hits += [np.isin(row, right).mean() for row, right in zip(lists, after[last], strict=True)]
        found[is_shuffled] = np.mean(hits)
    assert found[False] > found[True] + 0.15
