"""GRID: residual k-means codes of item text, and TIGER's encoder-decoder with wider feed-forward, separators and augmentation.

Source: Ju et al., "Generative Recommendation with Semantic IDs: A Practitioner's Handbook", CIKM 2025, arXiv 2507.22224, and the
settings of its code. Status: paper's shape; `grid:causal` trains every position of a history in one pass, for machines without a
GPU (then without the augmentation); `grid:rvq` and `grid:rqvae` take its other tokenizers.
Deviations: (1) the text encoder is the one at hand (the paper: flan-t5-xl); (2) decoding is constrained to the code tree (the paper's
default is free); (3) full k-means instead of mini-batches; (4) sub-sequences are drawn at random, not enumerated; (5) `grid:rqvae` and
`grid:rvq` are semid's own RQ-VAE and residual VQ, with their widths, losses and optimizer; (6) the look with the best NDCG@10 is kept
(the code: recall@5), and 50 beams (the code: 10); (7) AdamW for Adam, and gradients clipped at norm 5. A step is one of
the optimizer, of 16 batches; a look every 100 is the code's every 1,600 batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch

from semid.coding import Coder, made_once
from semid.config import ReadWhere
from semid.data.batch import SequenceBatches, TargetBatches
from semid.generators.encoder_decoder import EncoderDecoder
from semid.newcomers import Newcomers
from semid.recipes.tiger import load_generator, train_generator, with_content
from semid.recommenders import CodeRecommender
from semid.tokenizers.collisions import extra_level, next_number
from semid.tokenizers.residual_kmeans import ResidualKMeans
from semid.tokenizers.residual_vq import ResidualVQ
from semid.tokenizers.rqvae import RQVAE
from semid.training.fit import Optimization
from semid.training.job import Job
from semid.types import Catalog, SemanticIds, Split

CAUSAL = Optimization(learning_rate=2e-3, warmup=200)
VARIANTS: dict[str, dict[str, object]] = {
    "causal": {"is_causal": True, "steps": 1000, "look_every": 125, "optimization": CAUSAL},
    "rvq": {"tokenizer": "rvq"},
    "rqvae": {"tokenizer": "rqvae"},
}


@dataclass(frozen=True)
class Config:
    """tokenizer: rkmeans, rvq or rqvae over `view`, unless there are published `codes`. The rest as in tiger's Config."""

    READ_WHERE: ClassVar[ReadWhere] = {
        ("codes", None): ("tokenizer", "levels", "size"), ("is_causal", False): ("batch_size",), ("is_causal", True): ("tokens",)}

    text: str = "auto"
    view: str = "text"
    codes: str | None = None
    tokenizer: Literal["rkmeans", "rvq", "rqvae"] = "rkmeans"
    levels: int = 3
    size: int = 256
    width: int = 128
    heads: int = 6
    head_width: int = 64
    layers: int = 4
    feedforward: int = 1024
    feedforward_layers: int = 2
    dropout: float = 0.15
    max_history: int = 20
    batch_size: int = 512
    steps: int = 320_000
    is_causal: bool = False
    tokens: int = 1024
    look_every: int = 100
    patience: int = 10
    beams: int = 50
    optimization: Optimization = Optimization(learning_rate=1e-3, beta2=0.999, weight_decay=1e-4, schedule="constant", warmup=0,
                                              accumulate=16)


def smoke() -> Config:
    return Config(size=8, width=32, heads=2, head_width=16, layers=1, feedforward=64, dropout=0.0, max_history=8, is_causal=True,
                  tokens=256, steps=150, look_every=150, optimization=Optimization(learning_rate=5e-3, warmup=20))


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    torch.manual_seed(job.seed)
    ids = made_once(config.codes, lambda: coder(config, data, job).codes(data, job), data, job)
    if config.is_causal:
        batches = SequenceBatches(data.train, max_length=config.max_history, tokens=config.tokens, seed=job.seed)
    else:
        batches = TargetBatches(data.train, max_length=config.max_history, batch_size=config.batch_size, seed=job.seed,
                                has_random_start=True)
    return train_generator(build(config, ids), ids, batches, data, job, steps=config.steps, optimization=config.optimization,
                           look_every=config.look_every, patience=config.patience, beams=config.beams, max_history=config.max_history)


def coder(config: Config, data: Split, job: Job) -> Coder:
    catalog = with_content(data.catalog, config.view, config.text, job)
    levels, size = config.levels, config.size
    kept = {"log": job.log, "checkpoint": job.checkpoint("tokenizer")}
    tokenizer = {"rkmeans": lambda: ResidualKMeans(config.view, levels=levels, size=size, unit_residuals=True),
                 "rvq": lambda: ResidualVQ(config.view, levels=levels, size=size, **kept),
                 "rqvae": lambda: RQVAE(config.view, levels=levels, size=size, **kept)}[config.tokenizer]()
    return Coder(tokenizer, catalog, partial(extra_level, is_unique_zero=True))


def build(config: Config, ids: SemanticIds) -> EncoderDecoder:
    return EncoderDecoder(ids, width=config.width, heads=config.heads, head_width=config.head_width, encoder_layers=config.layers,
                          decoder_layers=config.layers, feedforward=config.feedforward, feedforward_layers=config.feedforward_layers,
                          dropout=config.dropout, separator=True, causal=config.is_causal)


def newcomers(config: Config, catalog: Catalog, folder: Path) -> Newcomers:
    """New items: the same text vectors and tokenizer, and the lowest free number behind their codes, 0 for who is alone."""
    tokenizer = {"rkmeans": ResidualKMeans, "rvq": ResidualVQ, "rqvae": RQVAE}[config.tokenizer].load(folder / "tokenizer.safetensors")
    return Newcomers.of_text(tokenizer, config.view, config.text, partial(next_number, is_unique_zero=True), catalog)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    return load_generator(lambda ids: build(config, ids), folder, beams=config.beams, max_history=config.max_history)
