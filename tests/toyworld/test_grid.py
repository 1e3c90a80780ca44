"""What GRID's codes and its sub-sequences are good for, in worlds where they must help."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semid.collaborative import behaviour_vectors
from semid.data.batch import TargetBatches, history_batch
from semid.recipes import grid
from semid.recipes.tiger import train_generator
from semid.tokenizers.view import composed
from semid.training.job import Job
from semid.types import SemanticIds
from semid.validation import measure
from tests.toyworld.world import sparse, walk


@pytest.mark.slow
def test_codes_of_text_and_behaviour_lead_further_than_codes_of_text_that_says_nothing():
    """Measured: recall@10 .43 against .03; who knows nothing has .025."""
    world, noise = sparse(), np.random.default_rng(1).normal(size=(400, 16)).astype(np.float32)
    catalog = replace(world.catalog, text={}, views={"text": noise, "cf": behaviour_vectors("spectral", world, Job(), width=16)})
    world = replace(world, catalog=catalog.with_view("both", composed(catalog, ("text", "cf"))))
    recall = {view: measure(grid.run(replace(grid.smoke(), view=view), world, Job()), world, seen="remove")["recall@10"]
              for view in ("text", "both")}
    assert recall["both"] > recall["text"] + 0.2, recall


@pytest.mark.slow
def test_sub_sequences_teach_more_than_whole_histories():
    """Twenty histories of fourteen steps, learnt by heart in a hundred updates, and all that is in them. Measured: NDCG@10 .18 and .52."""
    world, config = walk(users=20, length=16), replace(grid.smoke(), is_causal=False)
    codes = np.stack(np.unravel_index(np.random.default_rng(0).permutation(64), (4, 4, 4)), axis=1)
    ids, train = SemanticIds(codes.astype(np.int16), (4, 4, 4)), world.train
    taken = np.split(train.item, train.offsets[1:-1])
    whole = history_batch([items[:-1] for items in taken], users=np.arange(20), max_history=20)
    whole.target[torch.arange(20), whole.length - 1] = torch.tensor([int(items[-1]) for items in taken])
    found = {}
    for name, steps, batches in (
            ("whole", 100, SimpleNamespace(at=lambda step: whole, steps_per_epoch=1)),
            ("parts", 400, TargetBatches(train, max_length=20, batch_size=32, seed=0, has_random_start=True))):
        torch.manual_seed(0)
        recommender = train_generator(grid.build(config, ids), ids, batches, world, Job(), steps=steps, optimization=config.optimization,
                                      look_every=steps // 2, patience=2, beams=20, max_history=20)
        found[name] = measure(recommender, world, seen="remove")["ndcg@10"]
    assert found["parts"] > found["whole"] + 0.15, found
