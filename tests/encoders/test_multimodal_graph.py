"""The graph's network equals its equations in numpy, and its loss reaches content, users and neighbours."""

from __future__ import annotations

import numpy as np
import torch

from semid.encoders.multimodal_graph import MultimodalGraph
from semid.nn.graph import BipartiteGraph
from semid.objectives.pairs import BPR
from semid.types import Batch

USER, ITEM = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 3])


def network(*, is_graph: bool = True) -> MultimodalGraph:
    torch.manual_seed(0)
    graph = BipartiteGraph(torch.from_numpy(USER), torch.from_numpy(ITEM), 3, 5)
    return MultimodalGraph(graph, torch.randn(5, 7), hidden=6, width=4, is_graph=is_graph).eval()


def a_batch() -> Batch:
    nothing = torch.full((2, 1), -1)
    return Batch(nothing, torch.zeros_like(nothing), torch.zeros(2, dtype=torch.int64), nothing, torch.tensor([0, 1]),
                 extra={"chosen": torch.tensor([0, 1]), "rejected": torch.tensor([[2, 3], [0, 4]])})


def by_hand(model: MultimodalGraph) -> np.ndarray:
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    a = np.zeros((8, 8))
    a[USER, 3 + ITEM] = a[3 + ITEM, USER] = 1
    mean = a / np.maximum(a.sum(1, keepdims=True), 1)
    x = np.concatenate([weights["user"], model.content.double().numpy() @ weights["project.weight"].T])
    for name, is_last in (("first", False), ("second", True)):
        own = x @ weights[f"{name}.own.weight"].T + weights[f"{name}.own.bias"]
        x = own + (mean @ x) @ weights[f"{name}.neighbours.weight"].T
        x = x if is_last else np.where(x > 0, x, 0.01 * x)
    return x


def test_vectors_and_loss_equal_numpy():
    model = network()
    wanted = by_hand(model)
    np.testing.assert_allclose(torch.cat(model.vectors()).detach().numpy(), wanted, atol=1e-5)
    batch = a_batch()
    user, chosen, rejected = wanted[[0, 1]], wanted[3 + batch.extra["chosen"].numpy()], wanted[3 + batch.extra["rejected"].numpy()]
    margin = (user * chosen).sum(1)[:, None] - np.einsum("bd,bkd->bk", user, rejected)
    assert abs(BPR(0.0)(model, batch).total.item() - np.log1p(np.exp(-margin)).mean()) < 1e-5


def test_the_loss_reaches_content_users_and_neighbours():
    model = network()
    BPR(0.0)(model, a_batch()).total.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert model.user.grad[2].abs().sum() > 0  # user 2 isn't in the batch: its gradient came along the edges of the graph


def test_without_the_graph_an_item_is_its_content():
    model = network(is_graph=False)
    before = model.vectors()[1]
    with torch.no_grad():
        model.user.add_(1)
    torch.testing.assert_close(model.vectors()[1], before)
    BPR(0.0)(model, a_batch()).total.backward()
    assert not model.user.grad[2].any()
