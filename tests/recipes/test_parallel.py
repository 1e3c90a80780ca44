"""The parallel recipe beyond the toy world's one claim: its search, its ablations, and what other commands see of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from semid.codes import describe, ids_of
from semid.data.batch import case_batches
from semid.nn.digit_sum import digit_sum
from semid.recipes import parallel
from semid.recommenders import ParallelRecommender
from semid.run import load, train
from semid.validation import measure
from tests.toyworld.world import walk


def short(epochs: int = 2, **changes) -> dict:
    return {**dataclasses.asdict(parallel.smoke()), "epochs": epochs, **changes}


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple:
    """(world, folder, run) of a search along a graph so wide that it visits every item."""
    world, folder = walk(), tmp_path_factory.mktemp("parallel") / "run"
    return world, folder, train("parallel", world, out=folder, settings=short(15, search="graph", edges=63))


def test_search_along_the_graph_finds_the_successor_and_is_read_again(searched):
    world, folder, run = searched
    assert run.recommender.graph.neighbour.shape == (64, 63)
    assert measure(run.recommender, world, seen="remove")["ndcg@10"] >= 0.9
    again = load(folder).recommender
    _, batch = next(case_batches(world, world.test))
    ours, theirs = (each.recommend(batch, k=20, seen="remove") for each in (run.recommender, again))
    np.testing.assert_array_equal(ours.item, theirs.item)
    np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-5)


@pytest.mark.parametrize("seen", ["keep", "remove"])
def test_both_ways_obey_rules_exactly_and_agree(searched, seen):
    world, _, run = searched
    every = dataclasses.replace(run.recommender, graph=None)
    assert isinstance(every, ParallelRecommender)
    _, batch = next(case_batches(world, world.test))
    allowed = np.arange(64) % 3 > 0
    lists = [each.recommend(batch, k=64, allowed=allowed, seen=seen) for each in (run.recommender, every)]
    np.testing.assert_array_equal(lists[0].item, lists[1].item)
    scores = digit_sum(every.scorer.log_probabilities(batch).detach(), every.scorer.codes).numpy()
    for row, (found, score) in enumerate(zip(lists[0].item, lists[0].score, strict=True)):
        history = set(batch.seen[row].tolist()) if seen == "remove" else set()
        wanted = {item for item in range(64) if allowed[item] and item not in history}
        assert set(found[found >= 0].tolist()) == wanted
        np.testing.assert_allclose(score[found >= 0], scores[row, found[found >= 0]], atol=1e-3)


def test_candidates_are_scored_as_in_lists(searched):
    world, _, run = searched
    _, batch = next(case_batches(world, world.test))
    answer = run.recommender.recommend(batch, k=5)
    exact = run.recommender.score_items(batch, torch.from_numpy(answer.item.astype(np.int64)))
    np.testing.assert_allclose(exact.numpy(), answer.score, atol=1e-3)


def test_codes_of_a_run_can_be_described(searched):
    _, _, run = searched
    found = describe(run, 3)
    assert ids_of(run).order == "set"
    assert len(found["levels"]) == 8
    assert found["source"] == "product quantisation of cf"


@pytest.mark.parametrize("variant", ["rpg", "random_codes", "digits_4", "no_id", "digit_loss", "hard_targets"])
def test_ablations_train(variant):
    own = set(parallel.VARIANTS[variant]) - {"width", "heads", "feedforward", "code_views"} - ({"digits"} if variant == "rpg" else set())
    settings = {name: value for name, value in short().items() if name not in own}
    recommender = train(f"parallel:{variant}", walk(users=60), settings=settings).recommender
    model = recommender.scorer
    assert recommender.ids.source == ("random digits" if variant == "random_codes" else "product quantisation of cf")
    assert recommender.ids.levels == (4 if variant == "digits_4" else 8)
    assert (model.input.item is None) == (variant in ("rpg", "no_id"))
    assert (model.input.content is None) == (variant == "rpg")
    assert (model.output is None) == (variant == "rpg")


def test_a_run_is_served_and_explained(searched):
    from semid.serving.contract import Request
    from semid.serving.engine import Engine

    world, folder, run = searched
    engine = Engine.open(folder)
    ids = world.catalog.items.ids
    history = tuple(ids[[3, 17, 40]].tolist())
    [answer] = engine.recommend([Request(history, k=10)])
    expected = run.recommend(history=history, k=10, seen="remove")
    assert list(answer.item_ids) == [each["item_id"] for each in expected]
    assert engine.explain(Request(history, k=10), answer.item_ids[0]).rank == 1
