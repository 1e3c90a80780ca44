"""CoST: an RQ-VAE that must tell items apart instead of reconstructing each alone.

Source: Zhu et al., "CoST: Contrastive Quantization based Semantic Tokenization for Generative Recommendation", RecSys 2024,
arXiv 2404.14774. Deviations: 1. cosines are of the centred input (what the autoencoder reads); 2. items with identical vectors are
no negatives of each other, since nothing could tell them apart; 3. those of `rqvae`.

Axes: B rows, N items, D input width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid.nn.losses import in_batch_contrast
from semid.tokenizers.learning import VectorBatch
from semid.tokenizers.rqvae import Autoencoder, kmeans_start
from semid.types import Catalog, Loss


@dataclass(frozen=True)
class CoST:
    """What CoST trains an RQ-VAE for: `RQVAE("text", size=64, latent=96, loss=CoST())`.

    alpha: weight of the contrast beside the quantisation loss; temperature: of its cosines; commitment: weight of the pull of latents to
    codes. The batch size is the number of negatives. kind: "contrast" (L_co), "mse" (L_re, the plain RQ-VAE) or "both" (L_re + L_co,
    whose two quantisation losses are one twice as heavy).
    """

    alpha: float = 0.1
    temperature: float = 0.1
    commitment: float = 0.25
    kind: Literal["contrast", "mse", "both"] = "contrast"

    @property
    def name(self) -> str:
        return "CoST" if self.kind == "contrast" else f"CoST ({self.kind})"

    def begin(self, model: Autoencoder, catalog: Catalog, vectors: Tensor,
              generator: torch.Generator) -> Callable[[Autoencoder, VectorBatch], Loss]:
        model.initialise(vectors, kmeans_start(generator))
        twin = twins(vectors.numpy())
        return lambda model, batch: self.loss(model, batch, twin)

    def loss(self, model: Autoencoder, batch: VectorBatch, twin: Tensor) -> Loss:
        """Contrast, reconstruction or both, plus quantisation. twin int64 [N]: equal for items with identical vectors."""
        reconstructed, quantized = model(batch.vectors)
        given = model.standardize(batch.vectors)
        quantization = quantized.loss(commitment=self.commitment)
        total, parts = quantization, {"quantization": quantization}
        if self.kind != "contrast":
            parts["reconstruction"] = F.mse_loss(reconstructed.float(), given)
            total = total + parts["reconstruction"]
        if self.kind != "mse":
            group = twin[batch.item]
            with torch.autocast(given.device.type, enabled=False):  # bfloat16 has one cosine for all near-duplicates
                parts["contrast"] = in_batch_contrast(F.normalize(given, dim=1), F.normalize(reconstructed.float(), dim=1),
                                                      temperature=self.temperature, same=group[:, None] == group)
            total = total + self.alpha * parts["contrast"]
        if self.kind == "both":
            total = total + quantization
        return Loss(total, parts)


def twins(vectors: np.ndarray) -> Tensor:
    """Return int64 [N], the same number for identical rows of float32 [N, D]."""
    rows = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.dtype.itemsize * vectors.shape[1])))
    return torch.from_numpy(np.unique(rows, return_inverse=True)[1].reshape(-1).astype(np.int64))
