"""What an accelerator must give: the same lists as the CPU, recipes that learn there, runs that load anywhere, training that resumes."""

from __future__ import annotations

import dataclasses
import os
import signal

import numpy as np
import pytest
import torch

from semid.data.batch import case_batches
from semid.decoding.beam import beam_search
from semid.decoding.free import valid_share
from semid.nn.hstu import PIECE
from semid.recipe_cards import recipe_names
from semid.run import find_recipe, load, train
from semid.training.fit import Interrupted
from semid.validation import measure
from tests.decoding.hashed import histories, random_ids, tree_and_generator
from tests.nn.test_hstu import histories as hstu_histories
from tests.nn.test_hstu import model_of
from tests.toyworld.world import walk

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")]

USERS = [3, 4, 5, 6]


def settings_of(name: str) -> dict[str, object]:
    recipe, variant = find_recipe(name)
    return {setting: value for setting, value in dataclasses.asdict(recipe.smoke()).items() if setting not in variant}


@pytest.mark.parametrize("normalise", ["vocabulary", "children"])
def test_beams_on_the_gpu_equal_those_of_the_compiled_step(normalise):
    ids = random_ids(np.random.default_rng(0), 300, (8, 8, 8), padded=True)
    tree, generator = tree_and_generator(ids)
    mask = np.random.default_rng(1).random(300) < 0.5
    seen = torch.tensor([[1, 2, 3], [4, 5, -1], [-1, -1, -1], [6, 7, 8]])
    ask = {"beams": 20, "k": 30, "normalise": normalise}
    ours = beam_search(generator, histories(USERS), tree, constraint=tree.allow(mask), seen=seen, **ask)
    there = tree.to("cuda")
    theirs = beam_search(generator, histories(USERS).to("cuda"), there, constraint=there.allow(mask), seen=seen.cuda(), **ask)
    torch.testing.assert_close(theirs.item.cpu(), ours.item)
    torch.testing.assert_close(theirs.logp.cpu(), ours.logp)


def test_the_share_of_valid_beams_is_the_same_on_the_gpu():
    tree, generator = tree_and_generator(random_ids(np.random.default_rng(0), 300, (8, 8, 8)))
    there = valid_share(generator, histories(USERS).to("cuda"), tree.to("cuda"), beams=20)
    assert there == pytest.approx(valid_share(generator, histories(USERS), tree, beams=20))


@pytest.mark.parametrize("name", [*(name for name in recipe_names() if name not in ("popularity", "ease", "item_knn")), "semid:fusion",
                                  "semid:ensemble"])
def test_a_recipe_learns_on_the_gpu_and_its_run_answers_alike_on_the_cpu(name, tmp_path):
    world = walk()
    run = train(name, world, out=tmp_path / "run", settings=settings_of(name), device="cuda")
    assert measure(run.recommender, world, seen="remove")["ndcg@10"] >= 0.9
    again = load(tmp_path / "run")
    _, batch = next(case_batches(world, world.test))
    ours, theirs = run.recommender.recommend(batch, k=10), again.recommender.recommend(batch, k=10)
    assert (ours.item[:, 0] == theirs.item[:, 0]).mean() > 0.98
    np.testing.assert_allclose(ours.score[:, 0], theirs.score[:, 0], atol=0.05)


def test_hstu_over_real_tokens_equals_the_plain_one_on_the_gpu_in_values_and_gradients():
    model = model_of(max_length=200).cuda()
    x, time, length, request = (part.cuda() for part in hstu_histories([PIECE + 30, 4, 0, PIECE]))
    fast, plain = model(x, time, length, request), model.read(x, time, length, request)[0]
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(states.square().sum(), list(model.parameters())) for states in (fast, plain))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("variant", ["dpo", "grpo"])
def test_alignment_learns_on_the_gpu_with_rewards_that_live_on_the_cpu(variant, tmp_path):
    world = walk()
    rewards = {"alignment.rewards": ("rule", "collaborative")} if variant == "grpo" else {}
    short = {"alignment.steps": 20, "alignment.look_every": 10, "alignment.optimization.warmup": 2}
    run = train(f"semid:{variant}", world, out=tmp_path / "run", settings={**settings_of("semid"), **short, **rewards}, device="cuda")
    assert measure(run.recommender, world, seen="remove")["ndcg@10"] >= 0.9


@pytest.mark.parametrize("name", ["sasrec", "semid", "parallel", "hstu"])
def test_candidates_have_the_scores_of_the_cpu(name, tmp_path):
    world = walk()
    run = train(name, world, out=tmp_path / "run", settings=settings_of(name), device="cuda")
    _, batch = next(case_batches(world, world.test))
    items = torch.arange(8).expand(len(batch), 8)
    ours, theirs = run.recommender.score_items(batch, items), load(tmp_path / "run").recommender.score_items(batch, items)
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.01)


def test_training_that_was_stopped_goes_on_on_the_gpu(tmp_path, monkeypatch):
    import semid.recipes.sasrec as recipe

    fit, pressed = recipe.fit, []

    def fit_and_press(model, objective, batches, **rest):
        def press(*args):
            if not pressed:
                pressed.append(True)
                os.kill(os.getpid(), signal.SIGINT)
            return objective(*args)

        return fit(model, press, batches, **rest)

    monkeypatch.setattr(recipe, "fit", fit_and_press)
    world, ask = walk(), {"out": tmp_path / "run", "settings": settings_of("sasrec"), "device": "cuda"}
    with pytest.raises(Interrupted):
        train("sasrec", world, **ask)
    run = train("sasrec", world, **ask, resume=True)
    assert measure(run.recommender, world, seen="remove")["ndcg@10"] >= 0.9
