"""Alignment trains on from the supervised weights, and a policy that doesn't pay on held-out cases is not kept."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from semid.alignment import DDRO, SDPO, Alignment, align, decide, proposals
from semid.comparison import measured
from semid.config import override
from semid.data.batch import SequenceBatches
from semid.errors import ConfigError
from semid.generators.two_level import TwoLevel
from semid.objectives.next_codes import NextCodes
from semid.objectives.paths import frozen
from semid.objectives.policy import GRPO
from semid.recipes import item_knn, tiger
from semid.recommenders import CodeRecommender
from semid.reporting import report_of_run
from semid.run import find_recipe, load, train
from semid.training.fit import Optimization, fit
from semid.training.job import Job
from semid.training.log import Log
from semid.types import SemanticIds
from semid.validation import measure, ndcg_by_case
from tests.toyworld.world import ITEMS, walk

FAST = Optimization(learning_rate=3e-3, warmup=5, weight_decay=0.0)
SHORT = Alignment(group=8, steps=60, look_every=20, batch_size=32, optimization=FAST)


@cache
def supervised() -> CodeRecommender:
    world = walk()
    every = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), axis=-1).reshape(-1, 2)
    ids = SemanticIds(np.random.default_rng(0).permutation(every)[:ITEMS].astype(np.int16), (8, 8))
    torch.manual_seed(0)
    model = TwoLevel(ids, width=32, heads=2, feedforward=32, max_length=20, dropout=0.1, start=torch.randn(ITEMS, 32) * 0.1)
    batches = SequenceBatches(world.train, max_length=20, tokens=256, seed=0)
    fit(model, NextCodes(), batches, steps=batches.steps_per_epoch, optimization=Optimization(learning_rate=5e-3, warmup=10))
    return CodeRecommender(model, ids, model.tree, 20, normalise="children")


def half_trained() -> CodeRecommender:
    """A two-level generator that knows the walk about half."""
    return copy.deepcopy(supervised())


@pytest.mark.parametrize("method", [pytest.param("dpo", marks=pytest.mark.slow), pytest.param("ipa", marks=pytest.mark.slow), "grpo"])
def test_alignment_lifts_a_half_trained_model_and_promotes_it(method):
    """Also the claim that says rewards reach the items: the walk has one right answer, the supervised model knows it half."""
    world = walk()
    recommender = half_trained()
    records = []
    before = measure(recommender, world, seen="keep")["ndcg@10"]
    align(recommender, replace(SHORT, method=method, adds_target=method == "ipa"), world, Job(log=Log(view=records.append)))
    after = measure(recommender, world, seen="keep")["ndcg@10"]
    assert 0.1 < before < 0.9
    assert after > before + 0.05
    decision = next(record for record in records if record["stage"] == "promotion")
    assert decision["is_promoted"]
    assert decision["low"] >= 0
    told = next(record for record in records if record["stage"] == method and "loss" in record)
    assert set(told) >= ({"no_hit", "kl", "entropy", "coverage", "reward"} if method == "grpo" else {"margin", "accuracy", "chosen"})


def test_a_policy_that_falls_is_not_kept_and_the_log_says_why(monkeypatch):
    world = walk()
    recommender = half_trained()
    against = lambda items, target, batch: -(items == target[:, None]).float()
    monkeypatch.setattr("semid.alignment.rule", against)
    records = []
    align(recommender, replace(SHORT, method="grpo", rewards=("rule",)), world, Job(log=Log(view=records.append)))
    decision = next(record for record in records if record["stage"] == "promotion")
    assert not decision["is_promoted"]
    assert decision["after"] < decision["before"]
    assert "not promoted, the supervised weights stay" in decision["note"]
    assert "falls below 0" in decision["note"]
    for name, tensor in recommender.generator.state_dict().items():
        assert torch.equal(tensor, supervised().generator.state_dict()[name])


def test_promotion_follows_the_paired_interval():
    rng = np.random.default_rng(0)
    before = rng.random(500)
    assert decide(before, before + 0.01).is_promoted
    assert decide(before, before).is_promoted  # it did not fall
    noisy = decide(before, before + rng.normal(0.001, 0.2, 500))
    assert noisy.low < 0 < noisy.high
    assert not noisy.is_promoted
    assert not decide(before, before - 0.01).is_promoted


def test_the_collaborative_reward_doesn_t_know_the_cases_that_decide(monkeypatch):
    world, tuned_on = walk(), []
    tune = item_knn.tune
    monkeypatch.setattr(item_knn, "tune", lambda config, data, seen: tuned_on.append(data.valid) or tune(item_knn.smoke(), data, seen))
    align(half_trained(), replace(SHORT, method="grpo", rewards=("collaborative",), steps=1, look_every=1), world, Job())
    assert [valid.user.tolist() for valid in tuned_on] == [world.valid.user[::2].tolist()]


def test_a_new_round_starts_from_a_new_reference(monkeypatch):
    references, records = [], []
    monkeypatch.setattr("semid.alignment.GRPO", lambda reference, beta: references.append(reference) or GRPO(reference, beta))
    recommender = half_trained()
    supervised_weights = copy.deepcopy(recommender.generator.state_dict())
    policies = []
    monkeypatch.setattr("semid.alignment.frozen", lambda policy: policies.append(copy.deepcopy(policy.state_dict())) or frozen(policy))
    align(recommender, replace(SHORT, method="grpo", rounds=2, steps=20), walk(), Job(log=Log(view=records.append)))
    assert [r["stage"] for r in records if "valid" in r] == ["grpo round 1", "grpo round 2"]
    first, second = references
    for reference, policy in zip(references, policies, strict=True):
        assert all(torch.equal(tensor, policy[name]) for name, tensor in reference.state_dict().items())
    assert all(torch.equal(tensor, supervised_weights[name]) for name, tensor in first.state_dict().items())
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_half_of_the_cases_choose_the_weights_and_the_other_half_decides(monkeypatch):
    world, looked, decided = walk(), [], []
    monkeypatch.setattr("semid.alignment.measure", lambda recommender, data, seen: looked.append(data.valid) or measure(
        recommender, data, seen=seen))
    monkeypatch.setattr("semid.alignment.ndcg_by_case", lambda recommender, data, seen: decided.append(data.valid) or ndcg_by_case(
        recommender, data, seen=seen))
    align(half_trained(), replace(SHORT, method="grpo", steps=2, look_every=1), world, Job())
    assert len(looked) == len(decided) == 2
    assert all(valid.user.tolist() == world.valid.user[::2].tolist() for valid in looked)
    assert all(valid.user.tolist() == world.valid.user[1::2].tolist() for valid in decided)


def test_groups_are_drawn_where_that_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr("semid.alignment.proposals", lambda *args, is_sampled=False: asked.append(is_sampled) or proposals(
        *args, is_sampled=is_sampled))
    for is_sampled in (False, True):
        align(half_trained(), replace(SHORT, method="grpo", rewards=("rule",), steps=1, look_every=1, is_sampled=is_sampled), walk(), Job())
    assert asked == [False, True]


@pytest.mark.parametrize(("settings", "first"), [(DDRO, math.log(2)), (SDPO, math.log(16))])
def test_ddro_and_s_dpo_begin_where_nothing_is_preferred(settings, first):
    """-log sigmoid(0) against one miss, log(1 + 15) against fifteen: policy and reference are one, and no other loss is in the sum."""
    changes = {name.removeprefix("alignment."): value for name, value in settings.items()}
    config, records = override(Alignment(), changes | {"steps": 1, "look_every": 1, "batch_size": 32}), []
    align(half_trained(), config, walk(), Job(log=Log(view=records.append)))
    assert next(record["loss"] for record in records if "loss" in record) == pytest.approx(first, abs=1e-5)


@pytest.mark.parametrize(("changes", "message"), [
    ({"method": "ppo"}, "alignment.method: want one of"),
    ({"method": "grpo", "group": 64}, "alignment.group: want at least 2 and fewer than the 64 items"),
    ({"method": "grpo", "rewards": ()}, "needs one reward"),
    ({"method": "dpo", "negatives": 0}, r"negatives \+ 1"),
    ({"method": "dpo", "is_sampled": True}, "alignment.is_sampled: want method grpo"),
    ({"method": "grpo", "is_sampled": True}, "draws have no ranks for the reward 'rank'"),
    ({"method": "grpo", "rewards": ("semantic",)}, "the semantic reward compares content vectors"),
])
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        align(half_trained(), replace(SHORT, **changes), walk(), Job())


@pytest.mark.slow
def test_a_killed_alignment_resumes_to_the_same_bits(tmp_path):
    class Killed(Exception):
        pass

    def kill_at_50(record):
        if record.get("step") == 50:
            raise Killed

    config, world = replace(SHORT, method="grpo", rounds=2), walk()
    whole, half = half_trained(), half_trained()
    align(whole, config, world, Job())
    with pytest.raises(Killed):
        align(half, config, world, Job(out=tmp_path, log=Log(view=kill_at_50)))
    again = half_trained()
    align(again, config, world, Job(out=tmp_path, resume=True))
    moved = [not torch.equal(a, b) for a, b in zip(whole.generator.parameters(), supervised().generator.parameters(), strict=True)]
    assert any(moved)  # promoted, so that the comparison says something
    for a, b in zip(whole.generator.state_dict().values(), again.generator.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@cache
def short_settings() -> dict:
    """A few steps of everything, with dropout, so that other draws would show."""
    smoke = find_recipe("semid")[0].smoke()
    return dataclasses.asdict(replace(smoke, epochs=1, alignment=replace(SHORT, method="dpo", steps=5, look_every=5)))


def test_alignment_from_a_finished_run_equals_training_again(tmp_path):
    world, settings = walk(), short_settings()
    train("semid", world, out=tmp_path / "plain-0", settings={**settings, "alignment": dataclasses.asdict(Alignment())})
    whole = train("semid:dpo", world, settings=settings)
    quick = train("semid:dpo", world, out=tmp_path / "quick", settings={**settings, "trained_in": str(tmp_path / "plain-{seed}")})
    for a, b in zip(whole.recommender.generator.state_dict().values(), quick.recommender.generator.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    promotion = load(tmp_path / "quick").promotion
    assert promotion["note"].startswith("promoted" if promotion["is_promoted"] else "not promoted")
    page = report_of_run(quick, measured(quick))
    assert f"Alignment, seed 0: {promotion['note']}." in page.notes


@pytest.mark.parametrize(("changes", "message"), [
    ({"width": 16}, "want width 16, got 32"),
    ({"seed": 1}, "want seed 1, got 0"),
    ({"epochs": 2}, "want epochs 2, got 1"),
])
def test_alignment_from_another_run_is_refused(changes, message, tmp_path):
    world, settings = walk(), short_settings()
    plain = {**settings, "alignment": dataclasses.asdict(Alignment())}
    train("semid", world, out=tmp_path / "run", settings=plain)
    changes = dict(changes)
    with pytest.raises(ConfigError, match=message):
        train("semid:dpo", world, seed=changes.pop("seed", 0), settings={**settings, "trained_in": str(tmp_path / "run"), **changes})


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["semid", "tiger"])
def test_recipes_align_after_their_supervised_training(recipe, tmp_path):
    """From the command's names: a variant, its settings, and a run folder that loads."""
    world = walk()
    module, _ = find_recipe(recipe)
    short = replace(SHORT, method="grpo", steps=20, rewards=("rule", "semantic", "collaborative"))
    settings = dataclasses.asdict(replace(module.smoke(), alignment=short))
    run = train(f"{recipe}:grpo", world, out=tmp_path / "run", settings=settings)
    assert measure(run.recommender, world, seen="remove")["ndcg@10"] >= 0.9
    history = ["item3", "item5"]
    assert load(tmp_path / "run").recommend(history=history) == run.recommend(history=history)
    assert "promotion" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_what_cannot_work_is_refused_before_anything_is_trained():
    records = []
    settings = {**dataclasses.asdict(tiger.smoke()), "alignment": {**dataclasses.asdict(SHORT), "method": "grpo", "group": 64}}
    with pytest.raises(ConfigError, match=r"alignment.group: want at least 2 and fewer than the 64 items"):
        train("tiger", walk(users=60), settings=settings, log=Log(view=records.append))
    assert records == []


@pytest.mark.parametrize(("recipe", "generator"), [("cost", "tiger"), ("p5", "two_level")])
def test_what_cannot_work_is_refused_before_a_recipe_trains_another_one_s_generator(recipe, generator):
    records = []
    settings = dataclasses.asdict(find_recipe(recipe)[0].smoke()) | ({"index": "random"} if recipe == "p5" else {})
    settings |= {f"{generator}.alignment.method": "grpo", f"{generator}.alignment.group": 64}
    with pytest.raises(ConfigError, match=r"alignment.group: want at least 2 and fewer than the 64 items"):
        train(recipe, walk(users=60), settings=settings, log=Log(view=records.append))
    assert not any(record["stage"] == "generator" for record in records)
