"""Residual codebooks at work: what every trained residual quantiser does with its levels, and how they are kept on disk.

Axes: N items, D width, L levels, K codes of a level.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from semid.errors import RunError
from semid.files import write_atomically
from semid.nn.quantize import CHUNK, residual_after, residual_codes, squared_distances
from semid.nn.residual_quantizer import ResidualQuantizer
from semid.types import SemanticIds


def assign(vectors: Tensor, codebooks: Tensor, *, unit_residuals: bool = False, source: str) -> SemanticIds:
    """Return the codes of float [N, D] vectors under codebooks [L, K, D]."""
    levels, size, _ = codebooks.shape
    parts = [residual_codes(part, codebooks, unit_residuals=unit_residuals)[0] for part in vectors.split(CHUNK)]
    return SemanticIds.of(torch.cat(parts).numpy(), (size,) * levels, source=source)


def last_distances(vectors: Tensor, codes: np.ndarray, codebooks: Tensor, *, unit_residuals: bool = False) -> np.ndarray:
    """Return float32 [N, K]: squared distance of what `codes` leave before the last level to each last-level code."""
    prefix = torch.from_numpy(codes[:, : len(codebooks) - 1].astype(np.int64))
    parts = [squared_distances(residual_after(x, c, codebooks, unit_residuals=unit_residuals), codebooks[-1])
             for x, c in zip(vectors.split(CHUNK), prefix.split(CHUNK), strict=True)]
    return torch.cat(parts).numpy()


def unexplained(vectors: Tensor, codes: np.ndarray, codebooks: Tensor, *, unit_residuals: bool = False) -> list[float]:
    """Return L numbers: squared norm left after each level over the squared norm of the centred vectors (0 = lossless)."""
    total = float((vectors - vectors.mean(0)).square().sum())
    left, residual = [], vectors
    for level, codebook in enumerate(codebooks):
        before = torch.nn.functional.normalize(residual, dim=1) if unit_residuals else residual
        scale = before.norm(dim=1).clamp_min(1e-12) / residual.norm(dim=1).clamp_min(1e-12)
        residual = (before - codebook[torch.from_numpy(codes[:, level].astype(np.int64))]) / scale[:, None]
        left.append(float(residual.square().sum()) / max(total, 1e-12))
    return left


class Quantizing(nn.Module):
    """What networks that quantise the residuals of latent vectors share. A subclass has `encode`, vectors [B, D] -> latents [B, Z]."""

    quantizer: ResidualQuantizer
    encode: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def latents(self, vectors: Tensor) -> Tensor:
        """Return float32 [N, Z] of any number of vectors [N, D]."""
        return torch.cat([self.encode(part) for part in vectors.split(CHUNK)])

    def codes(self, vectors: Tensor, source: str = "") -> SemanticIds:
        """Return the codes of any number of vectors [N, D]."""
        return assign(self.latents(vectors), self.quantizer.codebooks.detach(), source=source)

    def distances(self, vectors: Tensor, codes: np.ndarray) -> np.ndarray:
        """Return `last_distances` of vectors [N, D] with the given codes [N, L]."""
        return last_distances(self.latents(vectors), codes, self.quantizer.codebooks.detach())

    def unexplained(self, vectors: Tensor, codes: np.ndarray) -> list[float]:
        """Return `unexplained` of vectors [N, D] with the given codes [N, L]."""
        return unexplained(self.latents(vectors), codes, self.quantizer.codebooks.detach())


def save(path: Path, tensors: dict[str, Tensor], settings: dict) -> None:
    """Write tensors and the settings they need (safetensors; the settings as JSON in its header)."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={"settings": json.dumps(settings)}))


def load(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Return (tensors, settings) as written by `save`. Raises `RunError` for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {})["settings"])
            return {name: file.get_tensor(name) for name in file.keys()}, settings  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"{path}: want a tokenizer written by semid, got a file that cannot be read ({error}); "
                       "train it again or copy the run folder anew") from error
