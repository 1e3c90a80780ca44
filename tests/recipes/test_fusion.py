"""The weight of semid's fusion: what is tried on validation is what lists are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.data.batch import case_batches
from semid.generators.two_level import TwoLevel
from semid.recipes.semid import choose_weight
from semid.recommenders import CodeRecommender, Fusion, ItemRecommender
from semid.scorers.item_knn import ItemKNN
from semid.training.job import Job
from semid.training.log import Log
from semid.tree import CodeTree
from tests.objectives.generators import path_codes
from tests.toyworld.world import walk


@pytest.mark.parametrize("is_known", [True, False])
def test_every_weight_is_worth_what_its_lists_are_and_no_tie_is_won_by_the_target(is_known: bool):
    """Where item-kNN knows none of the candidates all are equal: a weight of 1 is then worth what the order of the rows is."""
    world, ids, records = walk(users=60), path_codes(), []
    torch.manual_seed(0)
    generator = TwoLevel(ids, width=16, heads=2, feedforward=32, max_length=20).eval()
    first = CodeRecommender(generator, ids, CodeTree.build(ids), beams=64, normalise="children")
    scorer = ItemKNN.fit(world.train, neighbours=1, profile=1)
    second = ItemRecommender(scorer if is_known else replace(scorer, weight=torch.zeros_like(scorer.weight)), "weighted co-occurrence")
    chosen = choose_weight(first, second, world, Job(log=Log(view=records.append)))
    tried, seen = records[-1]["tried"], records[-1]["seen"]
    for weight in (0.0, 0.5, 1.0):
        gains = []
        for rows, batch in case_batches(world, world.valid):
            place = Fusion(first, second, weight).recommend(batch, k=10, seen=seen).item == world.valid.target[rows, None]
            gains += (place / np.log2(np.arange(10) + 2)).sum(1).tolist()
        assert tried[str(weight)] == pytest.approx(np.mean(gains), abs=1e-4)
    assert tried[str(chosen.weight)] == max(tried.values())
