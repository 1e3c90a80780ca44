import numpy as np
import pytest
import torch

from semid.nn.kmeans import kmeans
from semid.nn.quantize import nearest


def inertia(points, centroids):
    return float((points - centroids[nearest(points, centroids)]).square().sum())


def blobs(count: int, dim: int, centres: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return (torch.randn(centres, dim, generator=g) * 3)[torch.randint(centres, (count,), generator=g)] + torch.randn(
        count, dim, generator=g)


@pytest.mark.parametrize("fast", [True, False])
def test_error_is_within_5_percent_of_sklearn(fast):
    cluster = pytest.importorskip("sklearn.cluster")
    points = blobs(2000, 16, 40)
    ours = inertia(points, kmeans(points, 64, iterations=25, generator=torch.Generator().manual_seed(0), fast=fast))
    theirs = cluster.KMeans(64, n_init=1, max_iter=25, random_state=0).fit(points.numpy()).inertia_
    assert ours <= 1.05 * theirs


def test_same_seed_gives_the_same_bits():
    points = blobs(500, 8, 10)
    a, b = (kmeans(points, 16, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert a.equal(b)


def test_every_centroid_is_used_where_points_differ():
    points = torch.cat([torch.zeros(900, 4), torch.randn(100, 4, generator=torch.Generator().manual_seed(0)) * 5])
    centroids = kmeans(points, 32, iterations=20, generator=torch.Generator().manual_seed(0), fast=False)
    assert len(nearest(points, centroids).unique()) >= 30


def test_identical_points_do_not_crash():
    centroids = kmeans(torch.ones(50, 3), 8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(centroids, 1.0, atol=1e-6)


def test_a_shifted_cloud_gives_shifted_centroids():
    points = blobs(400, 8, 10)
    plain = kmeans(points, 16, generator=torch.Generator().manual_seed(0))
    shifted = kmeans(points + 100, 16, generator=torch.Generator().manual_seed(0))
    assert inertia(points, shifted - 100) == pytest.approx(inertia(points, plain), rel=0.02)
