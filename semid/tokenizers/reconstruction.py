"""How much of an item's vector its codes tell, measured alike for all tokenizers and for codes of which nothing else is known.

Axes: N items, D width, L levels, C = codes of all levels together.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semid.types import SemanticIds

SAMPLE = 20_000
"""Items that take part."""


def reconstruction_error(ids: SemanticIds, vectors: np.ndarray, *, folds: int = 5, ridge: float = 1.0, seed: int = 0) -> float:
    """Return the share of variance of items' vectors float32 [N, D] that the best sum of one vector a code leaves, 0 = nothing.

    A tokenizer's own error is in its own space (the latents of an RQ-VAE, the view of k-means) and cannot be compared. Here every code
    of a level gets the vector that, summed over levels, comes nearest to the vectors of the other items (least squares, each code
    shrunk to zero as if `ridge` more items had it), and the error is that of items held out, a fifth at a time: codes that nobody
    shares explain nothing. 1 and more: the codes say nothing of these vectors. Rows of zeros take no part. O(N C^2 + C^3).

    Relations: `ResidualKMeans.unexplained` is the error in its own space, with its own codebooks.
    """
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(np.abs(vectors).sum(1) > 0)
    rows = rng.permutation(rows)[:SAMPLE]
    if len(rows) < folds:
        return float("nan")
    offsets = np.concatenate([[0], np.cumsum(ids.sizes)[:-1]])
    column = torch.from_numpy(np.where(ids.codes[rows] >= 0, ids.codes[rows] + offsets, sum(ids.sizes)).astype(np.int64))
    has = torch.zeros(len(rows), sum(ids.sizes) + 1).scatter_(1, column, 1.0)[:, :-1]  # [N, C]; padding falls into the last column
    target = torch.from_numpy(vectors[rows])
    left, total = 0.0, 0.0
    for fold in range(folds):
        out = torch.arange(len(rows)) % folds == fold
        missed, whole = _held_out(has[~out], target[~out], has[out], target[out], ridge)
        left, total = left + missed, total + whole
    return left / total if total > 0 else float("nan")


def _held_out(has: Tensor, target: Tensor, has_out: Tensor, target_out: Tensor, ridge: float) -> tuple[float, float]:
    """Return (squared error, squared distance to the mean) of the rows held out."""
    mean = target.mean(0)
    normal = (has.T @ has).double() + ridge * torch.eye(has.shape[1], dtype=torch.float64)  # [C, C]
    vectors = torch.linalg.solve(normal, (has.T @ (target - mean)).double()).float()  # [C, D]
    centred = target_out - mean
    return float((centred - has_out @ vectors).square().sum()), float(centred.square().sum())
