"""Product quantisation: the vector is rotated, cut into pieces, and each piece is one digit; digits have no order.

Source: RPG, arXiv 2506.05781, section 3.1 (semantic ids by OPQ); the rotation is the parametric solution of optimised
product quantisation, Ge et al. 2013 (CVPR), section 3.2: principal axes dealt to the pieces so that their variances balance.

Axes: N items, D width, L digits, K codes of a digit, P columns of a piece.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semid.errors import ConfigError
from semid.nn.kmeans import kmeans
from semid.nn.quantize import nearest, squared_distances
from semid.tokenizers import codebooks
from semid.tokenizers.view import View, composed, stored_view, view_name, want_enough
from semid.types import Catalog, Interactions, SemanticIds


class Product:
    """`digits` codes of `size` over a view of the catalogue (or several, see `view.composed`), order "set".

    sample: at most so many items a code take part in fitting. It learns `shift` [D], `rotation` [D, L * P] and
    `codebooks` [L, K, P], P = D // L: columns that don't fill every piece are those of least variance, and dropped.
    Relations: residual tokenizers order their levels from coarse to fine; here each digit sees its own piece.
    """

    def __init__(self, view: View, *, digits: int = 16, size: int = 256, iterations: int = 25, sample: int = 256):
        self.view = view
        self.digits = digits
        self.size = size
        self.iterations = iterations
        self.sample = sample
        self.shift = self.rotation = self.codebooks = torch.empty(0)

    def fit(self, catalog: Catalog, interactions: Interactions | None = None, *, seed: int) -> Product:
        """Learn rotation and codebooks from the view; interactions are not read. Same seed, same bits."""
        vectors = composed(catalog, self.view)
        want_enough(vectors, self.size)
        if vectors.shape[1] < self.digits:
            raise ConfigError(f"product quantisation: want at most one digit for each of {vectors.shape[1]} columns, "
                              f"got {self.digits} digits; choose digits <= {vectors.shape[1]}")
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(vectors), generator=generator)[: self.sample * self.size].sort().values
        points = torch.from_numpy(vectors)[rows]
        self.shift = points.mean(0)
        self.rotation = balanced_axes(points - self.shift, self.digits)
        pieces = self._pieces(points)
        self.codebooks = torch.stack([kmeans(piece, self.size, iterations=self.iterations, generator=generator)
                                      for piece in pieces])
        return self

    def assign(self, catalog: Catalog) -> SemanticIds:
        """Return the codes of the catalogue's items, old or new."""
        pieces = self._pieces(torch.from_numpy(composed(catalog, self.view)))
        codes = torch.stack([nearest(piece, book) for piece, book in zip(pieces, self.codebooks, strict=True)], dim=1)
        return SemanticIds.of(codes.numpy(), (self.size,) * self.digits, "set", f"product quantisation of {view_name(self.view)}")

    def distances(self, catalog: Catalog, codes: np.ndarray) -> np.ndarray:
        """Return float32 [N, K]: squared distance of each item's last piece to every code of the last digit."""
        return squared_distances(self._pieces(torch.from_numpy(composed(catalog, self.view)))[-1], self.codebooks[-1]).numpy()

    def unexplained(self, catalog: Catalog, codes: np.ndarray) -> list[float]:
        """Return the share of variance left once the pieces up to each digit are known."""
        vectors = torch.from_numpy(composed(catalog, self.view))
        pieces = self._pieces(vectors)                                                   # [L, N, P]
        chosen = torch.stack([book[digit] for book, digit in zip(self.codebooks, torch.from_numpy(codes.T.astype(np.int64)), strict=True)])
        gained = (pieces.square() - (pieces - chosen).square()).sum((1, 2)).cumsum(0)    # [L]
        return (1 - gained / (vectors - self.shift).square().sum().clamp_min(1e-12)).tolist()

    @property
    def width(self) -> int:
        """D of the view it was fitted to."""
        return len(self.shift)

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        settings = {"view": self.view, "digits": self.digits, "size": self.size, "iterations": self.iterations,
                    "sample": self.sample}
        codebooks.save(path, {"shift": self.shift, "rotation": self.rotation, "codebooks": self.codebooks}, settings)

    @classmethod
    def load(cls, path: Path) -> Product:
        """Read what `save` wrote."""
        tensors, settings = codebooks.load(path)
        tokenizer = cls(stored_view(settings.pop("view")), **settings)
        tokenizer.shift, tokenizer.rotation, tokenizer.codebooks = (tensors[n] for n in ("shift", "rotation", "codebooks"))
        return tokenizer

    def _pieces(self, vectors: Tensor) -> Tensor:
        """float32 [L, N, P]."""
        turned = (vectors - self.shift) @ self.rotation                                  # [N, L * P]
        return turned.unflatten(1, (self.digits, -1)).transpose(0, 1).contiguous()


def balanced_axes(points: Tensor, digits: int) -> Tensor:
    """Return float32 [D, L * P], P = D // L: principal axes of centred points [N, D], grouped into pieces of like variance.

    Each axis, widest first, goes to the piece with room whose product of variances is least.
    """
    variance, axes = torch.linalg.eigh(points.double().T @ points.double() / len(points))
    width = points.shape[1] // digits
    pieces: list[list[int]] = [[] for _ in range(digits)]
    weight = [0.0] * digits
    logs = variance.clamp_min(variance[-1].clamp_min(1e-300) * 1e-9).log()
    logs = (logs - logs[len(logs) - digits * width :].min()).tolist()      # kept axes weigh >= 0: products grow
    for axis in reversed(range(points.shape[1] - digits * width, points.shape[1])):
        piece = min((p for p in range(digits) if len(pieces[p]) < width), key=lambda p: (weight[p], p))
        pieces[piece].append(axis)
        weight[piece] += logs[axis]
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)   # fixed signs
    return axes[:, torch.tensor(pieces).flatten()].float()
