"""K-means that is fast on a processor: few points early, products in bfloat16, sums in float32.

Axes: N points, D width, K centroids, L levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semid.nn.precision import has_bfloat16
from semid.nn.quantize import CHUNK, residual_codes


def kmeans(points: Tensor, size: int, *, iterations: int = 25, generator: torch.Generator, fast: bool = True) -> Tensor:
    """Return `size` centroids, float32 [K, D], of points float32 [N, D] by Lloyd's algorithm from k-means++ seeds; N >= K.

    The first two thirds of the iterations see a quarter of the points (at least 32 a centroid), the rest all of them; either part ends
    where no point changes its centroid any more.
    Centroids that lose their last point restart at the points that fit worst. fast: compare in bfloat16 where the device
    has it (the points are centred first, which costs the comparison little; sums stay in float32).
    """
    count = len(points)
    centre = points.mean(0)
    points = points[torch.randperm(count, generator=generator).to(points.device)] - centre
    compared = points.bfloat16() if fast and has_bfloat16(points.device) else points
    centroids = spread_seeds(points[: 16 * size], size, generator)
    few = min(count, max(count // 4, 32 * size))
    early = iterations * 2 // 3
    for seen, most in ((few, early), (count, iterations - early)):
        before = None
        for _ in range(most):
            code, closeness = _assign(compared[:seen], centroids.to(compared.dtype))
            if before is not None and code.equal(before):
                break
            before, centroids = code, _update(points[:seen], code, closeness, centroids)
    return centroids + centre


def residual_kmeans(points: Tensor, levels: int, size: int, *, iterations: int = 25, generator: torch.Generator,
                    unit_residuals: bool = False) -> Tensor:
    """Return codebooks float32 [L, K, D] of points float32 [N, D]: k-means of what the levels before left over.

    unit_residuals: scale what is left to unit length before each level (GRID).
    """
    codebooks, residual = [], points
    for _ in range(levels):
        residual = F.normalize(residual, dim=1) if unit_residuals else residual
        codebook = kmeans(residual, size, iterations=iterations, generator=generator)
        residual = residual_codes(residual, codebook[None])[1]
        codebooks.append(codebook)
    return torch.stack(codebooks)


def spread_seeds(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return `size` of the points, [K, D], each drawn with probability ~ squared distance to those drawn before.

    Source: Arthur and Vassilvitskii 2007 (k-means++).
    """
    norm = points.square().sum(1)
    chosen = torch.zeros(size, dtype=torch.int64, device=points.device)
    distance = torch.full_like(norm, torch.inf)
    draws = torch.rand(size, generator=generator, dtype=torch.float64).to(points.device)
    for k in range(1, size):
        last = chosen[k - 1]
        distance = torch.minimum(distance, (norm - 2 * (points @ points[last]) + norm[last]).clamp_min_(0))
        mass = distance.double().cumsum(0)
        chosen[k] = torch.searchsorted(mass, draws[k] * mass[-1]).clamp_max_(len(points) - 1)
    return points[chosen]


def _assign(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return (code int64 [N], closeness [N]) with closeness = x.c - |c|^2/2, which is largest for the nearest centroid."""
    bias = -centroids.float().square().sum(1).to(centroids.dtype) / 2
    best = [torch.addmm(bias, part, centroids.T).max(1) for part in points.split(CHUNK)]
    return torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])


def _update(points: Tensor, code: Tensor, closeness: Tensor, centroids: Tensor) -> Tensor:
    """Return the means of the points of each code; codes without points restart at the worst-fitted points."""
    count = torch.bincount(code, minlength=len(centroids))
    total = torch.zeros_like(centroids).index_add_(0, code, points)
    moved = total / count.clamp_min(1)[:, None]
    dead = torch.nonzero(count == 0).squeeze(1)
    if len(dead):
        misfit = points.square().sum(1) - 2 * closeness.float()
        moved[dead] = points[misfit.topk(len(dead)).indices]
    return moved
