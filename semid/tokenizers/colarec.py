"""ColaRec's identifiers: a tree of clusters of even size, and a running number inside the last cluster.

Source: Wang et al., "Content-Based Collaborative Generation for Recommender Systems", CIKM 2024, arXiv 2403.18480, and its code.
Deviations: (1) no cluster is empty where there are items enough for all (the code bounds sizes from above alone); (2) one start of
k-means and ten iterations within bounds (the code: 10 starts, 300 iterations).

Axes: N items, D width, L levels, K codes of a level, P = K^l clusters above level l.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semid.errors import DataError
from semid.nn.balanced_kmeans import assign_within, balanced_kmeans
from semid.nn.quantize import squared_distances
from semid.tokenizers import codebooks
from semid.tokenizers.view import View, composed, stored_view, view_name
from semid.types import Catalog, Interactions, SemanticIds


class ColaRec:
    """L - 1 levels of k-means, each inside the clusters of the one before; a cluster of level l (from 1) holds at most K^(L - l) items.

    So at most K items share their codes, and `collisions.extra_level` behind it numbers them: the last level, which means nothing.
    A catalogue is coded as a whole, at the least squared distance within the bounds: other items beside it may move an item.
    """

    def __init__(self, view: View, *, levels: int = 3, size: int = 32):
        if levels < 2 or size < 2:
            raise DataError(f"colarec: want at least 2 levels of at least 2 codes, got {levels} of {size}")
        self.view, self.levels, self.size = view, levels, size
        self.centroids: list[Tensor] = []  # one a clustered level, float32 [P, K, D]; infinite where a cluster has fewer than K below it

    @property
    def width(self) -> int:
        """D of the view it was fitted to."""
        return self.centroids[0].shape[2]

    def fit(self, catalog: Catalog, interactions: Interactions | None = None, *, seed: int) -> ColaRec:
        """Cluster the items of the catalogue; interactions are not read. Same seed, same bits. Raises `DataError` for too many items."""
        generator = torch.Generator().manual_seed(seed)
        vectors = self._vectors(catalog)
        width = vectors.shape[1]
        self.centroids = [torch.full((self.size**level, self.size, width), torch.inf) for level in range(self.levels - 1)]

        def cluster(level: int, parent: int, points: Tensor, high: int) -> np.ndarray:
            count = min(self.size, len(points))
            found, part = balanced_kmeans(points, count, low=1, high=high, generator=generator)
            self.centroids[level][parent, :count] = found
            return part.numpy()

        self._descend(vectors, cluster)
        return self

    def assign(self, catalog: Catalog) -> SemanticIds:
        """Return L - 1 codes of the catalogue's items, at most K of which share theirs."""
        def nearest(level: int, parent: int, points: Tensor, high: int) -> np.ndarray:
            centroids = self.centroids[level][parent]
            centroids = centroids[centroids.isfinite().all(1)]
            if len(points) > high * len(centroids):
                raise DataError(f"colarec: want at most {high * len(centroids)} items in cluster {parent} of level {level}, which was "
                                f"fitted to fewer, got {len(points)}; fit it to this catalogue")
            return assign_within(squared_distances(points, centroids).numpy(), 0, high)

        codes = self._descend(self._vectors(catalog), nearest)
        return SemanticIds(codes, (self.size,) * (self.levels - 1), source=f"clusters of even size of {view_name(self.view)}")

    def distances(self, catalog: Catalog, codes: np.ndarray) -> np.ndarray:
        """Return float32 [N, K]: squared distance of each item to the clusters beside its own; infinite where there are fewer than K."""
        vectors, centroids = self._vectors(catalog), self.centroids[-1][self._parents(codes[:, :-1])]  # [N, K, D]
        return (vectors[:, None] - centroids).square().sum(2).numpy()

    def unexplained(self, catalog: Catalog, codes: np.ndarray) -> list[float]:
        """Return the share of variance that is left around the clusters of each level."""
        vectors = self._vectors(catalog)
        total = float((vectors - vectors.mean(0)).square().sum())
        code = torch.from_numpy(codes.astype(np.int64))
        return [float((vectors - table[self._parents(codes[:, :level]), code[:, level]]).square().sum()) / max(total, 1e-12)
                for level, table in enumerate(self.centroids)]

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors = {f"level_{level}": table for level, table in enumerate(self.centroids)}
        codebooks.save(path, tensors, {"view": self.view, "levels": self.levels, "size": self.size})

    @classmethod
    def load(cls, path: Path) -> ColaRec:
        """Read what `save` wrote."""
        tensors, settings = codebooks.load(path)
        tokenizer = cls(stored_view(settings.pop("view")), **settings)
        tokenizer.centroids = [tensors[f"level_{level}"] for level in range(tokenizer.levels - 1)]
        return tokenizer

    def _descend(self, vectors: Tensor, choose: Callable[[int, int, Tensor, int], np.ndarray]) -> np.ndarray:
        """Return codes int32 [N, L - 1]: `choose(level, parent, points [n, D], most of a cluster) -> code [n]`, cluster by cluster."""
        codes = np.zeros((len(vectors), self.levels - 1), np.int32)
        for level in range(self.levels - 1):
            parents = self._parents(codes[:, :level]).numpy()
            for parent in np.unique(parents):
                rows = np.flatnonzero(parents == parent)
                codes[rows, level] = choose(level, int(parent), vectors[rows], self.size ** (self.levels - 1 - level))
        return codes

    def _parents(self, codes: np.ndarray) -> Tensor:
        """Return int64 [N]: which cluster of its level a path of codes [N, l] ends in, 0 for an empty path."""
        number = np.zeros(len(codes), np.int64)
        for code in codes.T:
            number = number * self.size + code
        return torch.from_numpy(number)

    def want_room(self, count: int) -> None:
        """Raise `DataError` unless there are codes enough for `count` items, and items enough for the codes of a level."""
        if not self.size <= count <= self.size**self.levels:
            raise DataError(f"colarec: {self.levels} levels of {self.size} codes want {self.size} to {self.size**self.levels:,} items, "
                            f"got {count:,}; choose a size of at least {_least_size(count, self.levels)} and at most the number of "
                            "items, or other levels")

    def _vectors(self, catalog: Catalog) -> Tensor:
        self.want_room(len(catalog))
        return torch.from_numpy(composed(catalog, self.view))


def _least_size(count: int, levels: int) -> int:
    """The least number of codes a level that can name `count` items."""
    size = 2
    while size**levels < count:
        size += 1
    return size
