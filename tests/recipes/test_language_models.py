"""MiniOneRec and ReRe from settings to a run folder: what trains, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from semid import fine_tuning
from semid.alignment import Alignment, proposals
from semid.config import override
from semid.errors import ConfigError, DataError
from semid.fine_tuning import rows_have_gradient
from semid.generators.backbone import LoRA, read_backbone
from semid.objectives.responses import Responses
from semid.recipes import minionerec, rere
from semid.run import load, train
from semid.training.fit import Optimization
from semid.training.job import Job
from semid.training.log import Log, read_records
from semid.types import Catalog
from semid.validation import measure
from tests.generators.language import save_model
from tests.toyworld.world import ITEMS, walk

REWARDED = Alignment(method="grpo", group=8, steps=4, look_every=2, batch_size=8, optimization=Optimization(learning_rate=1e-3, warmup=1))


def short(recipe, **tuning) -> dict:
    """A recipe's small settings with a handful of steps."""
    config = recipe.smoke()
    settings = {"tuning": dataclasses.asdict(replace(config.tuning, epochs=1, **tuning))}
    return dataclasses.asdict(config) | settings | ({"tokenizer_steps": 20} if recipe is minionerec else {})


def assert_alike(again, run):
    ours, theirs = (each.recommend(history=["item3", "item5"]) for each in (run, again))
    assert [row["item_id"] for row in theirs] == [row["item_id"] for row in ours]
    assert [row["score"] for row in theirs] == pytest.approx([row["score"] for row in ours], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minionerec:small", "rere:small"])
def test_the_variants_for_machines_without_a_gpu_learn_the_walk(name):
    world = walk()
    settings = {"size": 8, "latent": 8, "hidden": (32, 16), "tokenizer_steps": 200} if name == "minionerec:small" else {}
    run = train(name, world, settings=settings)
    assert measure(run.recommender, world, seen="remove")["ndcg@10"] > 0.5, "a list without knowledge has .07"


@pytest.mark.parametrize("recipe", [minionerec, rere])
def test_a_named_model_is_tuned_and_rewarded_and_its_run_needs_neither_hub_nor_folder(recipe, tmp_path):
    name, folder = recipe.__name__.split(".")[-1], save_model(tmp_path / "model")
    rewards = ("rule", "rank", "collaborative", "semantic")
    settings = short(recipe, model=str(folder)) | {"alignment": dataclasses.asdict(replace(REWARDED, rewards=rewards))}
    if recipe is minionerec:
        settings["has_title_tasks"] = True
    run = train(name, walk(users=20), out=tmp_path / "run", settings=settings)
    shutil.rmtree(folder)
    assert_alike(load(tmp_path / "run"), run)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert any(record["stage"] == "promotion" for record in records)
    told = next(record for record in records if record["stage"] == "grpo" and "loss" in record)
    assert set(told) >= {"reward", "no_hit", "flat", "kl", "entropy", "distinct", "coverage"}
    assert told["distinct"] == 1


def test_adapters_and_rows_alone_survive_a_run_folder(tmp_path):
    pytest.importorskip("peft")
    folder = save_model(tmp_path / "model", is_tied=False)
    before = None
    for trained in ("lora", "rows"):
        settings = short(minionerec, model=str(folder), trained=trained, lora=LoRA(rank=2, alpha=4))
        run = train("minionerec", walk(users=20), out=tmp_path / trained, settings=settings)
        assert_alike(load(tmp_path / trained), run)
        table = run.recommender.generator.network.get_input_embeddings().weight
        assert before is None or torch.equal(table, before)
        before = table.detach().clone()
    with pytest.raises(ConfigError, match="adds no tokens that could train"):
        train("rere", walk(users=20), settings=short(rere, trained="rows"))


@pytest.mark.parametrize("trained", ["rows", "lora"])
def test_a_frozen_network_in_bfloat16_answers(trained, tmp_path):
    folder = save_model(tmp_path / "model")
    run = train("minionerec", walk(users=20), out=tmp_path / "run",
                settings=short(minionerec, model=str(folder), trained=trained, dtype="bfloat16"))
    assert run.recommender.generator.network.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in run.recommender.generator.parameters() if parameter.requires_grad)
    assert run.recommender.generator.embedding.weight.dtype == torch.float32
    assert_alike(load(tmp_path / "run"), run)
    with pytest.raises(ConfigError, match="dtype=bfloat16"):
        train("minionerec", walk(users=20), settings=short(minionerec) | {"tuning.dtype": "bfloat16"})


def test_new_tokens_without_a_gradient_are_said(monkeypatch):
    whole = fine_tuning.prepared

    def without_rows(*arguments, **options):
        generator = whole(*arguments, **options)
        generator.embedding.weight.requires_grad_(False)
        return generator

    monkeypatch.setattr(minionerec, "prepared", without_rows)
    records = []
    minionerec.run(replace(minionerec.smoke(), tokenizer_steps=20, tuning=replace(minionerec.smoke().tuning, epochs=1)), walk(users=20),
                   Job(log=Log(view=records.append)))
    assert any("warning: the vectors of new tokens get no gradient" in record.get("note", "") for record in records)


def test_a_look_at_gradients_leaves_none_behind():
    world, config = walk(users=20), replace(minionerec.smoke(), tokenizer_steps=20)
    recommender = minionerec.run(replace(config, tuning=replace(config.tuning, epochs=1)), world, Job())
    state = torch.get_rng_state()
    assert rows_have_gradient(recommender.generator, Responses(), minionerec.batches(config, world, Job(), 8).at(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in recommender.generator.parameters())


def test_frozen_output_vectors_are_told_as_frozen_input_vectors_are(tmp_path):
    world, config = walk(users=20), replace(minionerec.smoke(), tokenizer_steps=20)
    folder = save_model(tmp_path / "model", is_tied=False)
    generator = minionerec.run(replace(config, tuning=replace(config.tuning, epochs=1, model=str(folder))), world, Job()).generator
    batch = minionerec.batches(config, world, Job(), 8).at(0)
    assert rows_have_gradient(generator, Responses(), batch)
    generator.head.requires_grad_(False)
    assert not rows_have_gradient(generator, Responses(), batch)


def test_rollouts_hold_real_items_and_beams_differ_where_draws_repeat():
    world, config = walk(users=20), replace(rere.smoke(), tuning=replace(rere.smoke().tuning, epochs=1))
    recommender = rere.run(config, world, Job())
    batch = rere.TaskBatches(world.train, histories={0: None}, items=(), num_items=ITEMS, max_length=2, batch_size=16, seed=0).at(0)
    beams = proposals(recommender, 16, "keep")(batch)
    drawn = proposals(recommender, 16, "keep", is_sampled=True)(batch)
    assert beams.min() >= 0
    assert beams.max() < ITEMS
    distinct = lambda items: np.mean([len(row.unique()) / 16 for row in items])
    assert distinct(beams) == 1
    assert distinct(drawn) < 0.95


def test_tasks_with_titles_are_on_or_off_in_both_stages():
    world, on = walk(users=20), replace(minionerec.smoke(), has_title_tasks=True)
    off = replace(on, has_title_tasks=False)
    tasks = lambda config, is_rewarded: set(minionerec.batches(config, world, Job(), 8, is_rewarded=is_rewarded).task.tolist())
    assert tasks(on, False) == {0, 1, 2, 3, 4, 5}
    assert tasks(on, True) == {0, 3, 4}
    assert tasks(off, False) == tasks(off, True) == {0}


@pytest.mark.parametrize(("changes", "message"), [
    ({"tuning.model": "no/such/model/there"}, "language model: want a model on the hub or in a folder, got 'no/such/model/there'"),
    ({"tuning.max_tokens": 60, "tuning.max_history": 50}, "a prompt of 50 items of 3 tokens takes .* more than the 60 of max_tokens"),
])
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        train("minionerec", walk(users=20), settings=short(minionerec) | changes)


def test_sequences_beyond_the_context_are_refused_before_codes_are_made(tmp_path):
    folder = save_model(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"max_tokens=600: .* attends to 512 tokens at once; want at most 512"):
        train("minionerec", walk(users=20), settings=short(minionerec, model=str(folder), max_tokens=600))


@pytest.mark.parametrize("changes", [
    {"family": "mistral", "sliding_window": 64},
    {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
])
def test_layers_with_a_window_are_used_within_it(tmp_path, changes):
    """Decoding attends to the whole prompt: beyond the window it would be another model than the trained one."""
    folder = save_model(tmp_path / "model", **changes)
    with pytest.raises(ConfigError, match=r"max_tokens=256: .* attends to 64 tokens at once; want at most 64"):
        train("minionerec", walk(users=20), settings=short(minionerec, model=str(folder)))


def test_a_window_that_no_layer_has_is_none(tmp_path):
    backbone, _ = read_backbone(str(save_model(tmp_path / "model", sliding_window=64)))
    assert backbone.context == 512


def test_families_without_fused_attention_are_told_by_that(tmp_path):
    import transformers

    folder = save_model(tmp_path / "model")
    transformers.AutoModelForCausalLM.from_config(transformers.BloomConfig(vocab_size=99, hidden_size=16, n_layer=1, n_head=2)
                                                  ).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"scaled dot product attention, .* is of one that it doesn't; choose a family such as Qwen"):
        read_backbone(str(folder))


def test_the_variants_that_learn_from_pairs_have_no_other_loss():
    for name, negatives in (("dpo", 1), ("sdpo", 15)):
        alignment = override(rere.Config(), rere.VARIANTS[name]).alignment
        assert (alignment.method, alignment.negatives, alignment.supervised) == ("dpo", negatives, False)


@pytest.mark.parametrize("recipe", [minionerec, rere])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, recipe):
    folder = save_model(tmp_path / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ConfigError, match="put the tokenizer's files"):
        train(recipe.__name__.rpartition(".")[2], walk(users=20), settings=short(recipe, model=str(folder)))


def test_room_for_codes_is_asked_for_before_they_are_made():
    records = []
    with pytest.raises(ConfigError, match="more than the 30 of max_tokens"):
        train("minionerec", walk(users=20), settings=short(minionerec, max_tokens=30), log=Log(view=records.append))
    assert not any(record["stage"] == "tokenizer" for record in records)


def test_items_without_titles_are_told_which_variant_needs_none():
    world = walk(users=20)
    bare = replace(world, catalog=Catalog(world.catalog.items, world.catalog.table.select(["category"]), {}, world.catalog.views))
    with pytest.raises(DataError, match="minionerec:no_alignment, which needs none"):
        train("minionerec", bare, settings=short(minionerec) | {"has_title_tasks": True})
    train("minionerec:no_alignment", bare, settings=short(minionerec))
    with pytest.raises(DataError, match="rere: want items with a text column title"):
        train("rere", bare, settings=short(rere))


@pytest.mark.slow
@pytest.mark.parametrize("rewards", [("rule", "rank"), ("rule", "rank", "collaborative"), ("rule", "semantic")])
def test_rewards_lift_a_half_tuned_model(rewards):
    """The walk has one right answer, the tuned model knows it half; rewards on its own beams bring it up."""
    world, records = walk(), []
    config = minionerec.smoke()
    config = replace(config, tuning=replace(config.tuning, epochs=1, optimization=Optimization(learning_rate=4e-3, warmup=10)),
                     alignment=replace(REWARDED, rewards=rewards, steps=60, look_every=20, batch_size=32))
    half = minionerec.run(replace(config, alignment=Alignment()), world, Job())
    before = measure(half, world, seen="keep")["ndcg@10"]
    whole = minionerec.run(config, world, Job(log=Log(view=records.append)))
    assert 0.1 < before < 0.9
    assert measure(whole, world, seen="keep")["ndcg@10"] > before + 0.05
    assert next(record for record in records if record["stage"] == "promotion")["is_promoted"]


@pytest.mark.slow
def test_tasks_with_titles_are_learnt_beside_the_codes():
    world, config = walk(), replace(minionerec.smoke(), has_title_tasks=True)
    recommender = minionerec.run(replace(config, tuning=replace(config.tuning, epochs=6)), world, Job())
    assert measure(recommender, world, seen="remove")["ndcg@10"] >= 0.9
    generator, batches = recommender.generator, minionerec.batches(config, world, Job(), 64)
    accuracy = Responses()(generator, batches.at(0)).signals["accuracy"]
    assert accuracy > 0.8


@pytest.mark.slow
def test_a_killed_run_with_adapters_resumes_to_the_same_bits(tmp_path):
    class Killed(Exception):
        pass

    def kill(record):
        if record["stage"] == "grpo" and record.get("step") == 4 and "loss" in record:
            raise Killed

    pytest.importorskip("peft")
    settings = short(minionerec, trained="lora", lora=LoRA(rank=2, alpha=4, dropout=0.3)) | {"alignment": dataclasses.asdict(REWARDED)}
    whole = train("minionerec", walk(users=20), out=tmp_path / "whole", settings=settings)
    with pytest.raises(Killed):
        train("minionerec", walk(users=20), out=tmp_path / "half", settings=settings, log=Log(view=kill))
    again = train("minionerec", walk(users=20), out=tmp_path / "half", settings=settings, resume=True)
    for name, tensor in whole.recommender.generator.state_dict().items():
        assert torch.equal(tensor, again.recommender.generator.state_dict()[name]), name


def test_the_run_folder_says_what_was_built(tmp_path):
    train("minionerec", walk(users=20), out=tmp_path / "run", settings=short(minionerec))
    about = json.loads((tmp_path / "run" / fine_tuning.FILE).read_text())
    assert about["config"]["model_type"] == "qwen2"
    assert about["is_tied"]
