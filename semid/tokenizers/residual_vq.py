"""R-VQ: residual codebooks over the vectors themselves, learnt by gradient, without an autoencoder; GRID's second tokenizer.

Source: GRID, arXiv 2507.22224, section 2.
Deviations: 1. all levels learn at once (residuals carry no gradient, so a level never waits for another's loss);
2. the input is centred and scaled by one number; 3. unused codes restart at current residuals; 4. AdamW with bfloat16
off, as the whole cost is the comparison with the codes.

Axes: B rows, N items, D width, L levels, K codes of a level.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from semid.nn.kmeans import spread_seeds
from semid.nn.quantize import CHUNK, residual_codes
from semid.nn.residual_quantizer import Quantized, ResidualQuantizer
from semid.tokenizers import codebooks
from semid.tokenizers.learning import Standardizer, VectorBatch, learn
from semid.tokenizers.view import View, composed, stored_view, view_name, want_enough
from semid.training.fit import Optimization
from semid.training.log import Log
from semid.types import Catalog, Interactions, Loss, SemanticIds

OPTIMIZATION = Optimization(learning_rate=1e-2, beta2=0.999, weight_decay=0.0, schedule="cosine", precision="fp32")


class Codebooks(nn.Module):
    """Residual codebooks of standardised vectors."""

    def __init__(self, dim: int, levels: int, size: int):
        super().__init__()
        self.standardize = Standardizer(dim)
        self.quantizer = ResidualQuantizer(levels, size, dim)

    def forward(self, vectors: Tensor) -> Quantized:
        return self.quantizer(self.standardize(vectors))

    @torch.no_grad()
    def initialise(self, vectors: Tensor, generator: torch.Generator) -> None:
        """Standardise to float32 [N, D] and start each level at k-means++ seeds of the residuals, as GRID does."""
        self.standardize.adapt(vectors)
        residual = self.standardize(vectors)
        for codebook in self.quantizer.codebooks:
            codebook.copy_(spread_seeds(residual, len(codebook), generator))
            residual = residual_codes(residual, codebook[None])[1]

    @torch.no_grad()
    def latents(self, vectors: Tensor) -> Tensor:
        """Return float32 [N, D], what is quantised."""
        return torch.cat([self.standardize(part) for part in vectors.split(CHUNK)])

    def codes(self, vectors: Tensor, source: str = "") -> SemanticIds:
        """Return the codes of any number of vectors [N, D]."""
        return codebooks.assign(self.latents(vectors), self.quantizer.codebooks.detach(), source=source)


def rvq_loss(model: Codebooks, batch: VectorBatch) -> Loss:
    """Mean over levels of the squared distance of codes to residuals; commitment pulls nothing, as inputs are given."""
    loss = model(batch.vectors).loss(commitment=0.0)
    return Loss(loss, {"quantization": loss.detach()})


class ResidualVQ:
    """L levels of K gradient-learnt codes over a view of the catalogue (or several, see `view.composed`).

    checkpoint: file to go on from and to write to. `model` is all it learns.
    Relations: `ResidualKMeans` finds such codebooks without gradients, faster and usually nearer; here for comparison.
    """

    def __init__(self, view: View, *, levels: int = 3, size: int = 256, steps: int = 3000, batch_size: int = 2048,
                 optimization: Optimization = OPTIMIZATION, log: Log | None = None, checkpoint: Path | None = None):
        self.view = view
        self.levels = levels
        self.size = size
        self.steps = steps
        self.batch_size = batch_size
        self.optimization = optimization
        self.log = log
        self.checkpoint = checkpoint
        self.model: Codebooks | None = None

    def fit(self, catalog: Catalog, interactions: Interactions | None = None, *, seed: int) -> ResidualVQ:
        """Learn the codebooks from the view; interactions are not read. Same seed, same bits on CPU."""
        vectors = composed(catalog, self.view)
        want_enough(vectors, self.size)
        points = torch.from_numpy(vectors)

        def build(generator: torch.Generator) -> Codebooks:
            model = Codebooks(points.shape[1], self.levels, self.size)
            model.initialise(points[torch.randperm(len(points), generator=generator)[: 16 * self.size]], generator)
            return model

        self.model = learn(build, rvq_loss, points, Codebooks.codes, steps=self.steps, batch_size=self.batch_size,
                           optimization=self.optimization, log=self.log, checkpoint=self.checkpoint, seed=seed)
        return self

    def assign(self, catalog: Catalog) -> SemanticIds:
        """Return the codes of the catalogue's items, old or new."""
        return self._fitted().codes(self._vectors(catalog), f"residual VQ of {view_name(self.view)}")

    def distances(self, catalog: Catalog, codes: np.ndarray) -> np.ndarray:
        """Return float32 [N, K]: squared distance of each item's last residual to every last-level code."""
        model = self._fitted()
        return codebooks.last_distances(model.latents(self._vectors(catalog)), codes, model.quantizer.codebooks.detach())

    def unexplained(self, catalog: Catalog, codes: np.ndarray) -> list[float]:
        """Return the share of variance left after each level."""
        model = self._fitted()
        return codebooks.unexplained(model.latents(self._vectors(catalog)), codes, model.quantizer.codebooks.detach())

    @property
    def width(self) -> int:
        """D of the view it was fitted to."""
        return len(self._fitted().standardize.shift)

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        codebooks.save(path, self._fitted().state_dict(), {"view": self.view, "levels": self.levels, "size": self.size})

    @classmethod
    def load(cls, path: Path) -> ResidualVQ:
        """Read what `save` wrote; training settings are not kept."""
        tensors, settings = codebooks.load(path)
        tokenizer = cls(stored_view(settings.pop("view")), **settings)
        tokenizer.model = Codebooks(len(tensors["standardize.shift"]), tokenizer.levels, tokenizer.size).eval()
        tokenizer.model.load_state_dict(tensors)
        return tokenizer

    def _vectors(self, catalog: Catalog) -> Tensor:
        return torch.from_numpy(composed(catalog, self.view))

    def _fitted(self) -> Codebooks:
        assert self.model is not None, "fit or load first"
        return self.model
