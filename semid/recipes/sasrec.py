"""SASRec: a causal transformer over item ids with a modern loss. The rival that published tables make look weak.

Source: Kang and McAuley, ICDM 2018, arXiv 1808.09781; gBCE from gSASRec, RecSys 2023, arXiv 2308.07192. Status: baseline.
Deviations: pre-norm blocks, GELU, AdamW with a cosine schedule, early stopping on validation NDCG@10; the loss is full softmax with
smoothed labels by default (the paper's BCE with one negative is `sasrec:bce`, whose negatives may be among what the user took, as nobody
looks), and an item is scored by its input vector with a small offset of its own (`sasrec:tied` has the paper's one table).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from semid.config import ReadWhere
from semid.data.batch import SequenceBatches
from semid.objectives.next_item import GBCE, FullSoftmax, SampledSoftmax
from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.sasrec import SASRec
from semid.training.fit import Optimization, Validation, fit, pace
from semid.training.job import Job
from semid.types import Catalog, Split
from semid.validation import measure

VARIANTS: dict[str, dict[str, object]] = {
    "gbce": {"loss": "gbce"},
    "sampled": {"loss": "sampled", "offset": 0.0},
    "as_hstu": {"loss": "sampled", "offset": 0.0, "width": 50, "heads": 1, "feedforward": 50, "dropout": 0.2, "negatives": 128,
                "shares_negatives": False, "tokens": 8192, "epochs": 101, "epoch_steps": 0, "patience": 10,
                "optimization": Optimization(weight_decay=0.0, learning_rate=1e-3, warmup=0, schedule="constant")},
    "bce": {"loss": "gbce", "negatives": 1, "calibration": 0.0, "offset": 0.0},
    "tied": {"offset": 0.0},
    "untied": {"is_tied": False, "offset": 0.0},
}
SCALE = "dot product"


@dataclass(frozen=True)
class Config:
    """is_tied, offset: see `scorers.sasrec`. loss: softmax (all items, `smoothing` of each target spread over them), sampled (cosine,
    `negatives` of a batch, or of each position unless shares_negatives), gbce (`negatives` a position, `calibration`).

    tokens: positions in a batch; epochs at most, each of a pass over the data, or of `epoch_steps` batches where
    that is more; patience: epochs without a better validation NDCG@10.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("loss", "softmax"): ("smoothing",), ("loss", "sampled", "gbce"): ("negatives",), ("loss", "sampled"): ("shares_negatives",),
        ("loss", "gbce"): ("calibration",)}

    width: int = 128
    layers: int = 2
    heads: int = 2
    feedforward: int = 256
    dropout: float = 0.3
    is_tied: bool = True
    offset: float = 0.1
    loss: Literal["softmax", "sampled", "gbce"] = "softmax"
    smoothing: float = 0.1
    negatives: int = 256
    shares_negatives: bool = True
    calibration: float = 0.75
    tokens: int = 1024
    epochs: int = 12
    epoch_steps: int = 84
    patience: int = 5
    optimization: Optimization = Optimization(weight_decay=0.1)


PLAIN = Config(offset=0.0, smoothing=0.0)
"""For systems whose papers take SASRec's item vectors: one table, as there."""


def smoke() -> Config:
    return Config(width=32, dropout=0.1, tokens=256, epochs=12, epoch_steps=0, patience=12,
                  optimization=Optimization(learning_rate=5e-3, warmup=10))


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    torch.manual_seed(job.seed)
    model = build(config, len(data.catalog), data.protocol.max_history).to(job.device)
    recommender = ItemRecommender(model, SCALE, job.device)
    batches = SequenceBatches(data.train, max_length=data.protocol.max_history, tokens=config.tokens, seed=job.seed)
    objective = {"softmax": FullSoftmax(config.smoothing), "sampled": SampledSoftmax(config.negatives, is_shared=config.shares_negatives),
                 "gbce": GBCE(config.negatives, config.calibration)}[config.loss]
    steps, every, patience = pace(batches, epochs=config.epochs, least=config.epoch_steps, look_every=1, patience=config.patience)
    fit(model, objective, batches, steps=steps, optimization=config.optimization,
        validation=Validation(lambda: measure(recommender, data, seen=data.protocol.seen), every=every, patience=patience),
        checkpoint=job.checkpoint("sasrec"), resume=job.resume, log=job.log, stage="sasrec")
    return recommender


def build(config: Config, num_items: int, max_length: int) -> SASRec:
    return SASRec(num_items, width=config.width, layers=config.layers, heads=config.heads, feedforward=config.feedforward,
                  dropout=config.dropout, max_length=max_length, is_tied=config.is_tied, offset=config.offset,
                  is_cosine=config.loss == "sampled")


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    weights = load_tensors(folder / "scorer.safetensors")
    model = build(config, len(catalog), len(weights["temporal.position.weight"]))
    model.load_state_dict(weights)
    return ItemRecommender(model.eval(), SCALE)
