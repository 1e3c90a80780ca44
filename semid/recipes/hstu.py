"""HSTU: item ids through attention without softmax that knows distances and times, trained by sampled softmax over cosines.

Source: Zhai et al., "Actions Speak Louder than Words", ICML 2024, arXiv 2402.17152, retrieval on public data. Status: paper's
shape, loss and optimizer; compare with `sasrec:as_hstu`, a transformer of the same shape under the same loss and optimizer.
Deviations: (1) early stopping on validation NDCG@10; (2) batches hold a number of positions, not of users; (3) item vectors start from a
normal distribution with spread .02, not cut at two spreads; (4) gradients are clipped at norm 5. As in the paper the model is told when
it is asked: the time bias reads the time of the request, in training and evaluation that of the item to come, which a service knows and
other recipes here do not read. `hstu:order` goes without any clock. Where the data have an order but no times the bias of time is left
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from semid.data.batch import SequenceBatches
from semid.data.stochastic_length import StochasticLength
from semid.nn.hstu import HSTU
from semid.objectives.next_item import SampledSoftmax
from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.sasrec import SASRec
from semid.training.fit import Optimization, Validation, fit
from semid.training.job import Job
from semid.types import Catalog, Split
from semid.validation import measure

VARIANTS: dict[str, dict[str, object]] = {
    "large": {"layers": 8, "heads": 2, "head_width": 25},
    "order": {"has_time_bias": False},
    "no_bias": {"has_time_bias": False, "has_position_bias": False},
    "stochastic_length": {"alpha": 1.6},
}
SCALE = "cosine"
SLACK = 11
"""Places beyond the longest history, as in the authors' code: one for a candidate, and attention is divided by the sum."""


@dataclass(frozen=True)
class Config:
    """negatives: uniform items a position, drawn for each unless shares_negatives (quicker). temperature: of the cosines.

    alpha in (1, 2]: stochastic length, 2 trains on whole histories. tokens: positions in a batch. patience: looks (one an epoch)
    without a better validation NDCG@10.
    """

    width: int = 50
    layers: int = 2
    heads: int = 1
    head_width: int = 50
    dropout: float = 0.2
    has_position_bias: bool = True
    has_time_bias: bool = True
    negatives: int = 128
    shares_negatives: bool = False
    temperature: float = 0.05
    alpha: float = 2.0
    tokens: int = 8192
    epochs: int = 101
    patience: int = 10
    optimization: Optimization = Optimization(learning_rate=1e-3, weight_decay=0.0, warmup=0, schedule="constant")


def smoke() -> Config:
    return Config(width=32, head_width=32, dropout=0.1, negatives=32, tokens=256, epochs=12, patience=12,
                  optimization=Optimization(learning_rate=5e-3, weight_decay=0.0, warmup=10))


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    torch.manual_seed(job.seed)
    longest = data.protocol.max_history
    has_times = config.has_time_bias and data.events.time_unit == "seconds"
    model = build(config, len(data.catalog), longest + SLACK, has_times).to(job.device)
    recommender = ItemRecommender(model, SCALE, job.device)
    batches = SequenceBatches(data.train, max_length=longest, tokens=config.tokens, seed=job.seed)
    objective = SampledSoftmax(config.negatives, config.temperature, config.shares_negatives)
    fit(model, objective, StochasticLength(batches, max_length=longest, alpha=config.alpha, seed=job.seed),
        steps=config.epochs * batches.steps_per_epoch, optimization=config.optimization,
        validation=Validation(lambda: measure(recommender, data, seen=data.protocol.seen), every=batches.steps_per_epoch,
                              patience=config.patience),
        checkpoint=job.checkpoint("hstu"), resume=job.resume, log=job.log, stage="hstu")
    return recommender


def build(config: Config, num_items: int, max_length: int, has_times: bool) -> SASRec:
    temporal = HSTU(config.width, layers=config.layers, heads=config.heads, head_width=config.head_width, dropout=config.dropout,
                    max_length=max_length, has_position_bias=config.has_position_bias, has_time_bias=has_times)
    return SASRec(num_items, width=config.width, temporal=temporal, is_cosine=True)


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    weights = load_tensors(folder / "scorer.safetensors")
    model = build(config, len(catalog), len(weights["temporal.position.weight"]), "temporal.blocks.0.clock" in weights)
    model.load_state_dict(weights)
    return ItemRecommender(model.eval(), SCALE)
