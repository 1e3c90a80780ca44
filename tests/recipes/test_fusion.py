"""The weight of semid's fusion: what is tried on validation is what lists are worth."""

from __future__ import annotations

import pytest
import torch

from semid.generators.two_level import TwoLevel
from semid.recipes.semid import choose_weight
from semid.recommenders import CodeRecommender, Fusion, ItemRecommender
from semid.scorers.item_knn import ItemKNN
from semid.training.job import Job
from semid.training.log import Log
from semid.tree import CodeTree
from semid.validation import measure
from tests.objectives.generators import path_codes
from tests.toyworld.world import walk


def test_every_weight_is_worth_what_its_lists_are_also_where_item_knn_knows_few_items():
    """With one neighbour an item most candidates have the same score, and no tie is won by the target."""
    world, ids, records = walk(users=60), path_codes(), []
    torch.manual_seed(0)
    generator = TwoLevel(ids, width=16, heads=2, feedforward=32, max_length=20).eval()
    first = CodeRecommender(generator, ids, CodeTree.build(ids), beams=64, normalise="children")
    second = ItemRecommender(ItemKNN.fit(world.train, neighbours=1, profile=1), "weighted co-occurrence")
    chosen = choose_weight(first, second, world, Job(log=Log(view=records.append)))
    tried, seen = records[-1]["tried"], records[-1]["seen"]
    for weight in (0.0, 0.5, 1.0):
        worth = measure(Fusion(first, second, weight), world, seen=seen)["ndcg@10"]
        assert tried[str(weight)] == pytest.approx(worth, abs=1e-3)
    assert tried[str(chosen.weight)] == max(tried.values())
