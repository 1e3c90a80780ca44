"""K-means whose clusters all hold between `low` and `high` points.

Axes: N points, D width, K clusters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semid.errors import DataError
from semid.nn.kmeans import kmeans
from semid.nn.loop import loop
from semid.nn.quantize import squared_distances


def check_bounds(count: int, size: int, low: int, high: int) -> None:
    """Raise `DataError` unless `size` clusters of low to high points can hold `count` points."""
    if not size * low <= count <= size * high or low < 0:
        raise DataError(f"balanced k-means: want {size} clusters of {low} to {high} points to hold all {count:,}, but they hold "
                        f"{size * max(low, 0):,} to {size * high:,}; choose bounds around {count / size:.1f}, or fewer clusters")


def balanced_kmeans(points: Tensor, size: int, *, low: int, high: int, iterations: int = 10,
                    generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (centroids float32 [K, D], cluster int64 [N]) of points float32 [N, D]; each cluster has low..high points.

    Plain k-means first, then Lloyd iterations whose assignment is the cheapest one within the bounds. An empty cluster
    (only where `low` is 0) keeps its centroid. O(iterations N K D), and memory for N x K distances.
    Raises `DataError` for bounds that no assignment meets.

    Source: Bradley, Bennett and Demiriz 2000, Constrained k-means clustering (there with a lower bound alone).
    """
    check_bounds(len(points), size, low, high)
    centroids = kmeans(points, size, generator=generator)
    cluster = torch.full((len(points),), -1)
    for _ in range(iterations):
        before, cluster = cluster, torch.from_numpy(assign_within(squared_distances(points, centroids).numpy(), low, high))
        if cluster.equal(before):
            break
        count = torch.bincount(cluster, minlength=size)[:, None]
        mean = torch.zeros_like(centroids).index_add_(0, cluster, points) / count.clamp_min(1)
        centroids = torch.where(count > 0, mean, centroids)
    return centroids, cluster


def greedy_balanced_kmeans(points: Tensor, size: int, *, iterations: int = 20, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return (centroids float32 [K, D], cluster int64 [N]) of points float32 [N, D]; clusters differ by one point at most.

    From K random points, cluster after cluster takes the N / K free points nearest to its centroid, which moves to their mean; again, until
    nothing changes or `iterations` pass. The last clusters get what is left (with another order each time it doesn't settle, and the
    error is larger still). The remainder of N / K goes one each to the first clusters. O(iterations K N D), no memory but the points.

    Source: OneRec, arXiv 2502.18965, algorithm 1. Relations: `balanced_kmeans` finds the cheapest assignment, which is far better.
    """
    if len(points) < size:
        raise DataError(f"balanced k-means: want at least {size} points, one a cluster, got {len(points):,}; choose fewer clusters")
    capacity = torch.full((size,), len(points) // size)
    capacity[: len(points) % size] += 1
    centroids = points[torch.randperm(len(points), generator=generator)[:size]].clone()
    cluster = torch.full((len(points),), -1)
    for _ in range(iterations):
        before, free = cluster.clone(), torch.arange(len(points))
        for k in range(size):
            distance = (points[free] - centroids[k]).square().sum(1)
            near = distance.topk(int(capacity[k]), largest=False).indices
            taken = free[near]
            cluster[taken], centroids[k] = k, points[taken].mean(0)
            is_free = torch.ones(len(free), dtype=torch.bool)
            is_free[near] = False
            free = free[is_free]
        if cluster.equal(before):
            break
    return centroids, cluster


@loop()
def assign_within(cost: np.ndarray, low: int, high: int) -> np.ndarray:
    """Return int64 [N], a column for each row of cost float [N, K]: the least total cost where each column gets low..high rows.

    Exact. Every row starts at its cheapest column; then, one at a time, rows leave columns that have too many along the cheapest
    chain of moves (the shortest path between columns, an edge being the cheapest row to move), and enter those that have too few:
    successive shortest paths of minimum-cost flow, on a graph of K nodes instead of N. Wants K low <= N <= K high <= 4,096 high.
    """
    num_rows, num_columns = cost.shape
    spread = 0.0
    for row in range(num_rows):
        spread = max(spread, float(cost[row].max() - cost[row].min()))
    # Whole numbers up to 2^40, whose sums are exact: a rounded sum may look like a cycle of moves that pays, and be followed for ever.
    whole = np.zeros((num_rows, num_columns))
    column_of = np.empty(num_rows, np.int64)
    size = np.zeros(num_columns, np.int64)
    for row in range(num_rows):
        least = float(cost[row].min())
        for column in range(num_columns):
            if spread > 0:
                whole[row, column] = np.rint((float(cost[row, column]) - least) / spread * 2.0**40)
        column_of[row] = whole[row].argmin()
        size[column_of[row]] += 1
    edge = np.full((num_columns, num_columns), np.inf)  # edge[a, b]: the least that moving a row from a to b costs
    mover = np.zeros((num_columns, num_columns), np.int64)  # and the row
    for row in range(num_rows):
        _offer(whole, row, column_of[row], edge, mover)

    distance, came_from = np.empty(num_columns), np.empty(num_columns, np.int64)
    while True:
        is_over = size.max() > high
        if not is_over and size.min() >= low:
            return column_of
        for column in range(num_columns):
            is_source = size[column] > high if is_over else size[column] > low
            distance[column] = 0.0 if is_source else np.inf
            came_from[column] = -1
        is_new = distance == 0.0
        while is_new.any():  # Bellman-Ford: edges may be negative once rows have moved
            for a in range(num_columns):
                if not is_new[a]:
                    continue
                is_new[a] = False
                for b in range(num_columns):
                    if distance[a] + edge[a, b] < distance[b]:
                        distance[b], came_from[b], is_new[b] = distance[a] + edge[a, b], a, True
        end, nearest = -1, np.inf
        for column in range(num_columns):
            has_room = size[column] < high if is_over else size[column] < low
            if has_room and distance[column] < nearest:
                end, nearest = column, distance[column]
        size[end] += 1
        changed = np.zeros(num_columns, np.bool_)
        changed[end] = True
        column = end
        while came_from[column] >= 0:
            column_of[mover[came_from[column], column]] = column
            column = came_from[column]
            changed[column] = True
        size[column] -= 1
        edge[changed] = np.inf
        for row in range(num_rows):
            if changed[column_of[row]]:
                _offer(whole, row, column_of[row], edge, mover)


@loop()
def _offer(cost: np.ndarray, row: int, column: int, edge: np.ndarray, mover: np.ndarray) -> None:
    """Let a row of `column` lower the cost of the moves away from it."""
    for other in range(cost.shape[1]):
        price = cost[row, other] - cost[row, column]
        if other != column and price < edge[column, other]:
            edge[column, other] = price
            mover[column, other] = row
