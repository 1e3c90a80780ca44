"""TIGER: RQ-VAE codes of item text, and a T5-style encoder-decoder that writes them. The base of the whole family.

Source: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065. Status: paper's shape and
defaults; `tiger:causal` trains every position of a history in one pass, for machines without a GPU.
Deviations: (1) the text encoder is the one at hand (the paper: Sentence-T5); (2) each level has its own output head, so a code of
a wrong level cannot be written; (3) decoding is constrained to the code tree (the paper filters afterwards); (4) AdamW for RQ-VAE
(the paper: Adagrad, 20,000 epochs), whose codebooks start from k-means and are re-seeded where unused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from semid.alignment import DDRO, SDPO, Alignment, align, check
from semid.coding import Coder, made_once
from semid.config import ReadWhere
from semid.data.batch import SequenceBatches, TargetBatches
from semid.encoders.content import with_text_view
from semid.errors import DataError
from semid.generators.encoder_decoder import EncoderDecoder
from semid.newcomers import Newcomers
from semid.objectives.next_codes import NextCodes
from semid.protocols import Batches, Objective
from semid.recommenders import CodeRecommender, load_tensors, read_codes
from semid.tokenizers.collisions import extra_level, next_number
from semid.tokenizers.rqvae import RQVAE
from semid.training.fit import Optimization, Validation, fit
from semid.training.job import Job
from semid.tree import CodeTree
from semid.types import Catalog, SemanticIds, Split
from semid.validation import CHOICE, measure

CAUSAL = Optimization(learning_rate=2e-3, warmup=200)
VARIANTS: dict[str, dict[str, object]] = {
    "causal": {"is_causal": True, "steps": 1000, "look_every": 125, "optimization": CAUSAL},
    "dpo": {"alignment.method": "dpo"},
    "sdpo": {**SDPO},
    "ddro": {**DDRO},
    "grpo": {"alignment.method": "grpo"},
}


@dataclass(frozen=True)
class Config:
    """view: the content view that is tokenized. codes: published codes in place of the tokenizer, a column of the items table or a file
    X.index.json. tokenizer_steps: updates of RQ-VAE. batch_size: targets in a batch (rows of a
    history and one target). is_causal: an encoder token sees earlier items only, and a batch holds `tokens` positions, all supervised.
    look_every: steps between looks at validation; patience: looks without a better NDCG@10. alignment: training on preferences or
    rewards after that.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("codes", None): ("levels", "size", "latent", "tokenizer_steps"), ("is_causal", False): ("batch_size",),
        ("is_causal", True): ("tokens",)}

    text: str = "auto"
    view: str = "text"
    codes: str | None = None
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
    alignment: Alignment = Alignment()
    optimization: Optimization = Optimization(learning_rate=0.01, beta2=0.999, schedule="inverse_sqrt", warmup=10_000, clip=1.0)


def smoke() -> Config:
    return Config(size=8, latent=8, tokenizer_steps=60, width=32, heads=2, head_width=16, layers=1, feedforward=64, dropout=0.0,
                  user_tokens=0, max_history=8, is_causal=True, tokens=256, steps=250, look_every=125,
                  optimization=Optimization(learning_rate=5e-3, warmup=20))


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    check(config.alignment, data)
    torch.manual_seed(job.seed)
    return generate(config, made_once(config.codes, lambda: coder(config, data, job).codes(data, job), data, job), data, job)


def coder(config: Config, data: Split, job: Job) -> Coder:
    catalog = with_content(data.catalog, config.view, config.text, job)
    tokenizer = RQVAE(config.view, levels=config.levels, size=config.size, latent=config.latent, steps=config.tokenizer_steps,
                      log=job.log, checkpoint=job.checkpoint("tokenizer"))
    return Coder(tokenizer, catalog, extra_level)


def generate(config: Config, ids: SemanticIds, data: Split, job: Job, temperature: float = 1.0, *,
             generator: EncoderDecoder | None = None) -> CodeRecommender:
    """Train the encoder-decoder, or another `generator` of its kind, on given codes; what the tokenizer's settings say is not read."""
    check(config.alignment, data)
    if config.is_causal:
        batches = SequenceBatches(data.train, max_length=config.max_history, tokens=config.tokens, seed=job.seed)
    else:
        batches = TargetBatches(data.train, max_length=config.max_history, batch_size=config.batch_size, seed=job.seed)
    recommender = train_generator(build(config, ids) if generator is None else generator, ids, batches, data, job, steps=config.steps,
                                  optimization=config.optimization, look_every=config.look_every, patience=config.patience,
                                  beams=config.beams, max_history=config.max_history, temperature=temperature)
    if config.alignment.method != "none":
        catalog = with_text_view(data.catalog, config.text, log=job.log, device=job.device)
        align(recommender, config.alignment, data, job, vectors=catalog.view(config.view) if config.view in catalog.views else None)
    return recommender


def with_content(catalog: Catalog, view: str, text: str, job: Job) -> Catalog:
    """Return the catalogue with the content view that is tokenized. Raises `DataError` where there is no content."""
    catalog = with_text_view(catalog, text, log=job.log, device=job.device)
    if view not in catalog.views:
        raise DataError(f"this recipe reads the content of items, but the catalogue has no text and no view {view!r}; "
                        f"give items with text (--items), or vectors (--view {view}=FILE.npy), or use semid, which also reads behaviour")
    return catalog


def train_generator(generator: EncoderDecoder, ids: SemanticIds, batches: SequenceBatches | TargetBatches, data: Split, job: Job, *,
                    steps: int, optimization: Optimization, look_every: int, patience: int, beams: int,
                    max_history: int, temperature: float = 1.0) -> CodeRecommender:
    """Train by cross-entropy of the codes, keep the best look at validation, return the finished system."""
    generator = generator.to(job.device)
    recommender = CodeRecommender(generator, ids, CodeTree.build(ids).to(job.device), beams, job.device, max_history)
    fit_generator(recommender, NextCodes(temperature=temperature), batches, data, job, steps=steps, optimization=optimization,
                  look_every=look_every, patience=patience)
    return recommender


def fit_generator(recommender: CodeRecommender, objective: Objective, batches: Batches, data: Split, job: Job, *, steps: int,
                  optimization: Optimization, look_every: int, patience: int | None) -> None:
    """Train a recommender's generator in place and keep the best look at validation: every `look_every` steps, at `CHOICE` cases."""
    fit(recommender.generator, objective, batches, steps=steps, optimization=optimization,
        validation=Validation(lambda: measure(recommender, data, seen=data.protocol.seen, limit=CHOICE), every=look_every,
                              patience=patience),
        checkpoint=job.checkpoint("generator"), resume=job.resume, log=job.log, stage="generator")


def build(config: Config, ids: SemanticIds) -> EncoderDecoder:
    return EncoderDecoder(ids, width=config.width, heads=config.heads, head_width=config.head_width, encoder_layers=config.layers,
                          decoder_layers=config.layers, feedforward=config.feedforward, dropout=config.dropout,
                          user_tokens=config.user_tokens, causal=config.is_causal)


def newcomers(config: Config, catalog: Catalog, folder: Path) -> Newcomers:
    """New items: the same text vectors and tokenizer, and the lowest free number behind their codes."""
    return Newcomers.of_text(RQVAE.load(folder / "tokenizer.safetensors"), config.view, config.text, next_number, catalog)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    return load_generator(lambda ids: build(config, ids), folder, beams=config.beams, max_history=config.max_history)


def load_generator(build: Callable[[SemanticIds], EncoderDecoder], folder: Path, *, beams: int, max_history: int) -> CodeRecommender:
    """Return what `train_generator` made, from its run folder. build: as for training."""
    ids = read_codes(folder / "codes.parquet")
    generator = build(ids)
    generator.load_state_dict(load_tensors(folder / "generator.safetensors"))
    return CodeRecommender(generator.eval(), ids, CodeTree.build(ids), beams, max_history=max_history)
