"""Human priors: a head for every tag and horizon on one sequence model, each trained on the futures that carry its tag.

Source: "Don't Waste It: Guiding Generative Recommenders with Structured Human Priors via Multi-head Decoding", arXiv 2511.10492. Status:
paper's heads, compositions and loss; SASRec below them, or HSTU (`human_priors:hstu`).
Compare with `human_priors:multi_interest` (as many heads, each future trains the one that fits best: no priors), `human_priors:single`
(one head) and `human_priors:shuffled` (the tags of other items: what is left of the gain is not the priors'). `human_priors:mixture` weighs
the heads by what the user took, which the paper doesn't.
A trained run can be asked for one prior: `run.asked("categories=Makeup").recommend(user=...)` lists items of that tag alone.
Deviations: (1) negatives are uniform distinct items, drawn once a batch (the paper: those of the other users' samples, over all
devices); (2) early stopping on validation NDCG@10, our optimizer; (3) the lists of a whole catalogue are merged, not the top k of each
head: the same list; (4) the gate reads the state without changing it. No heads for event types and user clusters yet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from semid.config import ReadWhere
from semid.data.batch import SequenceBatches
from semid.data.priors import Priors, number_of, priors_of, share_of
from semid.errors import ConfigError, DataError
from semid.evaluation.beyond_accuracy import CATEGORIES, category_column
from semid.files import write_json
from semid.nn.hstu import HSTU
from semid.nn.prior_heads import FreeHeads, PriorHeads
from semid.objectives.prior_futures import PriorFutures, RoutedFutures
from semid.recipes.hstu import SLACK
from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.prior_heads import Merge, PriorHeadScorer
from semid.scorers.sasrec import SASRec
from semid.training.fit import Optimization, Validation, fit
from semid.training.job import Job
from semid.types import Batch, Catalog, Split
from semid.validation import measure

VARIANTS: dict[str, dict[str, object]] = {
    "single": {"heads": "single"},
    "multi_interest": {"heads": "free"},
    "shuffled": {"is_shuffled": True},
    "multiplicative": {"composition": "multiplicative"},
    "additive": {"composition": "additive"},
    "tied": {"is_tied": True},
    "bottleneck": {"has_bottleneck": True},
    "uniform": {"is_weighted": False},
    "within": {"is_within": True},
    "gated": {"gate": 0.5},
    "average": {"merge": "average"},
    "mixture": {"merge": "mixture"},
    "short_term": {"answering": "short"},
    "one_horizon": {"segments": 1},
    "brand": {"priors": ("category", "brand")},
    "first_seen": {"priors": ("category", "first_seen")},
    "hstu": {"temporal": "hstu"},
}
SCALES = {"combine": "scaled cosine", "average": "scaled cosine", "mixture": "log probability"}


@dataclass(frozen=True)
class Config:
    """priors: columns of the items table, each with a head for its `most` tags or bands (`data.priors`); "category" is the first column
    that names categories, "first_seen" when an item came. heads: priors, free (multi-interest, as many heads) or single.

    composition, is_tied, has_segment_vectors, has_bottleneck: see `nn.prior_heads`. horizon: future items a position learns from; segments
    it is cut into, short term first; decay: discount of each further item. is_weighted: a head weighs its prior's share of the events,
    otherwise all weigh alike. negatives: of a batch; is_within: a head's carry its prior. gate: threshold of the classifier that turns
    heads off, None = all are on. merge: see `scorers.prior_heads`. answering: which horizon's heads answer. is_shuffled: items get the
    tags of others. temporal: the layers of `sasrec` or `hstu`, sizes as in their Config. tokens, epochs, patience: as for sasrec.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("heads", "priors"): ("composition", "is_weighted", "is_within", "gate", "is_shuffled"),
        ("composition", "hierarchical"): ("is_tied", "has_segment_vectors", "has_bottleneck"),
        ("temporal", "transformer"): ("feedforward",)}

    priors: tuple[str, ...] = ("category",)
    most: int = 8
    heads: Literal["priors", "free", "single"] = "priors"
    composition: Literal["hierarchical", "multiplicative", "additive"] = "hierarchical"
    is_tied: bool = False
    has_segment_vectors: bool = True
    has_bottleneck: bool = False
    horizon: int = 8
    segments: int = 2
    decay: float = 0.99
    is_weighted: bool = True
    negatives: int = 4096
    is_within: bool = False
    gate: float | None = None
    merge: Merge = "combine"
    answering: Literal["all", "short"] = "all"
    is_shuffled: bool = False
    temporal: Literal["transformer", "hstu"] = "transformer"
    width: int = 128
    layers: int = 2
    num_heads: int = 2
    feedforward: int = 256
    dropout: float = 0.3
    tokens: int = 1024
    epochs: int = 12
    patience: int = 5
    optimization: Optimization = Optimization(weight_decay=0.1)


def smoke() -> Config:
    """One future item a horizon, and the first one asked for: the toy world has one right answer."""
    return Config(horizon=2, answering="short", negatives=64, width=32, dropout=0.1, tokens=256, epochs=12, patience=12,
                  optimization=Optimization(learning_rate=5e-3, warmup=10))


@dataclass(frozen=True)
class PriorRecommender(ItemRecommender):
    """An `ItemRecommender` that can be asked for one prior. names: of the priors, in the order of the scorer's tags."""

    names: tuple[str, ...] = ()

    def asked(self, prior: str) -> AskedRecommender:
        """Return the recommender of one prior: its heads rank the items that carry it, and nothing else is in the lists.

        Raises `DataError` for an unknown prior, `ConfigError` where the model's heads have none (`multi_interest`, `single`).
        """
        assert isinstance(self.scorer, PriorHeadScorer)
        if not (self.scorer.heads.prior >= 0).any():
            raise ConfigError(f"prior {prior!r}: the heads of this model stand for no priors; train human_priors without a variant")
        return AskedRecommender(self.scorer, self.scale, self.device, number_of(prior, self.names))

    def save(self, folder: Path) -> None:
        super().save(folder)
        write_json(folder / "priors.json", list(self.names))


@dataclass(frozen=True)
class AskedRecommender(ItemRecommender):
    """The heads of one prior alone."""

    prior: int = 0

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        assert isinstance(self.scorer, PriorHeadScorer)
        return self.scorer.score_of(batch.to(self.device), self.prior)


def run(config: Config, data: Split, job: Job) -> PriorRecommender:
    torch.manual_seed(job.seed)
    priors = known_priors(config, data)
    if config.is_shuffled:
        tags = priors.tags[np.random.default_rng(job.seed).permutation(len(data.catalog))]
        priors = Priors(priors.names, tags, share_of(tags, data.train.counts))
    model = build(config, torch.from_numpy(priors.tags), data.protocol.max_history, data.events.time_unit == "seconds").to(job.device)
    recommender = PriorRecommender(model, SCALES[config.merge], job.device, priors.names)
    job.log.write("priors", note=f"{len(model.heads)} heads",
                  share={name: round(part, 4) for name, part in zip(priors.names, priors.share.tolist(), strict=True)})
    batches = SequenceBatches(data.train, max_length=data.protocol.max_history, tokens=config.tokens, seed=job.seed)
    fit(model, objective(config, priors.share), batches, steps=config.epochs * batches.steps_per_epoch, optimization=config.optimization,
        validation=Validation(lambda: measure(recommender, data, seen=data.protocol.seen), every=batches.steps_per_epoch,
                              patience=config.patience),
        checkpoint=job.checkpoint("human_priors"), resume=job.resume, log=job.log, stage="human_priors")
    return recommender


def known_priors(config: Config, data: Split) -> Priors:
    columns = list(config.priors)
    if "category" in columns and "category" not in data.catalog.table.column_names:
        named = category_column(data.catalog)
        if named is None:
            raise DataError(f"human_priors: want items with a column of tags, such as {', '.join(CATEGORIES)}, got none of these; "
                            "name the columns: --set 'priors=[\"COLUMN\"]'")
        columns[columns.index("category")] = named
    return priors_of(data.catalog, data.train, tuple(columns), most=config.most)


def objective(config: Config, share: np.ndarray) -> PriorFutures | RoutedFutures:
    if config.heads != "priors":
        return RoutedFutures(config.horizon, config.decay, config.negatives)
    weight = torch.from_numpy(share) if config.is_weighted else torch.full((len(share),), 1 / len(share))
    return PriorFutures(weight, config.horizon, config.decay, config.negatives, config.is_within)


def build(config: Config, tags: Tensor, max_history: int, has_times: bool) -> PriorHeadScorer:
    if config.horizon % config.segments or config.horizon < 1:
        raise ConfigError(f"human_priors: want a horizon that {config.segments} segments divide, got {config.horizon}")
    if config.gate is not None and config.heads != "priors":
        raise ConfigError(f"human_priors.gate: want heads of priors to turn off, got {config.heads} heads; leave the gate out")
    temporal = None
    if config.temporal == "hstu":
        temporal = HSTU(config.width, layers=config.layers, heads=config.num_heads, head_width=config.width // config.num_heads,
                        dropout=config.dropout, max_length=max_history + SLACK, has_time_bias=has_times)
    body = SASRec(len(tags), width=config.width, layers=config.layers, heads=config.num_heads, feedforward=config.feedforward,
                  dropout=config.dropout, max_length=max_history, temporal=temporal)
    if config.heads != "priors":
        heads = FreeHeads(config.width, 1 if config.heads == "single" else tags.shape[1] * config.segments)
    else:
        heads = PriorHeads(config.width, tags.shape[1], config.segments, composition=config.composition, is_tied=config.is_tied,
                           has_segment_vectors=config.has_segment_vectors, has_bottleneck=config.has_bottleneck)
    horizon = 0 if config.answering == "short" else None
    return PriorHeadScorer(body, heads, tags, merge=config.merge, horizon=horizon, gate=config.gate)


def load(config: Config, catalog: Catalog, folder: Path) -> PriorRecommender:
    weights = load_tensors(folder / "scorer.safetensors")
    max_history = len(weights["body.temporal.position.weight"]) - (SLACK if config.temporal == "hstu" else 0)
    model = build(config, weights["tags"], max_history, "body.temporal.blocks.0.clock" in weights)
    model.load_state_dict(weights)
    names = tuple(json.loads((folder / "priors.json").read_text(encoding="utf-8")))
    return PriorRecommender(model.eval(), SCALES[config.merge], names=names)
