"""Search along the graph of like items: exact where it visits all, never an item that may not be shown, near at large."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semid.decoding.graph import ItemGraph, graph_search
from semid.decoding.ranking import mask_items, top_items
from semid.nn.digit_sum import digit_sum

N, L, V, D = 400, 6, 8, 12


def world(items: int = N, digits: int = L, size: int = V) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """(code vectors, codes, log-probabilities of five users whose taste lies in the space of the vectors)."""
    torch.manual_seed(0)
    vectors = [F.normalize(torch.randn(size, D), dim=1) for _ in range(digits)]
    codes = torch.randint(size, (items, digits), dtype=torch.int16)
    users = torch.randn(5, D)
    values = torch.stack([users @ table.T for table in vectors], dim=1).mul(3).log_softmax(2)
    return vectors, codes, values


def limits() -> tuple[np.ndarray, torch.Tensor]:
    rng = np.random.default_rng(1)
    hidden = torch.from_numpy(rng.integers(0, N, (5, 30)))
    hidden[2, 10:] = -1
    return rng.random(N) < 0.5, hidden


def exact(values: torch.Tensor, codes: torch.Tensor, k: int, allowed: np.ndarray | None = None, hidden: torch.Tensor | None = None):
    return top_items(mask_items(digit_sum(values, codes), allowed, hidden), k)


@pytest.mark.parametrize(("edges", "beams", "steps"), [(N, 1, 1), (5, N, 1), (40, 40, 20)])
@pytest.mark.parametrize("is_limited", [False, True])
def test_a_search_that_visits_all_equals_scoring_all(edges, beams, steps, is_limited):
    vectors, codes, values = world()
    codes[50:80] = codes[0]  # equal digits: ties go to the lower row
    graph = ItemGraph.build(vectors, codes, edges=edges, beams=beams, steps=steps, seed=0)
    limited = dict(zip(("allowed", "hidden"), limits(), strict=True)) if is_limited else {}
    score, item = graph_search(values, codes, graph, k=60, **limited)
    expected_score, expected_item = exact(values, codes, 60, **limited)
    assert torch.equal(item, expected_item)
    assert torch.equal(score, expected_score)


def test_a_short_search_shows_nothing_forbidden_twice_or_wrongly_scored():
    vectors, codes, values = world()
    allowed, hidden = limits()
    graph = ItemGraph.build(vectors, codes, edges=6, beams=4, steps=2, seed=0)
    score, item = graph_search(values, codes, graph, k=30, allowed=allowed, hidden=hidden)
    assert (item == -1).any()  # it found fewer than asked for
    assert torch.equal(item == -1, score == -torch.inf)
    everything = digit_sum(values, codes)
    for row in range(5):
        found = item[row][item[row] >= 0]
        assert len(found.unique()) == len(found) > 0
        assert allowed[found.numpy()].all()
        assert not set(found.tolist()) & set(hidden[row].tolist())
        assert torch.equal(score[row][: len(found)], everything[row, found])


def test_neighbours_are_the_items_of_nearest_mean_cosine():
    vectors, codes, _ = world(60)
    graph = ItemGraph.build(vectors, codes, edges=7, beams=5, steps=1, seed=0)
    of_items = torch.stack([table[codes[:, digit].long()] for digit, table in enumerate(vectors)], dim=1).numpy()
    cosine = np.einsum("ild,jld->ij", of_items, of_items) / L
    np.fill_diagonal(cosine, -np.inf)
    best = np.sort(np.take_along_axis(cosine, graph.neighbour.numpy(), axis=1))
    np.testing.assert_allclose(best, np.sort(np.sort(cosine)[:, -7:]), atol=1e-6)
    assert len(graph.start.unique()) == 5


def test_few_steps_find_most_of_the_best_among_many():
    vectors, codes, values = world(20_000, 8, 32)
    graph = ItemGraph.build(vectors, codes, edges=50, beams=20, steps=4, seed=0)
    _, item = graph_search(values, codes, graph, k=10)
    _, best = exact(values, codes, 10)
    share = np.mean([len(set(found.tolist()) & set(true.tolist())) / 10 for found, true in zip(item, best, strict=True)])
    assert share > 0.7


def test_the_same_request_alone_and_among_others_gets_the_same_list():
    vectors, codes, values = world()
    graph = ItemGraph.build(vectors, codes, edges=6, beams=4, steps=3, seed=0)
    together, alone = graph_search(values, codes, graph, k=20), graph_search(values[3:4], codes, graph, k=20)
    assert torch.equal(together[1][3], alone[1][0])
    assert torch.equal(together[0][3], alone[0][0])
