"""LETTER: an RQ-VAE whose latents also agree with behaviour and whose codes also spread.

Source: Wang et al., "Learnable Item Tokenization for Generative Recommendation", CIKM 2024, arXiv 2405.07314, section 3.1, and
the settings of its code. Deviations: 1. bounds of clusters follow the number of items and codes, so that they can be met;
2. the collaborative vectors are scaled by one number so that elements have mean square 1, as the content is, and `alpha` means the
same for every scorer (there is no temperature that would); items without one (zeros) take no part in that loss; 3. a code alone in
its group has no positive and no diversity loss (the original would search for ever); 4. those of `rqvae`.

Axes: B rows, N items, D input width, Z latent width, L levels, K codes of a level, G groups of codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semid.errors import ConfigError, DataError
from semid.nn.balanced_kmeans import balanced_kmeans, check_bounds
from semid.nn.losses import in_batch_contrast
from semid.nn.quantize import residual_codes, straight_through
from semid.nn.residual_quantizer import Quantized
from semid.tokenizers.learning import VectorBatch
from semid.tokenizers.rqvae import SEEDING, Autoencoder
from semid.types import Catalog, Loss

Bounds = tuple[int, int] | None


@dataclass(frozen=True)
class Letter:
    """What LETTER trains an RQ-VAE for: `RQVAE("text", levels=4, last_epsilon=0.003, loss=Letter())`.

    cf: name of the view with collaborative vectors, as wide as the latents, from training rows only. alpha: weight of the collaborative
    loss; beta: of the diversity loss; 0 leaves a loss out. commitment: weight of the pull of latents to codes (mu). groups: of similar
    codes, made anew every epoch. cluster_sizes: least and most items of a code when the codebooks start (at most 65,536 items take part
    in that), None takes about half to twice the mean; group_sizes: least and most codes of a group, None see `group_bounds`.
    """

    cf: str = "cf"
    alpha: float = 0.02
    beta: float = 1e-4
    commitment: float = 0.25
    groups: int = 10
    cluster_sizes: Bounds = None
    group_sizes: Bounds = None

    @property
    def name(self) -> str:
        missing = [name for name, weight in (("CF", self.alpha), ("diversity", self.beta)) if not weight]
        return f"LETTER without {' and '.join(missing)}" if missing else "LETTER"

    def check(self, count: int, size: int) -> None:
        """Raise `ConfigError` or `DataError` for groups or bounds that `count` items and `size` codes a level cannot have."""
        if self.beta and not 1 <= self.groups <= size // 2:
            raise ConfigError(f"LETTER: want groups of two codes at least, got {self.groups} groups of {size} codes; "
                              f"choose groups from 1 to {size // 2}, or beta 0")
        if self.beta:
            check_bounds(size, self.groups, *(self.group_sizes or group_bounds(size, self.groups)))
        check_bounds(min(count, SEEDING), size, *(self.cluster_sizes or cluster_bounds(min(count, SEEDING), size)))

    def begin(self, model: Autoencoder, catalog: Catalog, vectors: Tensor, generator: torch.Generator) -> LetterLoss:
        """Start the codebooks at balanced k-means and read the collaborative vectors. Raises `DataError`, `ConfigError`."""
        levels, size, latent = model.quantizer.codebooks.shape
        self.check(len(vectors), size)
        cf = collaborative(catalog, self.cf, latent) if self.alpha else None
        model.initialise(vectors, lambda latents, levels, size: self._start(latents, levels, size, generator))
        return LetterLoss(self, cf, (levels, size), self.group_sizes or group_bounds(size, self.groups), len(vectors))

    def _start(self, latents: Tensor, levels: int, size: int, generator: torch.Generator) -> Tensor:
        low, high = self.cluster_sizes or cluster_bounds(len(latents), size)
        codebooks, residual = [], latents
        for _ in range(levels):
            codebooks.append(balanced_kmeans(residual, size, low=low, high=high, generator=generator)[0])
            residual = residual_codes(residual, codebooks[-1][None])[1]
        return torch.stack(codebooks)


class LetterLoss(nn.Module):
    """Reconstruction + quantisation + beta * diversity (mean over levels) + alpha * collaborative loss of a batch.

    cf: float32 [N, Z] or None; shape: (L, K); bounds: codes of a group; num_items: N, after so many rows the groups are made anew.
    """

    group: Tensor
    waiting: Tensor
    cf: Tensor | None

    def __init__(self, settings: Letter, cf: Tensor | None, shape: tuple[int, int], bounds: tuple[int, int], num_items: int):
        super().__init__()
        self.settings, self.bounds, self.num_items = settings, bounds, num_items
        self.register_buffer("cf", cf, persistent=False)
        self.register_buffer("group", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("waiting", torch.zeros((), dtype=torch.int64))  # rows until the groups are made anew

    def forward(self, model: Autoencoder, batch: VectorBatch) -> Loss:
        wanted = model.standardize(batch.vectors)
        latent = model.encoder(wanted).float()
        quantized = model.quantizer(latent)
        total_code = straight_through(latent, quantized.total)
        parts = {"reconstruction": F.mse_loss(model.decoder(total_code).float(), wanted),
                 "quantization": quantized.loss(commitment=self.settings.commitment)}
        total = parts["reconstruction"] + parts["quantization"]
        with torch.autocast(latent.device.type, enabled=False):
            if self.settings.beta:
                parts["diversity"] = self._diversity(model.quantizer.codebooks, quantized, len(batch.item))
                total = total + self.settings.beta * parts["diversity"]
            if self.cf is not None:
                parts["collaborative"] = collaborative_loss(total_code, self.cf[batch.item])
                total = total + self.settings.alpha * parts["collaborative"]
        return Loss(total, parts)

    def _diversity(self, codebooks: Tensor, quantized: Quantized, rows: int) -> Tensor:
        if self.waiting <= 0:
            self._regroup(codebooks.detach())
            self.waiting.fill_(self.num_items)
        self.waiting -= rows
        return torch.stack([diversity_loss(code, draw_partners(code, group), codebook) for code, group, codebook in
                            zip(quantized.codes.T, self.group, codebooks, strict=True)]).mean()

    def _regroup(self, codebooks: Tensor) -> None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))  # the loop's own random state: resuming repeats it
        low, high = self.bounds
        for level, codebook in enumerate(codebooks.cpu()):
            self.group[level] = balanced_kmeans(codebook, self.settings.groups, low=low, high=high, generator=generator)[1]


def collaborative_loss(code: Tensor, cf: Tensor) -> Tensor:
    """Contrast each item's quantised vector with its own collaborative vector among those of the batch; a scalar.

    code float [B, Z], straight-through, so that the gradient reaches the encoder only; cf float [B, Z]; rows of zeros are left out.

    Source: LETTER, arXiv 2405.07314, section 3.1.
    """
    known = cf.abs().sum(1) > 0
    return in_batch_contrast(code[known], cf[known]) if known.any() else code.new_zeros(())


def diversity_loss(code: Tensor, partner: Tensor, codebook: Tensor) -> Tensor:
    """Pull the code vector of each row to its partner's and away from all others of the level; a scalar, mean over rows with a partner.

    code int64 [B]; partner int64 [B], -1 = none; codebook float [K, Z], all that the gradient reaches. A code is not compared with
    itself. O(K K Z + B): rows of one code share their comparisons.

    Source: LETTER, arXiv 2405.07314, section 3.1.
    """
    similar = (codebook @ codebook.T).fill_diagonal_(-torch.inf)
    paired = partner >= 0
    return -F.log_softmax(similar, dim=1)[code[paired], partner[paired]].sum() / paired.sum().clamp_min(1)


def draw_partners(code: Tensor, group: Tensor) -> Tensor:
    """Return int64 [B]: for each row another code of its code's group, evenly at random; -1 where the code is alone.

    code int64 [B]; group int64 [K].
    """
    member = group.argsort(stable=True)  # codes, group by group
    count = torch.bincount(group)
    first = (count.cumsum(0) - count)[group]  # [K]
    place = torch.empty_like(member)
    place[member] = torch.arange(len(member), device=member.device)
    others = count[group[code]] - 1  # [B]
    ahead = 1 + (torch.rand(len(code), device=code.device) * others).long().clamp_max(others - 1)
    partner = member[first[code] + (place[code] - first[code] + ahead) % (others + 1)]
    return partner.masked_fill(others == 0, -1)


def collaborative(catalog: Catalog, view: str, width: int) -> Tensor:
    """Return float32 [N, Z]: the view, scaled so that elements have mean square 1, zero rows apart. Raises `DataError` if it has
    another width or nothing in it."""
    vectors = torch.from_numpy(catalog.view(view))
    if vectors.shape[1] != width:
        raise DataError(f"LETTER: want the view {view!r} to be as wide as the latents, {width}, got {vectors.shape[1]}; "
                        f"use vectors of that width, or latents of {vectors.shape[1]}")
    known = vectors[vectors.abs().sum(1) > 0]
    if not len(known):
        raise DataError(f"LETTER: want collaborative vectors, got only zeros in the view {view!r}; give others, or alpha 0")
    return vectors / known.square().mean().sqrt()


def group_bounds(size: int, groups: int) -> tuple[int, int]:
    """Return (least, most) codes of a group, in proportion to the original's 10 to 60 for 256 codes in 10 groups.

    >>> group_bounds(256, 10), group_bounds(8, 2)
    ((10, 60), (1, 10))
    """
    return 100 * size // (256 * groups), -(-600 * size // (256 * groups))


def cluster_bounds(count: int, size: int) -> tuple[int, int]:
    """Return (least, most) items of a code: half the mean, rounded down, and four times that; can always be met.

    >>> cluster_bounds(12101, 256), cluster_bounds(300, 256)
    ((23, 92), (0, 2))
    """
    low = count // (2 * size)
    return low, max(4 * low, -(-count // size))
