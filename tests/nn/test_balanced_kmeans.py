import numpy as np
import pytest
import torch

from semid.errors import DataError
from semid.nn.balanced_kmeans import assign_within, balanced_kmeans, greedy_balanced_kmeans
from semid.nn.kmeans import kmeans
from semid.nn.quantize import squared_distances


@pytest.mark.parametrize(("low", "high"), [(0, 3), (2, 9), (2, 3), (1, 4), (0, 30)])
def test_assignment_is_the_cheapest_within_the_bounds(low, high):
    """Against scipy: `low` slots of each column must be filled, so they cost far less than the other high - low."""
    optimize = pytest.importorskip("scipy.optimize")
    for seed in range(5):
        cost = np.random.default_rng(seed).gamma(1.0, size=(30, 11)).astype(np.float32)
        cost[:, 0] *= 0.2  # a column that everybody wants
        got = assign_within(cost, low, high)
        size = np.bincount(got, minlength=11)
        assert low <= size.min()
        assert size.max() <= high
        slots = np.concatenate([np.tile(cost - 1e3, low), np.tile(cost, high - low)], axis=1).astype(np.float64)
        rows, columns = optimize.linear_sum_assignment(slots)
        assert cost[np.arange(30), got].sum() == pytest.approx(cost[rows, columns % 11].sum(), rel=1e-6)


def test_costs_that_nearly_cancel_come_to_an_end():
    """Twins in a full house, whose costs differ by less than a sum of floats can hold: moves in a circle neither pay nor cost."""
    rng = np.random.default_rng(0)
    cost = (rng.random((64, 8)) * 1e-3 + rng.random((64, 8)) * 1e-16)[rng.integers(0, 12, 64)]
    cost[:, 1:] += rng.random((64, 7)) * 1e-15
    assert np.bincount(assign_within(cost, 1, 8)).tolist() == [8] * 8


def test_without_need_everybody_gets_the_cheapest():
    cost = np.random.default_rng(0).random((40, 4), np.float32)
    np.testing.assert_array_equal(assign_within(cost, 0, 40), cost.argmin(1))


def test_clusters_keep_to_their_bounds_and_lie_among_their_points():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(600, 6, generator=generator) * torch.linspace(0.1, 3, 600)[:, None]
    centroids, cluster = balanced_kmeans(points, 16, low=30, high=45, generator=generator)
    size = torch.bincount(cluster, minlength=16)
    assert size.min() >= 30
    assert size.max() <= 45
    scattered = (points - points.mean(0)).square().sum()
    assert (points - centroids[cluster]).square().sum() < 0.8 * scattered


def test_identical_points_are_dealt_evenly():
    centroids, cluster = balanced_kmeans(torch.ones(50, 3), 8, low=6, high=7, generator=torch.Generator().manual_seed(0))
    assert sorted(torch.bincount(cluster).tolist()) == [6] * 6 + [7] * 2
    torch.testing.assert_close(centroids, torch.ones(8, 3))


@pytest.mark.parametrize(("low", "high"), [(7, 9), (0, 6), (-1, 9)])
def test_bounds_that_nobody_can_meet_are_one_clear_message(low, high):
    with pytest.raises(DataError, match=r"hold all 50.*choose bounds around 6\.2"):
        balanced_kmeans(torch.randn(50, 3), 8, low=low, high=high, generator=torch.Generator().manual_seed(0))


def skewed(count: int, seed: int = 0) -> torch.Tensor:
    """Points of which two thirds lie in one narrow cloud."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 6, generator=generator)
    points[: 2 * count // 3] *= 0.2
    return points


def error(points: torch.Tensor, centroids: torch.Tensor, cluster: torch.Tensor) -> float:
    return (points - centroids[cluster]).square().sum().item()


@pytest.mark.parametrize("count", [600, 613])
def test_greedy_clusters_differ_by_one_point_at_most_and_centroids_are_their_means(count):
    points = skewed(count)
    centroids, cluster = greedy_balanced_kmeans(points, 16, generator=torch.Generator().manual_seed(0))
    size = torch.bincount(cluster, minlength=16)
    assert size.max() - size.min() <= 1
    for k in range(16):
        torch.testing.assert_close(centroids[k], points[cluster == k].mean(0))


def test_balance_costs_little_error_and_the_cheapest_assignment_least():
    points, generator = skewed(640), torch.Generator().manual_seed(0)
    plain = kmeans(points, 16, generator=generator)
    best = error(points, plain, squared_distances(points, plain).argmin(1))
    exact = error(points, *balanced_kmeans(points, 16, low=40, high=40, generator=generator))
    greedy = error(points, *greedy_balanced_kmeans(points, 16, generator=generator))
    assert best < exact < greedy < 2 * best


def test_fewer_points_than_greedy_clusters_are_refused():
    with pytest.raises(DataError, match="want at least 16 points, one a cluster, got 10; choose fewer clusters"):
        greedy_balanced_kmeans(torch.randn(10, 3), 16, generator=torch.Generator().manual_seed(0))
