"""Residual codebooks that learn by gradient: the quantising part of RQ-VAE, R-VQ and what is built on them.

Axes: B rows, D width, L levels, K codes of a level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from semid.nn.quantize import nearest, quantization_loss, sinkhorn_plan, squared_distances


class Quantized(NamedTuple):
    """codes int64 [B, L]; residual and chosen float [L, B, D], what each level saw and the code vector it chose.

    Gradients of `chosen` reach the codebooks, those of `residual` the input.
    """

    codes: Tensor
    residual: Tensor
    chosen: Tensor

    @property
    def total(self) -> Tensor:
        """float [B, D]: the sum of the chosen code vectors."""
        return self.chosen.sum(0)

    def loss(self, *, commitment: float) -> Tensor:
        """Mean over levels of `quantization_loss`; with the convention of element means, one number whatever L is."""
        return quantization_loss(self.residual, self.chosen, commitment=commitment)


class ResidualQuantizer(nn.Module):
    """L codebooks of K codes, float32 [L, K, D]; each level quantises what the levels before it missed.

    restart_after: a code that no row has chosen for so many training batches restarts at a random residual of the
    current batch (Jukebox, arXiv 2005.00341, section 3.3); it cures the collapse of codebooks.
    last_epsilon: above 0, the last level of a training batch is spread evenly over its codes by Sinkhorn's plan instead of going to
    the nearest (LETTER, LC-Rec: .003); out of training every row takes the nearest.
    """

    idle: Tensor

    def __init__(self, levels: int, size: int, dim: int, *, restart_after: int = 50, last_epsilon: float = 0.0):
        super().__init__()
        self.restart_after = restart_after
        self.last_epsilon = last_epsilon
        self.codebooks = nn.Parameter(torch.zeros(levels, size, dim))
        self.register_buffer("idle", torch.zeros(levels, size, dtype=torch.int64))

    def forward(self, points: Tensor) -> Quantized:
        """Quantise points float32 [B, D]."""
        codes, residuals, chosen, residual = [], [], [], points
        for level in range(len(self.codebooks)):
            if self.training:
                self._restart(level, residual.detach())
            codebook = self.codebooks[level]
            is_spread = self.training and self.last_epsilon > 0 and level == len(self.codebooks) - 1
            choose = self._spread if is_spread else nearest
            code = choose(residual.detach(), codebook.detach())
            if self.training:
                self.idle[level] += 1
                self.idle[level, code] = 0
            codes.append(code)
            residuals.append(residual)
            chosen.append(codebook[code])
            residual = residual - chosen[-1].detach()
        return Quantized(torch.stack(codes, 1), torch.stack(residuals), torch.stack(chosen))

    def _spread(self, residual: Tensor, codebook: Tensor) -> Tensor:
        with torch.autocast(residual.device.type, enabled=False):  # bfloat16's error is as large as epsilon
            cost = squared_distances(residual.float(), codebook)
            return sinkhorn_plan(cost, epsilon=self.last_epsilon, iterations=50).argmax(1)

    @torch.no_grad()
    def _restart(self, level: int, residual: Tensor) -> None:
        dead = torch.nonzero(self.idle[level] >= self.restart_after).squeeze(1)
        if len(dead):
            self.codebooks[level, dead] = residual[torch.randint(len(residual), (len(dead),)).to(residual.device)]
            self.idle[level, dead] = 0
