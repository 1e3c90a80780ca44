"""The share of free beams that are items, against all paths counted one by one."""

from itertools import product

import numpy as np
import pytest
import torch

from semid.decoding.free import valid_share
from semid.types import SemanticIds
from tests.decoding.hashed import HashedGenerator, histories, path_scores, random_ids, tree_and_generator

USERS = [5, 6, 9]


@pytest.mark.parametrize("beams", [6, 10, 36])
def test_the_best_paths_are_those_of_all_paths_scored_one_by_one(beams):
    ids = random_ids(np.random.default_rng(0), 9, (6, 6))
    tree, generator = tree_and_generator(ids)
    every = SemanticIds(np.array(list(product(range(6), range(6))), dtype=np.int16), (6, 6))
    scores = path_scores(generator, every, USERS, "vocabulary")
    items = set(map(tuple, ids.codes.tolist()))
    is_item = np.array([tuple(path) in items for path in every.codes.tolist()])
    wanted = np.mean([is_item[np.argsort(-row)[:beams]].mean() for row in scores])
    assert valid_share(generator, histories(USERS), tree, beams=beams) == pytest.approx(wanted)


def test_a_shorter_id_is_met_whatever_is_written_after_it():
    ids = SemanticIds(np.array([[0, -1], [1, 2]], dtype=np.int16), (3, 3))
    tree, generator = tree_and_generator(ids)
    assert valid_share(generator, histories(USERS), tree, beams=9) == pytest.approx((3 + 1) / 9)


def test_paths_that_cannot_be_written_are_not_counted():
    class Narrow(HashedGenerator):
        def step(self, state, codes):
            logits, state = super().step(state, codes)
            return logits.index_fill(1, torch.tensor([2]), -torch.inf), state

    ids = SemanticIds(np.array([[0, 0], [0, 1], [1, 0]], dtype=np.int16), (3, 3))
    tree, _ = tree_and_generator(ids)
    assert valid_share(Narrow(ids.sizes), histories(USERS), tree, beams=9) == pytest.approx(3 / 4)
