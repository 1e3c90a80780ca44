"""TIGER: RQ-VAE codes of item text, and a T5-style encoder-decoder that writes them. The base of the whole family.

Source: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065. Status: paper's shape and
defaults; `tiger:causal` trains every position of a history in one pass, for machines without a GPU.
Deviations: (1) the text encoder is the one at hand (the paper: Sentence-T5); (2) each level has its own output head, so a code of
a wrong level cannot be written; (3) decoding is constrained to the code tree (the paper filters afterwards); (4) AdamW for RQ-VAE
(the paper: Adagrad, 20,000 epochs), whose codebooks start from k-means and are re-seeded where unused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from semid.data.batch import SequenceBatches, TargetBatches
from semid.encoders.content import with_text_view
from semid.errors import DataError
from semid.generators.encoder_decoder import EncoderDecoder
from semid.newcomers import Newcomers
from semid.objectives.next_codes import NextCodes
from semid.recommenders import CodeRecommender, load_tensors, read_codes
from semid.tokenizers.collisions import collision_report, extra_level, next_number
from semid.tokenizers.health import health
from semid.tokenizers.rqvae import RQVAE
from semid.training.fit import Optimization, Validation, fit
from semid.training.job import Job
from semid.tree import CodeTree
from semid.types import Catalog, SemanticIds, Split
from semid.validation import measure

CAUSAL = Optimization(learning_rate=2e-3, warmup=200)
VARIANTS: dict[str, dict[str, object]] = {"causal": {"is_causal": True, "steps": 1000, "look_every": 125, "optimization": CAUSAL}}


@dataclass(frozen=True)
class Config:
    """view: the content view that is tokenized. tokenizer_steps: updates of RQ-VAE. batch_size: targets in a batch (rows of a
    history and one target). is_causal: an encoder token sees earlier items only, and a batch holds `tokens` positions, all supervised.
    look_every: steps between looks at validation; patience: looks without a better NDCG@10.
    """

    text: str = "auto"
    view: str = "text"
    levels: int = 3
    size: int = 256
    latent: int = 32
    tokenizer_steps: int = 3000
    width: int = 128
    heads: int = 6
    head_width: int = 64
    layers: int = 4
    feedforward: int = 1024
    dropout: float = 0.1
    user_tokens: int = 2000
    max_history: int = 20
    batch_size: int = 256
    steps: int = 200_000
    is_causal: bool = False
    tokens: int = 1024
    look_every: int = 2000
    patience: int = 20
    beams: int = 50
    optimization: Optimization = Optimization(learning_rate=0.01, beta2=0.999, schedule="inverse_sqrt", warmup=10_000, clip=1.0)


def smoke() -> Config:
    return Config(size=8, latent=8, tokenizer_steps=200, width=32, heads=2, head_width=16, layers=1, feedforward=64, dropout=0.0,
                  user_tokens=0, max_history=8, is_causal=True, tokens=256, steps=250, look_every=125,
                  optimization=Optimization(learning_rate=5e-3, warmup=20))


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    torch.manual_seed(job.seed)
    catalog = with_content(data.catalog, config.view, config.text, job)
    tokenizer = RQVAE(config.view, levels=config.levels, size=config.size, latent=config.latent, steps=config.tokenizer_steps,
                      log=job.log, checkpoint=job.checkpoint("tokenizer")).fit(catalog, seed=job.seed)
    before = tokenizer.assign(catalog)
    distances = tokenizer.distances(catalog, before.codes)
    ids = extra_level(before, distances, data.train.counts)
    job.log.write("tokenizer", health=health(before), collisions=collision_report(before, ids, distances))
    if job.out is not None:
        tokenizer.save(job.out / "tokenizer.safetensors")
    if config.is_causal:
        batches = SequenceBatches(data.train, max_length=config.max_history, tokens=config.tokens, seed=job.seed)
    else:
        batches = TargetBatches(data.train, max_length=config.max_history, batch_size=config.batch_size, seed=job.seed)
    return train_generator(build(config, ids), ids, batches, data, job, steps=config.steps, optimization=config.optimization,
                           look_every=config.look_every, patience=config.patience, beams=config.beams, max_history=config.max_history)


def with_content(catalog: Catalog, view: str, text: str, job: Job) -> Catalog:
    """Return the catalogue with the content view that is tokenized. Raises `DataError` where there is no content."""
    catalog = with_text_view(catalog, text, log=job.log, device=job.device)
    if view not in catalog.views:
        raise DataError(f"this recipe makes codes of content, but the catalogue has no text and no view {view!r}; "
                        "give items with text (--items), or a vector file (--views), or use semid, which also codes behaviour")
    return catalog


def train_generator(generator: EncoderDecoder, ids: SemanticIds, batches: SequenceBatches | TargetBatches, data: Split, job: Job, *,
                    steps: int, optimization: Optimization, look_every: int, patience: int, beams: int,
                    max_history: int) -> CodeRecommender:
    """Train by cross-entropy of the codes, keep the best look at validation, return the finished system."""
    generator = generator.to(job.device)
    recommender = CodeRecommender(generator, ids, CodeTree.build(ids).to(job.device), beams, job.device, max_history)
    fit(generator, NextCodes(), batches, steps=steps, optimization=optimization,
        validation=Validation(lambda: measure(recommender, data, seen=data.protocol.seen, limit=2000), every=look_every,
                              patience=patience),
        checkpoint=job.checkpoint("generator"), resume=job.resume, log=job.log, stage="generator")
    return recommender


def build(config: Config, ids: SemanticIds) -> EncoderDecoder:
    return EncoderDecoder(ids, width=config.width, heads=config.heads, head_width=config.head_width, encoder_layers=config.layers,
                          decoder_layers=config.layers, feedforward=config.feedforward, dropout=config.dropout,
                          user_tokens=config.user_tokens, causal=config.is_causal)


def newcomers(config: Config, catalog: Catalog, folder: Path) -> Newcomers:
    """New items: the same text vectors and tokenizer, and the lowest free number behind their codes."""
    tokenizer = RQVAE.load(folder / "tokenizer.safetensors")
    return Newcomers(tokenizer, config.view, tokenizer.width, text=config.text, behaviour={}, free=next_number, known=catalog)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    ids = read_codes(folder / "codes.parquet")
    generator = build(config, ids)
    generator.load_state_dict(load_tensors(folder / "generator.safetensors"))
    return CodeRecommender(generator.eval(), ids, CodeTree.build(ids), config.beams, max_history=config.max_history)
