"""CoST: an RQ-VAE that must tell items apart by their reconstructions, and TIGER's encoder-decoder over its codes.

Source: Zhu et al., "CoST: Contrastive Quantization based Semantic Tokenization for Generative Recommendation", RecSys 2024, arXiv
2404.14774. Status: paper's shape and defaults; `cost:mse` is its plain RQ-VAE, `cost:both` its sum of both losses; `cost:causal` trains
TIGER's generator on machines without a GPU; `cost:two_level` and its ablations put the codes under semid's own generator.
Deviations: those of tiger and of `tokenizers.cost`; 3,000 updates of the tokenizer, some 250 epochs of Amazon Beauty (the paper: 20 to
100); items with the same codes get TIGER's extra level (the paper says nothing),
under semid's generator the nearest free last codes, as semid's own do, so that the tokenizer alone differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from semid import generation
from semid.coding import Coder, made_once
from semid.config import ReadWhere
from semid.generation import OF_ONE_GENERATOR, TOKENIZER, generate, refuse_nested
from semid.newcomers import Newcomers
from semid.recipes.semid import Config as TwoLevel
from semid.recipes.tiger import CAUSAL, with_content
from semid.recipes.tiger import Config as Tiger
from semid.recipes.tiger import smoke as tiger_smoke
from semid.recommenders import CodeRecommender
from semid.tokenizers.collisions import extra_level, next_free, next_number
from semid.tokenizers.cost import CoST
from semid.tokenizers.rqvae import RQVAE
from semid.training.job import Job
from semid.types import Catalog, Split

VARIANTS: dict[str, dict[str, object]] = {
    "mse": {"loss": "mse"},
    "both": {"loss": "both"},
    "causal": {"tiger.is_causal": True, "tiger.steps": 1000, "tiger.look_every": 125, "tiger.optimization": CAUSAL},
    "two_level": {"is_two_level": True},
    "two_level_mse": {"is_two_level": True, "loss": "mse"},
    "two_level_both": {"is_two_level": True, "loss": "both"},
}


@dataclass(frozen=True)
class Config:
    """codes: published codes in place of the tokenizer, a column of the items table or a file X.index.json. loss: contrast (L_co), mse
    (L_re) or both; alpha: weight of the contrast, temperature: of its cosines. tiger: TIGER's settings, of the tokenizer's network as of
    the generator; two_level: those of semid's generator, which takes the codes instead where is_two_level.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        **OF_ONE_GENERATOR, ("codes", None): ("loss", *TOKENIZER), ("loss", "contrast", "both"): ("alpha", "temperature")}

    codes: str | None = None
    loss: Literal["contrast", "mse", "both"] = "contrast"
    alpha: float = 0.1
    temperature: float = 0.1
    is_two_level: bool = False
    tiger: Tiger = Tiger(size=64, latent=96)
    two_level: TwoLevel = TwoLevel()

    def __post_init__(self):
        refuse_nested(self.two_level, self.tiger)


def smoke() -> Config:
    return Config(tiger=tiger_smoke())


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    torch.manual_seed(job.seed)
    ids = made_once(config.codes, lambda: coder(config, data, job).codes(data, job), data, job)
    return generate(ids, config.tiger, config.two_level, data, job, is_two_level=config.is_two_level)


def coder(config: Config, data: Split, job: Job) -> Coder:
    shape = config.tiger
    catalog = with_content(data.catalog, shape.view, shape.text, job)
    loss = CoST(alpha=config.alpha, temperature=config.temperature, kind=config.loss)
    tokenizer = RQVAE(shape.view, levels=shape.levels, size=shape.size, latent=shape.latent, loss=loss, steps=shape.tokenizer_steps,
                      log=job.log, checkpoint=job.checkpoint("tokenizer"))
    return Coder(tokenizer, catalog, next_free if config.is_two_level else extra_level)


def newcomers(config: Config, catalog: Catalog, folder: Path) -> Newcomers | None:
    """New items: the same text and tokenizer, and TIGER's or semid's way with equal codes."""
    return generation.newcomers(config.tiger, config.two_level, catalog, folder, is_two_level=config.is_two_level, free=next_number)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    return generation.load(config.tiger, config.two_level, catalog, folder, is_two_level=config.is_two_level)
