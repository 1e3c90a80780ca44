"""A history is a set: its order changes nothing; strangers are the mean user."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.generators.relational import Relational
from semid.objectives.next_codes import NextCodes
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds

ITEMS = 30


def some_ids() -> SemanticIds:
    codes = np.stack(np.unravel_index(np.arange(ITEMS), (5, 3, 2)), axis=1)
    return SemanticIds(codes.astype(np.int32), (5, 3, 2))


@pytest.fixture(params=[True, False], ids=["relation", "no relation"])
def generator(request) -> Relational:
    torch.manual_seed(0)
    return Relational(some_ids(), torch.randn(ITEMS, 16), torch.randn(4, 8), heads=2, head_width=8, feedforward=16,
                      is_relational=request.param).eval()


def a_batch(histories: list[list[int]], targets: list[int], users: list[int]) -> Batch:
    batch = history_batch([np.array(h) for h in histories], users=np.array(users), max_history=10)
    batch.target[torch.arange(len(targets)), batch.length - 1] = torch.tensor(targets)
    return batch


BATCH = a_batch([[1, 2, 3], [4], [9, 8, 7, 6, 5]], [10, 11, 12], [0, 3, -1])


def test_the_order_of_a_history_means_nothing(generator):
    shuffled = a_batch([[3, 1, 2], [4], [5, 9, 6, 8, 7]], [10, 11, 12], [0, 3, -1])
    torch.testing.assert_close(generator.logits(shuffled), generator.logits(BATCH), atol=1e-5, rtol=1e-5)


def test_the_user_decides_and_a_stranger_is_the_mean_user():
    torch.manual_seed(0)
    users = torch.randn(4, 8)
    model = Relational(some_ids(), torch.randn(ITEMS, 16), users, heads=2, head_width=8, feedforward=16).eval()
    ask = lambda user: model.logits(replace(BATCH, user=torch.full((3,), user)))
    assert not torch.allclose(ask(0), ask(1), atol=1e-4)
    torch.testing.assert_close(ask(-1), ask(99))
    model.user[0] = users.mean(0)
    torch.testing.assert_close(ask(0), ask(-1))


def test_the_loss_trains_the_reader_and_leaves_the_graph_s_vectors_alone(generator):
    NextCodes()(generator, BATCH).total.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in generator.encoder.parameters())
    assert not {"item", "user"} & {name for name, _ in generator.named_parameters()}


def test_more_items_leave_the_old_ones_as_they_were(generator):
    ids = SemanticIds(np.concatenate([some_ids().codes, [[0, 0, 1]]]).astype(np.int32), (5, 3, 2))
    grown = generator.with_items(ids, CodeTree.build(ids), torch.ones(1, 16))
    torch.testing.assert_close(grown.logits(BATCH), generator.logits(BATCH))
    assert torch.isfinite(NextCodes()(grown, a_batch([[ITEMS, 1]], [2], [0])).total)
    assert len(generator.item) == ITEMS + 1
