"""What SETRec knows of items that nobody took, and what it says to bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semid.errors import ConfigError, DataError
from semid.recipes import setrec
from semid.training.job import Job
from semid.types import Protocol
from semid.validation import measure
from tests.toyworld.world import sparse, walk


@pytest.mark.slow
def test_items_that_nobody_took_are_found_by_their_content():
    """Their vectors of behaviour are zeros: all the same. Content of neighbours on the ring is alike."""
    world = walk(protocol=Protocol(split="cold_items"))
    recommender = setrec.run(setrec.smoke(), world, Job())
    recall = {}
    for beta in (0.0, 1.0):
        recommender.scorer.beta.fill_(beta)
        recall[beta] = measure(recommender, world, seen="remove")["recall@10"]
    assert recall[1.0] > recall[0.0] + 0.2


def test_beta_is_the_best_on_validation():
    world = walk()
    recommender = setrec.run(setrec.smoke(), world, Job())
    chosen, found = float(recommender.scorer.beta), {}
    for beta in setrec.BETAS:
        recommender.scorer.beta.fill_(beta)
        found[beta] = measure(recommender, world, seen="keep", limit=2000)["ndcg@10"]
    assert found[round(chosen, 1)] == max(found.values())


@pytest.mark.slow
def test_behaviour_and_content_together_find_warm_items_better_than_either():
    """Measured on validation: NDCG@10 .18 together, .13 by behaviour alone, .17 by content alone."""
    world, found = sparse(taken=8), {}
    recommender = setrec.run(replace(setrec.smoke(), text="hashed"), world, Job())
    chosen = float(recommender.scorer.beta)
    for beta in (0.0, chosen, 1.0):
        recommender.scorer.beta.fill_(beta)
        found[beta] = measure(recommender, world, seen="keep", limit=2000)["ndcg@10"]
    assert 0 < chosen < 1
    assert found[chosen] > max(found[0.0], found[1.0]) + 0.005, found


@pytest.mark.parametrize("changes", [{"has_cf": False}, {"semantic": 0}, {"is_causal": False, "batch_size": 128}])
def test_its_variants_learn_the_walk(changes):
    world = walk(users=60)
    recommender = setrec.run(replace(setrec.smoke(), **changes), world, Job())
    assert measure(recommender, world, seen="remove")["ndcg@10"] > 0.5, "a list without knowledge has .07"


def test_bad_input_is_told():
    world = walk(users=20)
    bare = replace(world, catalog=replace(world.catalog, views={}, text={}))
    with pytest.raises(DataError, match="want items with text or a view 'text', got neither.*setrec:no_semantic"):
        setrec.run(setrec.smoke(), bare, Job())
    with pytest.raises(ConfigError, match="want vectors of behaviour or of content"):
        replace(setrec.smoke(), has_cf=False, semantic=0)
    with pytest.raises(DataError, match="has no view 'sasreg'"):
        setrec.run(replace(setrec.smoke(), cf="sasreg"), world, Job())
