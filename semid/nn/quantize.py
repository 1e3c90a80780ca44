"""Vector quantisation as pure functions: nearest codes, residual codes, straight-through gradients, losses, Sinkhorn.

Loss convention of the whole library: mean over elements, then mean over levels (LC-Rec's), so that auxiliary weights
mean the same everywhere.

Axes: B rows, D width, K codes of a level, L levels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid.nn.loop import loop

CHUNK = 16_384
"""Rows compared with a codebook at a time."""

TINY = 1e-300
"""What a row or column of a plan weighs at least, so that nothing is divided by zero."""


def squared_distances(points: Tensor, codebook: Tensor) -> Tensor:
    """Return float [B, K] squared Euclidean distances, never negative. points [B, D], codebook [K, D]. O(B K D)."""
    inner = points @ codebook.T                                                          # [B, K]
    return (points.square().sum(1, keepdim=True) - 2 * inner + codebook.square().sum(1)).clamp_min_(0)


def nearest(points: Tensor, codebook: Tensor) -> Tensor:
    """Return int64 [B], the nearest code of each row; ties go to the lowest code. points [B, D], codebook [K, D].

    Compared in the codebook's type under autocast too: in bfloat16 many distances are equal, and the lowest code would win them.
    """
    with torch.autocast(points.device.type, enabled=False):
        half_norm = codebook.square().sum(1) / 2
        return torch.cat([least(torch.addmm(half_norm, part.to(codebook.dtype), codebook.T, alpha=-1)) for part in points.split(CHUNK)])


def least(values: Tensor) -> Tensor:
    """Return int64 [B], the first least of each row of float [B, K]. On the CPU by numpy, which is ten times as quick as torch there."""
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return values.argmin(1)
    return torch.from_numpy(values.detach().numpy().argmin(1))


def residual_codes(points: Tensor, codebooks: Tensor, *, unit_residuals: bool = False) -> tuple[Tensor, Tensor]:
    """Encode each row level by level: code of what the levels before it missed.

    points [B, D]; codebooks [L, K, D]; unit_residuals: scale what is left to unit length before each level (GRID).
    Returns (codes int64 [B, L], residual float [B, D] after the last level).

    Source: TIGER, arXiv 2305.05065, section 3.1.
    """
    codes, residual = [], points
    for codebook in codebooks:
        residual = F.normalize(residual, dim=1) if unit_residuals else residual
        code = nearest(residual, codebook)
        residual = residual - codebook[code]
        codes.append(code)
    return torch.stack(codes, dim=1), residual


def residual_after(points: Tensor, codes: Tensor, codebooks: Tensor, *, unit_residuals: bool = False) -> Tensor:
    """Return what given codes leave of the points, float [B, D], ready to be compared with the next level's codebook.

    points [B, D]; codes int64 [B, l], l <= L; codebooks [L, K, D].
    """
    residual = points
    for level in range(codes.shape[1]):
        residual = F.normalize(residual, dim=1) if unit_residuals else residual
        residual = residual - codebooks[level][codes[:, level]]
    return F.normalize(residual, dim=1) if unit_residuals else residual


def straight_through(continuous: Tensor, quantised: Tensor) -> Tensor:
    """Return `quantised` in value, with the identity as its gradient w.r.t. `continuous`. Both [B, D]."""
    return continuous + (quantised - continuous).detach()


def quantization_loss(residual: Tensor, chosen: Tensor, *, commitment: float) -> Tensor:
    """Pull codes to residuals and, `commitment` times as hard, residuals to codes. Both [..., D]; a scalar, element mean.

    Source: VQ-VAE, arXiv 1711.00937, equation 3; per level in TIGER, arXiv 2305.05065, section 3.1.
    """
    return F.mse_loss(chosen, residual.detach()) + commitment * F.mse_loss(residual, chosen.detach())


def sinkhorn_plan(cost: Tensor, *, epsilon: float, iterations: int) -> Tensor:
    """Spread B rows evenly over K columns at low cost: the transport plan, float64 [B, K], columns summing to 1/K.

    cost [B, K] is first scaled to a range of 2 (LC-Rec: [-1, 1]; each row from 0 here, which is the same plan and overflows nowhere), so
    `epsilon` has no unit. float64: exp(-1/.003) is 0 in float32.

    Source: Cuturi 2013, arXiv 1306.0895; used on codes by LC-Rec, arXiv 2311.09049, equation 5.
    """
    cost = cost.double()
    half = (cost.max() - cost.min()) / 2
    plan = torch.exp((cost.amin(1, keepdim=True) - cost) / (half + 1e-5) / epsilon)
    if plan.device.type == "cpu":
        _balance(plan.numpy(), iterations)
        return plan
    return _balanced_of_torch(plan, iterations)


def _balanced_of_torch(plan: Tensor, iterations: int) -> Tensor:
    rows, columns = plan.shape
    row_scale, column_scale = plan.new_ones(rows), plan.new_ones(columns)
    for _ in range(iterations):
        row_scale = 1 / (rows * (plan @ column_scale))
        column_scale = 1 / (columns * (row_scale @ plan))
    return row_scale[:, None] * plan * column_scale


@loop(fastmath={"reassoc", "contract"})
def _balance(plan, iterations):
    """`_balanced_of_torch` in place, in one pass over the plan an iteration: a row is weighed and added to the columns while it is near."""
    rows, columns = plan.shape
    row_scale, column_scale, total = np.ones(rows), np.ones(columns), np.empty(columns)
    for _ in range(iterations):
        total[:] = 0
        for row in range(rows):
            weight = 0.0
            for column in range(columns):
                weight += plan[row, column] * column_scale[column]
            row_scale[row] = 1 / max(rows * weight, TINY)
            for column in range(columns):
                total[column] += row_scale[row] * plan[row, column]
        for column in range(columns):
            column_scale[column] = 1 / max(columns * total[column], TINY)
    for row in range(rows):
        for column in range(columns):
            plan[row, column] *= row_scale[row] * column_scale[column]
