"""Every recipe, in its `smoke` configuration, finds the known successor in the toy world; and a saved run answers alike."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from pydantic import TypeAdapter

from semid.config import override
from semid.data.batch import case_batches
from semid.recipe_cards import recipe_names
from semid.recipes import semid
from semid.run import find_recipe, load, train
from semid.training.log import read_records
from semid.validation import measure
from tests.toyworld.world import walk

KNOWS_NO_ORDER = {"popularity": 0.0, "ease": 0.3, "lightgcn": 0.3, "ngcf": 0.3, "alpharec": 0.3, "mmgrec": 0.3, "colarec": 0.3}
"""Floors of systems that cannot know the direction of the walk; all others must nearly always be right."""


SLOW = ("minionerec", "rere", "colarec", "cost", "discrec", "mmgrec", "onerec")
"""Systems whose training takes ten seconds or more; `test_same_seed_gives_the_same_bits` trains all for a few steps."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in recipe_names()])
def test_recipe_finds_the_known_successor(name, tmp_path):
    world = walk()
    module, _ = find_recipe(name)
    settings = {key: value for key, value in dataclasses.asdict(module.smoke()).items()}
    run = train(name, world, out=tmp_path / "run", settings=settings)
    assert measure(run.recommender, world, seen="remove")["ndcg@10"] >= KNOWS_NO_ORDER.get(name, 0.9)

    again = load(tmp_path / "run")
    rows, batch = next(case_batches(world, world.test))
    ours = run.recommender.recommend(batch, k=10, seen="remove")
    theirs = again.recommender.recommend(batch, k=10, seen="remove")
    np.testing.assert_array_equal(ours.item, theirs.item)
    np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-5)


def shortened(settings: dict) -> dict:
    """The same settings, groups of them as well, with a handful of training steps."""
    short = {"epochs": 1, "epoch_steps": 0, "steps": 10, "tokenizer_steps": 10}
    return {name: shortened(value) if isinstance(value, dict) else short.get(name, value) for name, value in settings.items()}


@pytest.mark.parametrize("name", recipe_names())
def test_same_seed_gives_the_same_bits(name):
    module, _ = find_recipe(name)
    settings = shortened(dataclasses.asdict(module.smoke()))
    lists = []
    for _ in range(2):
        world = walk(users=60)
        recommender = train(name, world, settings=settings, seed=3).recommender
        _, batch = next(case_batches(world, world.test))
        lists.append(recommender.recommend(batch, k=20))
    np.testing.assert_array_equal(lists[0].item, lists[1].item)
    np.testing.assert_array_equal(lists[0].score, lists[1].score)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sasrec", "semid", "parallel"])
def test_the_defaults_learn_a_log_whose_epoch_is_a_single_batch(name):
    """120 users on the ring: twelve passes were twelve steps once, and learnt nothing."""
    world = walk(users=120)
    assert measure(train(name, world).recommender, world, seen="remove")["ndcg@10"] >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["letter", "cost"])
def test_codes_of_a_tokenizer_work_under_the_two_level_generator_too(name, tmp_path):
    world, module = walk(), find_recipe(name)[0]
    settings = {**dataclasses.asdict(module.smoke()), "two_level": {**dataclasses.asdict(semid.smoke()), "text": "auto"}}
    run = train(f"{name}:two_level", world, out=tmp_path / "run", settings=settings | {"is_two_level": True})
    assert measure(run.recommender, world, seen="remove")["ndcg@10"] >= 0.9
    assert measure(load(tmp_path / "run").recommender, world, seen="remove") == measure(run.recommender, world, seen="remove")


@pytest.mark.parametrize("name", recipe_names())
def test_every_variant_changes_settings_that_exist_and_survive_json(name):
    module, _ = find_recipe(name)
    for variant, changes in module.VARIANTS.items():
        config = override(module.Config(), changes)
        assert config != module.Config(), variant
        assert TypeAdapter(module.Config).validate_python(json.loads(json.dumps(dataclasses.asdict(config)))) == config, variant


def test_looks_of_a_model_that_writes_codes_show_its_health(tmp_path):
    world = walk(users=60)
    settings = {**dataclasses.asdict(find_recipe("tiger")[0].smoke()), "steps": 4, "look_every": 2, "tokenizer_steps": 20}
    train("tiger", world, out=tmp_path / "run", settings=settings)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    looks = [record["valid"] for record in records if record["stage"] == "generator" and "valid" in record]
    assert [list(look) for look in looks] == [["codes_used", "valid_beams", "recall@10", "ndcg@10"]] * 2
    assert all(0 <= look["valid_beams"] <= 1 and 0 < look["codes_used"] <= 1 for look in looks)
    codes = [record["valid"] for record in records if record["stage"] == "tokenizer" and "valid" in record]
    assert all(look["collision_rate"] == pytest.approx(1 - look["distinct"]) for look in codes)
    made = next(record for record in records if record["stage"] == "tokenizer" and "health" in record)
    assert made["health"]["levels"][0]["used"] >= 1


def test_semid_drops_out_less_on_dense_data():
    assert semid.dropout_for(walk(users=40)) == 0.5  # 40 users with 10 training events each over 64 items
    assert semid.dropout_for(walk(users=400)) == 0.2


NOT_HERE = {
    "human_priors:brand": "the world's items have no brands", "mmgrec:visual": "nor images", "mmgrec:acoustic": "nor sounds",
    "mmgrec:textual": "text is all they have", "parallel:rpg": "its smoke leaves text out", "parallel:text": "likewise",
    "parallel:digits_32": "and its 16 columns have no room", "semid:text_codes": "likewise", "semid:rqvae": "likewise",
    "semid:no_content": "likewise", "semid:cf_codes": "likewise", "semid:letter_sid": "nobody published codes of this world",
    "hstu:stochastic_length": "histories are too short to be cut", "human_priors:average": "an item has one tag, so one head knows it",
    "parallel:graph": "the search finds what comparing all finds", "cost:both": "a few steps change no code",
    **dict.fromkeys((f"minionerec:{name}" for name in ("rule", "collaborative", "semantic")), "its smoke isn't aligned"),
    **dict.fromkeys((f"rere:{name}" for name in ("no_rank", "sampled", "adds_target", "collaborative", "semantic", "dpo", "sdpo")),
                    "likewise, or the policy isn't promoted"),
}
"""Variants that this world doesn't tell from the default, and why."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipe_names() if find_recipe(name)[0].VARIANTS])
def test_what_a_variant_changes_reaches_the_model(name):
    """An ablation whose setting is read by nobody would be printed as one that changes nothing."""
    module, world = find_recipe(name)[0], walk(users=60)

    def lists(config):
        recommender = train(name, world, settings=shortened(dataclasses.asdict(config)), seed=3).recommender
        found = recommender.recommend(next(case_batches(world, world.test))[1], k=20)
        return found.item.tobytes(), found.score.tobytes()

    default = lists(module.smoke())
    changed = {variant: override(module.smoke(), changes) for variant, changes in module.VARIANTS.items()
               if f"{name}:{variant}" not in NOT_HERE}
    same = [variant for variant, config in changed.items() if config != module.smoke() and lists(config) == default]
    assert not same
