"""The graph of users and items equals a dense matrix in numpy, in value and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.nn.graph import BipartiteGraph

USER, ITEM = np.array([0, 0, 1, 1, 0, 1]), np.array([2, 0, 0, 1, 2, 0])
"""Two of three users take three of four items, two pairs twice; user 2 and item 3 are alone."""


@pytest.fixture
def graph() -> BipartiteGraph:
    return BipartiteGraph(torch.from_numpy(USER), torch.from_numpy(ITEM), 3, 4)


def dense() -> np.ndarray:
    """The matrix by its definition."""
    a = np.zeros((7, 7))
    a[USER, 3 + ITEM] = a[3 + ITEM, USER] = 1
    degree = a.sum(1)
    return a / np.sqrt(np.maximum(np.outer(degree, degree), 1))


def test_propagation_equals_a_dense_product_and_its_gradient(graph):
    x = torch.randn(7, 5, requires_grad=True)
    weight = torch.randn(7, 5)
    np.testing.assert_allclose(graph(x).detach(), dense() @ x.detach().numpy(), atol=1e-6)
    (graph(x) * weight).sum().backward()
    np.testing.assert_allclose(x.grad, dense().T @ weight.numpy(), atol=1e-6)
    assert not graph(x)[[2, 6]].any()


def test_the_mean_is_that_of_the_neighbours(graph):
    x = torch.randn(7, 5)
    mean = graph.mean(x)
    torch.testing.assert_close(mean[0], (x[3] + x[5]) / 2)
    torch.testing.assert_close(mean[3], (x[0] + x[1]) / 2)
    assert not mean[[2, 6]].any()


def test_other_numbers_of_the_nodes_permute_the_result(graph):
    users, items = np.array([2, 0, 1]), np.array([1, 3, 0, 2])
    other = BipartiteGraph(torch.from_numpy(users[USER]), torch.from_numpy(items[ITEM]), 3, 4)
    nodes = np.concatenate([users, 3 + items])  # the new number of each node
    x = torch.randn(7, 5)
    y = torch.empty_like(x)
    y[nodes] = x
    torch.testing.assert_close(other(y)[nodes], graph(x))


def test_the_row_of_a_known_history_is_the_row_of_the_user(graph):
    rows = graph.rows(torch.tensor([[2, 0, 2], [1, 0, -1], [3, -1, -1]]))  # repeats count once, items without edges not at all
    np.testing.assert_allclose(rows, dense()[:3, 3:], atol=1e-6)


def test_products_stay_float32_under_autocast(graph):
    with torch.autocast("cpu", torch.bfloat16):
        assert graph(torch.randn(7, 5, dtype=torch.bfloat16)).dtype == torch.float32
