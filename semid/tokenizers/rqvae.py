"""RQ-VAE: an autoencoder whose latent vectors are residual-quantised; TIGER's tokenizer.

Source: TIGER, arXiv 2305.05065, section 3.1; RQ-VAE, arXiv 2107.03312 (SoundStream) and 2203.01941.
Deviations: 1. losses are element means, averaged over levels (as LC-Rec); 2. the input is centred and scaled by one
number; 3. codes that stay unused restart at current residuals; 4. AdamW and the weights with the fewest collisions
(as LC-Rec and LETTER) instead of Adagrad and the last.

Axes: B rows, N items, D input width, L levels, K codes of a level, Z latent width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid.nn.kmeans import residual_kmeans
from semid.nn.mlp import mlp
from semid.nn.quantize import straight_through
from semid.nn.residual_quantizer import Quantized, ResidualQuantizer
from semid.tokenizers import codebooks
from semid.tokenizers.learning import Standardizer, VectorBatch, learn
from semid.tokenizers.view import View, composed, stored_view, view_name, want_enough
from semid.training.fit import Optimization
from semid.training.log import Log
from semid.types import Catalog, Interactions, Loss, SemanticIds

OPTIMIZATION = Optimization(learning_rate=1e-3, beta2=0.999, weight_decay=1e-4, schedule="cosine", clip=1.0)
SEEDING = 65_536
"""Items whose latents start the codebooks."""


class Autoencoder(codebooks.Quantizing):
    """Encoder, residual codebooks, mirrored decoder."""

    def __init__(self, dim: int, hidden: tuple[int, ...], latent: int, levels: int, size: int, last_epsilon: float = 0.0):
        super().__init__()
        self.standardize = Standardizer(dim)
        self.encoder = mlp((dim, *hidden, latent))
        self.quantizer = ResidualQuantizer(levels, size, latent, last_epsilon=last_epsilon)
        self.decoder = mlp((latent, *reversed(hidden), dim))

    def encode(self, vectors: Tensor) -> Tensor:
        """Return float32 [B, Z] of item vectors [B, D]."""
        return self.encoder(self.standardize(vectors)).float()

    def forward(self, vectors: Tensor) -> tuple[Tensor, Quantized]:
        """Return (reconstruction [B, D] of the standardised vectors, quantised latents)."""
        latent = self.encode(vectors)
        quantized = self.quantizer(latent)
        return self.decoder(straight_through(latent, quantized.total)), quantized

    @torch.no_grad()
    def initialise(self, vectors: Tensor, start: Callable[[Tensor, int, int], Tensor]) -> None:
        """Standardise to float32 [N, D] and put the codebooks at start(latents [N, Z], L, K) -> [L, K, Z]; the first `SEEDING` rows."""
        vectors = vectors[:SEEDING]
        self.standardize.adapt(vectors)
        levels, size, _ = self.quantizer.codebooks.shape
        self.quantizer.codebooks.copy_(start(self.latents(vectors), levels, size))



def kmeans_start(generator: torch.Generator) -> Callable[[Tensor, int, int], Tensor]:
    """Return the usual start of codebooks, residual k-means, as `Autoencoder.initialise` takes it."""
    return lambda latents, levels, size: residual_kmeans(latents, levels, size, generator=generator)


class AutoencoderLoss(Protocol):
    """What an RQ-VAE is trained for. name: of the tokenizer that this makes, for people."""

    @property
    def name(self) -> str: ...

    def begin(self, model: Autoencoder, catalog: Catalog, vectors: Tensor,
              generator: torch.Generator) -> Callable[[Autoencoder, VectorBatch], Loss]:
        """Start the model (`initialise`) for training on the catalogue's vectors float32 [N, D], and return the loss of a batch.

        A loss that remembers something between batches is an `nn.Module` with buffers: they are in the checkpoint.
        """
        ...


@dataclass(frozen=True)
class Reconstruction:
    """TIGER's: `rqvae_loss`, from codebooks at residual k-means. commitment: weight of the pull of latents to codes (beta)."""

    commitment: float = 0.25

    @property
    def name(self) -> str:
        return "RQ-VAE"

    def begin(self, model: Autoencoder, catalog: Catalog, vectors: Tensor,
              generator: torch.Generator) -> Callable[[Autoencoder, VectorBatch], Loss]:
        model.initialise(vectors, kmeans_start(generator))
        return lambda model, batch: rqvae_loss(model, batch, commitment=self.commitment)


class Trained(nn.Module):
    """An autoencoder and its loss, so that both are in the checkpoint."""

    def __init__(self, autoencoder: Autoencoder, loss: Callable[[Autoencoder, VectorBatch], Loss]):
        super().__init__()
        self.autoencoder = autoencoder
        self.loss = loss


def rqvae_loss(model: Autoencoder, batch: VectorBatch, *, commitment: float) -> Loss:
    """Reconstruction plus quantisation; TIGER, section 3.1, with element means, averaged over levels."""
    reconstructed, quantized = model(batch.vectors)
    reconstruction = F.mse_loss(reconstructed.float(), model.standardize(batch.vectors))
    quantization = quantized.loss(commitment=commitment)
    return Loss(reconstruction + quantization, {"reconstruction": reconstruction, "quantization": quantization})


class RQVAE:
    """Codes from a residual-quantised autoencoder over a view of the catalogue (or several, see `view.composed`).

    hidden, latent: widths of the encoder after the input, mirrored in the decoder. last_epsilon: see `ResidualQuantizer`.
    loss: what it is trained for; `CoST` and `Letter` are others. checkpoint: file to go on from and to write to. `model` is all it
    learns. Relations: `ResidualKMeans` needs no network and seconds; `ResidualVQ` learns codebooks without the autoencoder.

    >>> ids = RQVAE("text").fit(catalog, seed=0).assign(catalog)                # doctest: +SKIP
    """

    def __init__(self, view: View, *, levels: int = 3, size: int = 256, hidden: tuple[int, ...] = (512, 256, 128),
                 latent: int = 32, last_epsilon: float = 0.0, loss: AutoencoderLoss = Reconstruction(), steps: int = 3000,
                 batch_size: int = 1024,
                 optimization: Optimization = OPTIMIZATION, log: Log | None = None, checkpoint: Path | None = None):
        self.view = view
        self.levels = levels
        self.size = size
        self.hidden = hidden
        self.latent = latent
        self.last_epsilon = last_epsilon
        self.loss = loss
        self.name = loss.name
        self.steps = steps
        self.batch_size = batch_size
        self.optimization = optimization
        self.log = log
        self.checkpoint = checkpoint
        self.model: Autoencoder | None = None

    def fit(self, catalog: Catalog, interactions: Interactions | None = None, *, seed: int) -> RQVAE:
        """Train the network on the view; interactions are not read. Same seed, same bits on CPU."""
        vectors = composed(catalog, self.view)
        want_enough(vectors, self.size)
        points = torch.from_numpy(vectors)

        def build(generator: torch.Generator) -> Trained:
            model = Autoencoder(points.shape[1], self.hidden, self.latent, self.levels, self.size, self.last_epsilon)
            return Trained(model, self.loss.begin(model, catalog, points, generator))

        trained = learn(build, lambda trained, batch: trained.loss(trained.autoencoder, batch), points,
                        lambda trained, vectors: trained.autoencoder.codes(vectors), steps=self.steps, batch_size=self.batch_size,
                        optimization=self.optimization, log=self.log, checkpoint=self.checkpoint, seed=seed)
        self.model = trained.autoencoder
        return self

    def assign(self, catalog: Catalog) -> SemanticIds:
        """Return the codes of the catalogue's items, old or new."""
        return self._fitted().codes(self._vectors(catalog), f"{self.name} of {view_name(self.view)}")

    def distances(self, catalog: Catalog, codes: np.ndarray) -> np.ndarray:
        """Return float32 [N, K]: squared distance of each item's last residual to every last-level code, in latent space."""
        return self._fitted().distances(self._vectors(catalog), codes)

    def unexplained(self, catalog: Catalog, codes: np.ndarray) -> list[float]:
        """Return the share of the latents' variance left after each level."""
        return self._fitted().unexplained(self._vectors(catalog), codes)

    @property
    def width(self) -> int:
        """D of the view it was fitted to."""
        return len(self._fitted().standardize.shift)

    def save(self, path: Path) -> None:
        """Write one safetensors file: weights, and the shape of the network."""
        settings = {"name": self.name, "view": self.view, "levels": self.levels, "size": self.size, "hidden": self.hidden,
                    "latent": self.latent}
        codebooks.save(path, self._fitted().state_dict(), settings)

    @classmethod
    def load(cls, path: Path) -> RQVAE:
        """Read what `save` wrote; training settings are not kept."""
        tensors, settings = codebooks.load(path)
        hidden, name = tuple(settings.pop("hidden")), settings.pop("name", "RQ-VAE")  # files of semid 0.1 have no name
        tokenizer = cls(stored_view(settings.pop("view")), hidden=hidden, **settings)
        tokenizer.name = name
        dim = len(tensors["standardize.shift"])
        tokenizer.model = Autoencoder(dim, hidden, tokenizer.latent, tokenizer.levels, tokenizer.size).eval()
        tokenizer.model.load_state_dict(tensors)
        return tokenizer

    def _vectors(self, catalog: Catalog) -> Tensor:
        return torch.from_numpy(composed(catalog, self.view))

    def _fitted(self) -> Autoencoder:
        assert self.model is not None, "fit or load first"
        return self.model
