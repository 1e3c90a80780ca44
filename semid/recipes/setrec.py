"""SETRec: an item is a set of vectors without order, of behaviour and of content; no codes, no beams, one pass a request.

Source: Lin et al., "Order-agnostic Identifier for Large Language Model-based Generative Recommendation", SIGIR 2025, arXiv 2502.10833, and
the settings of its code for T5 on Toys. Status: paper's shape and defaults, from random weights; `setrec:small` trains every position of
a history in one pass of a small T5, for machines without a GPU; `setrec:no_cf`, `setrec:no_semantic` and `setrec:no_sparse` (vectors of an
item see each other) are ablations.
Deviations: (1) those of `generators.setrec`; (2) the text encoder is the one at hand (the code: sentence-t5-base); (3) beta, the weight of
content in a score, is chosen on validation (the code: on test), where looks during training take .5; (4) no sample has an empty history.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from semid.collaborative import behaviour_vectors
from semid.config import ReadWhere
from semid.data.batch import SequenceBatches, TargetBatches
from semid.encoders.content import with_text_view
from semid.errors import ConfigError, DataError
from semid.generators import setrec as generators
from semid.objectives.setrec import SETRec as Loss
from semid.recipes.sasrec import PLAIN as PLAIN_SASREC
from semid.recipes.sasrec import Config as SASRecSettings
from semid.recommenders import ItemRecommender, load_tensors
from semid.training.fit import Optimization, Validation, fit
from semid.training.job import Job
from semid.types import Catalog, Split
from semid.validation import best_of, measure

SMALL = Optimization(learning_rate=2e-3, beta2=0.999, warmup=100, clip=1.0)
VARIANTS: dict[str, dict[str, object]] = {
    "small": {"is_causal": True, "width": 64, "heads": 4, "head_width": 16, "layers": 2, "feedforward": 256, "hidden": (256, 128),
              "epochs": 10, "optimization": SMALL},
    "no_cf": {"has_cf": False},
    "no_semantic": {"semantic": 0},
    "no_sparse": {"is_sparse": False},
}
SCALE = "weighted sum of dot products"
BETAS = tuple(round(0.1 * step, 1) for step in range(1, 11))


@dataclass(frozen=True)
class Config:
    """cf: where the vectors of behaviour come from, see `behaviour_vectors`, cf_width wide where they are made here; has_cf: false leaves
    them out. text, view: the content. semantic: vectors of content an item has, 0 = none; hidden: widths of the network that makes them.
    alpha: weight of reading content back. batch_size: targets, or, where is_causal, `tokens` positions in a batch, all supervised. epochs
    at most; look_every: steps between looks at validation; patience: looks without a better NDCG@10.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("has_cf", True): ("cf", "cf_width"), ("cf", "sasrec"): ("sasrec",), ("is_causal", False): ("batch_size",),
        ("is_causal", True): ("tokens",)}

    text: str = "auto"
    view: str = "text"
    cf: str = "sasrec"
    cf_width: int = 64
    has_cf: bool = True
    semantic: int = 4
    hidden: tuple[int, ...] = (512, 256, 128)
    alpha: float = 0.7
    width: int = 512
    heads: int = 8
    head_width: int = 64
    layers: int = 6
    feedforward: int = 2048
    dropout: float = 0.1
    is_sparse: bool = True
    is_causal: bool = False
    batch_size: int = 512
    tokens: int = 1024
    epochs: int = 30
    look_every: int = 200
    patience: int = 10
    sasrec: SASRecSettings = PLAIN_SASREC
    optimization: Optimization = Optimization(learning_rate=1e-3, beta2=0.999, warmup=100, final=0.0, clip=1.0)

    def __post_init__(self):
        if not self.has_cf and not self.semantic:
            raise ConfigError("setrec: want vectors of behaviour or of content, got has_cf false and semantic 0; set one of them")


def smoke() -> Config:
    return Config(cf="spectral", cf_width=16, semantic=2, hidden=(32,), width=32, heads=2, head_width=16, layers=1, feedforward=64,
                  dropout=0.0, is_causal=True, tokens=256, epochs=20, look_every=60, optimization=replace(SMALL, learning_rate=5e-3))


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    torch.manual_seed(job.seed)
    text = content(config, data, job)  # before minutes go into the vectors of behaviour
    model = build(config, behaviour(config, data, job), text).to(job.device)
    recommender = ItemRecommender(model, SCALE, job.device)
    length = data.protocol.max_history  # 50 by default, which is the paper's
    if config.is_causal:
        batches = SequenceBatches(data.train, max_length=length, tokens=config.tokens, seed=job.seed)
    else:
        batches = TargetBatches(data.train, max_length=length, batch_size=config.batch_size, seed=job.seed)
    fit(model, Loss(config.alpha), batches, steps=config.epochs * batches.steps_per_epoch, optimization=config.optimization,
        validation=Validation(lambda: measure(recommender, data, seen=data.protocol.seen, limit=2000), patience=config.patience,
                              every=config.look_every),
        checkpoint=job.checkpoint("generator"), resume=job.resume, log=job.log, stage="generator")
    if config.has_cf and config.semantic:
        choose_beta(model, recommender, data, job)
    return recommender


def behaviour(config: Config, data: Split, job: Job) -> Tensor | None:
    """Return float32 [N, C] of what users did, None where no vector is made of it."""
    if not config.has_cf:
        return None
    return torch.from_numpy(behaviour_vectors(config.cf, data, job, width=config.cf_width, sasrec_settings=config.sasrec))


def content(config: Config, data: Split, job: Job) -> Tensor | None:
    """Return float32 [N, F] of what items are, None where no vector is made of it. Raises `DataError` where there is none to be had."""
    if not config.semantic:
        return None
    catalog = with_text_view(data.catalog, config.text, log=job.log, device=job.device)
    if config.view not in catalog.views:
        raise DataError(f"setrec: want items with text or a view {config.view!r}, got neither; give items with text (--items), vectors "
                        f"(--view {config.view}=FILE.npy), or take setrec:no_semantic")
    return torch.from_numpy(catalog.view(config.view))


def choose_beta(model: generators.SETRec, recommender: ItemRecommender, data: Split, job: Job) -> None:
    """Give the model the weight of content with the best validation NDCG@10."""
    def weighted(beta: float) -> ItemRecommender:
        model.beta.fill_(beta)
        return recommender

    beta, _, ndcg = best_of(BETAS, weighted, data, seen=data.protocol.seen)
    model.beta.fill_(beta)
    job.log.write("beta", note="weight chosen on validation", chosen=beta, **{"ndcg@10": ndcg})


def build(config: Config, cf: Tensor | None, text: Tensor | None) -> generators.SETRec:
    return generators.SETRec(cf, text, semantic=config.semantic, hidden=config.hidden, width=config.width, heads=config.heads,
                             head_width=config.head_width, layers=config.layers, feedforward=config.feedforward, dropout=config.dropout,
                             is_sparse=config.is_sparse, causal=config.is_causal)


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    weights = load_tensors(folder / "scorer.safetensors")
    model = build(config, weights.get("cf"), weights.get("text"))
    model.load_state_dict(weights)
    return ItemRecommender(model.eval(), SCALE)
