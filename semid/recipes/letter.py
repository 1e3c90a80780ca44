"""LETTER: RQ-VAE codes that agree with behaviour and spread evenly, and a sharpened loss for TIGER's encoder-decoder.

Source: Wang et al., "Learnable Item Tokenization for Generative Recommendation", CIKM 2024, arXiv 2405.07314, and the settings of its
code. Status: paper's shape and defaults; `letter:no_cf`, `letter:no_diversity`, `letter:no_ranking` and `letter:base` (none of the
three) are its ablations; `letter:causal` trains TIGER's generator on machines without a GPU; `letter:two_level` and its ablations put
the codes under semid's own generator. The paper's second instantiation, on LC-Rec, is not here.
Deviations: (1) the text encoder is the one at hand (the paper: LLaMA-7B), so the encoder begins at width 512 (the paper: 2048);
(2) collaborative vectors of our own SASRec, trained on training rows only; (3) 3,000 updates of the tokenizer (the paper: 20,000
epochs), and learning rates that fall to a twentieth of their peak (its code: to 0); (4) items that Sinkhorn's repair leaves together get
other last codes (the paper leaves them); under semid's generator there is no repair: all that share their codes get the nearest free last
codes, as semid's own do, so that the tokenizer alone differs; (5) those of tiger (1 to 4) and of `tokenizers.letter`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from semid import generation
from semid.coding import Coder, made_once
from semid.collaborative import behaviour_vectors
from semid.config import ReadWhere
from semid.errors import DataError
from semid.generation import OF_ONE_GENERATOR, TOKENIZER, generate, refuse_nested
from semid.newcomers import Newcomers
from semid.recipes.lightgcn import Config as LightGCNSettings
from semid.recipes.sasrec import PLAIN as PLAIN_SASREC
from semid.recipes.sasrec import Config as SASRecSettings
from semid.recipes.semid import Config as TwoLevel
from semid.recipes.tiger import CAUSAL, with_content
from semid.recipes.tiger import Config as Tiger
from semid.recipes.tiger import smoke as tiger_smoke
from semid.recommenders import CodeRecommender
from semid.tokenizers.collisions import nearest_free_code, next_free, sinkhorn
from semid.tokenizers.letter import Letter
from semid.tokenizers.rqvae import RQVAE
from semid.tokenizers.view import want_enough
from semid.training.fit import Optimization
from semid.training.job import Job
from semid.types import Catalog, SemanticIds, Split

VARIANTS: dict[str, dict[str, object]] = {
    "no_cf": {"alpha": 0.0},
    "no_diversity": {"beta": 0.0},
    "no_ranking": {"temperature": 1.0},
    "base": {"alpha": 0.0, "beta": 0.0, "temperature": 1.0},
    "causal": {"tiger.is_causal": True, "tiger.steps": 1000, "tiger.look_every": 125, "tiger.optimization": CAUSAL},
    "two_level": {"is_two_level": True},
    "two_level_no_cf": {"is_two_level": True, "alpha": 0.0},
    "two_level_no_diversity": {"is_two_level": True, "beta": 0.0},
    "two_level_no_ranking": {"is_two_level": True, "temperature": 1.0},
    "two_level_base": {"is_two_level": True, "alpha": 0.0, "beta": 0.0, "temperature": 1.0},
}
COLLABORATIVE = "letter:cf"
"""The view that the tokenizer reads; the two-level generator has a view "cf" of its own."""


@dataclass(frozen=True)
class Config:
    """codes: published codes in place of the tokenizer, a column of the items table or a file X.index.json. cf: sasrec, lightgcn or
    another source of `behaviour_vectors`, as wide as tiger.latent and from training rows only. alpha, beta, groups, cluster_sizes,
    group_sizes: see `Letter`; last_epsilon: of Sinkhorn's plan over the last level in training, 0 = nearest. hidden: widths of the text's
    encoder. temperature: divides the generator's logits in training, 1 = plain cross-entropy. tiger: TIGER's settings, of the tokenizer's
    network as of the generator; two_level: those of semid's generator, which takes the codes instead where is_two_level. sasrec,
    lightgcn: how the collaborative vectors are trained, as wide as tiger.latent.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        **OF_ONE_GENERATOR, ("cf", "sasrec"): ("sasrec",), ("cf", "lightgcn"): ("lightgcn",),
        ("codes", None): ("cf", "alpha", "beta", "groups", "cluster_sizes", "group_sizes", "last_epsilon", "hidden", *TOKENIZER)}

    codes: str | None = None
    cf: str = "sasrec"
    alpha: float = 0.02
    beta: float = 1e-4
    groups: int = 10
    cluster_sizes: tuple[int, int] | None = None
    group_sizes: tuple[int, int] | None = None
    last_epsilon: float = 0.003
    hidden: tuple[int, ...] = (512, 256, 128, 64)
    temperature: float = 0.7
    is_two_level: bool = False
    tiger: Tiger = Tiger(levels=4, user_tokens=0, batch_size=512, steps=50_000, look_every=250, beams=20,
                         optimization=Optimization(learning_rate=5e-4, beta2=0.999, warmup=500, clip=1.0))
    two_level: TwoLevel = TwoLevel()
    sasrec: SASRecSettings = PLAIN_SASREC
    lightgcn: LightGCNSettings = LightGCNSettings()

    def __post_init__(self):
        refuse_nested(self.two_level, self.tiger)


def smoke() -> Config:
    return Config(cf="spectral", groups=2, hidden=(32, 16), tiger=replace(tiger_smoke(), levels=3))


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    torch.manual_seed(job.seed)
    ids = made_once(config.codes, lambda: coder(config, data, job).codes(data, job), data, job)
    return generate(ids, config.tiger, config.two_level, data, job, is_two_level=config.is_two_level,
                    temperature=config.temperature)


def coder(config: Config, data: Split, job: Job) -> Coder:
    shape = config.tiger
    catalog = with_content(data.catalog, shape.view, shape.text, job)
    loss = Letter(COLLABORATIVE, alpha=config.alpha, beta=config.beta, groups=config.groups, cluster_sizes=config.cluster_sizes,
                  group_sizes=config.group_sizes)
    want_enough(catalog.view(shape.view), shape.size)  # before minutes go into the collaborative vectors
    loss.check(len(catalog), shape.size)
    if config.alpha:
        vectors = collaborative_vectors(config, data, job)
        if vectors.shape[1] != shape.latent:
            raise DataError(f"letter: want vectors cf={config.cf} as wide as the latents, {shape.latent}, got {vectors.shape[1]}; "
                            f"take others, or --set tiger.latent={vectors.shape[1]}")
        catalog = catalog.with_view(COLLABORATIVE, vectors)
    tokenizer = RQVAE(shape.view, levels=shape.levels, size=shape.size, hidden=config.hidden, latent=shape.latent,
                      last_epsilon=config.last_epsilon, loss=loss, steps=shape.tokenizer_steps, log=job.log,
                      checkpoint=job.checkpoint("tokenizer"))
    return Coder(tokenizer, catalog, next_free if config.is_two_level else repaired)


def repaired(ids: SemanticIds, distances: np.ndarray, popularity: np.ndarray) -> SemanticIds:
    """Separate items with the same codes by Sinkhorn on the last level, then what that leaves by the nearest free last code."""
    return next_free(sinkhorn(ids, distances, popularity), distances, popularity)


def collaborative_vectors(config: Config, data: Split, job: Job) -> np.ndarray:
    """Return float32 [N, Z] of what users did in the training rows; zeros where nobody took an item."""
    return behaviour_vectors(config.cf, data, job, width=config.tiger.latent, sasrec_settings=config.sasrec,
                             lightgcn_settings=config.lightgcn)


def newcomers(config: Config, catalog: Catalog, folder: Path) -> Newcomers | None:
    """New items: the same text and tokenizer, which reads no behaviour once it is trained, and the nearest free code."""
    return generation.newcomers(config.tiger, config.two_level, catalog, folder, is_two_level=config.is_two_level, free=nearest_free_code)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    return generation.load(config.tiger, config.two_level, catalog, folder, is_two_level=config.is_two_level)
