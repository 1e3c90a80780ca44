"""Residual k-means: the first level clusters the vectors, each further level what the levels before it missed.

No network, seconds on a processor, and hard to beat: the default of OneRec-style systems and of GRID's best rows (RK-Means).
Source: OneRec, arXiv 2502.18965, section 3.1; GRID, arXiv 2507.22224, section 2.
Deviations: full Lloyd iterations on a sample instead of mini-batches; restarts for empty codes.

Axes: N items, D width, L levels, K codes of a level.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semid.nn.kmeans import residual_kmeans
from semid.tokenizers import codebooks
from semid.tokenizers.view import View, composed, stored_view, view_name, want_enough
from semid.types import Catalog, Interactions, SemanticIds


class ResidualKMeans:
    """L levels of K centroids over a view of the catalogue (or several, see `view.composed`).

    sample: at most so many items a code take part in fitting. unit_residuals: scale residuals to unit length before each
    level, as GRID does. `codebooks` float32 [L, K, D] is all it learns.
    Relations: `RQVAE` learns codebooks and a latent space by gradient, `ResidualVQ` codebooks alone.

    >>> ids = ResidualKMeans(("text", "cf")).fit(catalog, seed=0).assign(catalog)  # doctest: +SKIP
    """

    def __init__(self, view: View, *, levels: int = 3, size: int = 256, iterations: int = 25, sample: int = 256,
                 unit_residuals: bool = False):
        self.view = view
        self.levels = levels
        self.size = size
        self.iterations = iterations
        self.sample = sample
        self.unit_residuals = unit_residuals
        self.codebooks: Tensor = torch.empty(0)

    def fit(self, catalog: Catalog, interactions: Interactions | None = None, *, seed: int) -> ResidualKMeans:
        """Learn the codebooks from the view; interactions are not read. Same seed, same bits."""
        vectors = composed(catalog, self.view)
        want_enough(vectors, self.size)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(vectors), generator=generator)[: self.sample * self.size]
        points = torch.from_numpy(vectors)[rows.sort().values]
        self.codebooks = residual_kmeans(points, self.levels, self.size, iterations=self.iterations, generator=generator,
                                         unit_residuals=self.unit_residuals)
        return self

    def assign(self, catalog: Catalog) -> SemanticIds:
        """Return the codes of the catalogue's items, old or new."""
        return codebooks.assign(self._vectors(catalog), self.codebooks, unit_residuals=self.unit_residuals,
                                source=f"residual k-means of {view_name(self.view)}")

    def distances(self, catalog: Catalog, codes: np.ndarray) -> np.ndarray:
        """Return float32 [N, K]: squared distance of each item's last residual to every last-level code."""
        return codebooks.last_distances(self._vectors(catalog), codes, self.codebooks, unit_residuals=self.unit_residuals)

    def unexplained(self, catalog: Catalog, codes: np.ndarray) -> list[float]:
        """Return the share of variance left after each level."""
        return codebooks.unexplained(self._vectors(catalog), codes, self.codebooks, unit_residuals=self.unit_residuals)

    @property
    def width(self) -> int:
        """D of the view it was fitted to."""
        return self.codebooks.shape[2]

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        settings = {"view": self.view, "levels": self.levels, "size": self.size, "iterations": self.iterations,
                    "sample": self.sample, "unit_residuals": self.unit_residuals}
        codebooks.save(path, {"codebooks": self.codebooks}, settings)

    @classmethod
    def load(cls, path: Path) -> ResidualKMeans:
        """Read what `save` wrote."""
        tensors, settings = codebooks.load(path)
        tokenizer = cls(stored_view(settings.pop("view")), **settings)
        tokenizer.codebooks = tensors["codebooks"]
        return tokenizer

    def _vectors(self, catalog: Catalog) -> Tensor:
        return torch.from_numpy(composed(catalog, self.view))
