"""Parallel digits: long product-quantised codes of text and behaviour, every digit predicted at once, every item scored.

Source: the shape of RPG, Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation", KDD 2025, arXiv 2506.05781. Status:
semid's settings, chosen on validation; `parallel:rpg` has the paper's shape, sizes and loss.
What is new: items compete by the sum of their digits (`NextItemOfDigits`) instead of the codes of each digit among themselves; codes of
behaviour beside text; id, content and days between events as inputs; targets shared with item-kNN's neighbours.
`parallel:graph` searches along the paper's graph of like items. Ablations: the paper's loss (`parallel:digit_loss`), fewer digits or more,
codes of text alone (`parallel:text`), codes without meaning (`parallel:random_codes`), no id embedding, hard targets.
Deviations: (1) the text encoder is the one at hand (the paper: sentence-T5); (2) `parallel:rpg` keeps our optimizer, batches and early
stopping, and one temperature, where the paper tunes it and the learning rate for each data set (Beauty: .03 and .01); (3) those of
`generators.parallel`, `tokenizers.product` and `decoding.graph`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from semid.coding import made_once
from semid.config import ReadWhere
from semid.decoding.graph import ItemGraph
from semid.generators.parallel import Parallel
from semid.objectives.next_digits import NextDigits, NextItemOfDigits
from semid.recipes import semid
from semid.recommenders import ParallelRecommender, load_tensors, read_codes
from semid.tokenizers.health import health
from semid.tokenizers.product import Product
from semid.training.fit import Optimization
from semid.training.job import Job
from semid.types import Catalog, SemanticIds, Split

VARIANTS: dict[str, dict[str, object]] = {
    "rpg": {"code_views": ("text",), "digits": 32, "reads_codes_alone": True, "is_tied": True, "loss": "digits", "temperature": 0.07,
            "width": 448, "heads": 4, "feedforward": 1024, "dropout": 0.5, "neighbour_prior": 0.0, "smoothing": 0.0},
    "digit_loss": {"loss": "digits", "temperature": 0.07},
    "graph": {"search": "graph"},
    "digits_4": {"digits": 4},
    "digits_8": {"digits": 8},
    "digits_32": {"digits": 32},
    "text": {"code_views": ("text",)},
    "random_codes": {"tokenizer": "random"},
    "no_id": {"has_item_ids": False},
    "hard_targets": {"neighbour_prior": 0.0},
}
SCALE = "sum of digit log probabilities"


@dataclass(frozen=True)
class Config:
    """digits, size: the codes; size None takes 256, or fewer where the catalogue could not fill them. tokenizer: product quantisation,
    or random digits, the ablation of all meaning. temperature: of the digits' cosines. is_tied: a code is scored by the vector with which
    it is read. loss: items compete by the sum of their digits (`NextItemOfDigits`, `negatives` drawn a batch), or the codes of each digit
    (`NextDigits`, with `smoothing`), the paper's. reads_codes_alone: the generator reads neither ids, content nor days between events.
    search: all items are scored, or those that a graph leads to: `beams` items a step, `edges` neighbours each, `steps` times.
    The rest as in semid's Config.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("codes", None): ("tokenizer", "digits", "size"), ("tokenizer", "product"): ("code_views",), ("loss", "items"): ("negatives",),
        ("loss", "digits"): ("smoothing",), ("reads_codes_alone", False): ("has_item_ids", "has_time_gaps"),
        ("search", "graph"): ("beams", "edges", "steps")}

    text: str = "auto"
    cf_dim: int = 64
    code_views: tuple[str, ...] = semid.VIEWS
    codes: str | None = None
    tokenizer: Literal["product", "random"] = "product"
    digits: int = 16
    size: int | None = None
    width: int = 128
    layers: int = 2
    heads: int = 2
    feedforward: int = 256
    dropout: float = 0.4
    temperature: float = 0.3
    is_tied: bool = False
    loss: Literal["digits", "items"] = "items"
    negatives: int = 2048
    reads_codes_alone: bool = False
    has_item_ids: bool = True
    has_time_gaps: bool = True
    tokens: int = 1024
    epochs: int = 12
    epoch_steps: int = 84
    patience: int = 3
    neighbour_prior: float = 5.0
    smoothing: float = 0.1
    search: Literal["all", "graph"] = "all"
    beams: int = 20
    edges: int = 200
    steps: int = 3
    optimization: Optimization = Optimization(learning_rate=4e-3, weight_decay=0.1)


def smoke() -> Config:
    return Config(text="none", cf_dim=16, digits=8, size=8, width=32, heads=1, feedforward=64, dropout=0.1, tokens=256, epochs=15,
                  epoch_steps=0, patience=15, optimization=Optimization(learning_rate=5e-3, warmup=10))


def run(config: Config, data: Split, job: Job) -> ParallelRecommender:
    torch.manual_seed(job.seed)
    catalog, views = semid.with_views(config.text, config.cf_dim, data, job)
    ids = made_once(config.codes, lambda: tokenize(catalog, views, config, job), data, job)
    content = None if config.reads_codes_alone else semid.content_of(catalog, views)
    has_ids = config.has_item_ids and not config.reads_codes_alone
    start = semid.initial_vectors(catalog, views, config.width) if has_ids else None
    has_gaps = config.has_time_gaps and not config.reads_codes_alone and data.events.time_unit == "seconds"
    generator = build(config, ids, data.protocol.max_history, start, content, has_gaps).to(job.device)
    recommender = ParallelRecommender(generator, SCALE, job.device, ids=ids)
    objective = NextDigits(config.smoothing) if config.loss == "digits" else NextItemOfDigits(config.negatives)
    semid.train_on_histories(generator, objective, recommender, data, job, tokens=config.tokens, epochs=config.epochs,
                             epoch_steps=config.epoch_steps, patience=config.patience, neighbour_prior=config.neighbour_prior,
                             optimization=config.optimization)
    if config.search == "all":
        return recommender
    with torch.no_grad():
        graph = ItemGraph.build(generator.code_vectors(), generator.codes, edges=config.edges, beams=config.beams, steps=config.steps,
                                seed=job.seed)
    return ParallelRecommender(generator, SCALE, job.device, ids=ids, graph=graph)


def tokenize(catalog: Catalog, views: tuple[str, ...], config: Config, job: Job) -> SemanticIds:
    """Digits of the views side by side. Items may share all digits: they have one score, and the lower row comes first."""
    size = config.size or semid.codebook_size(len(catalog))
    if config.tokenizer == "random":
        codes = np.random.default_rng(job.seed).integers(size, size=(len(catalog), config.digits))
        ids = SemanticIds(codes.astype(np.int32), (size,) * config.digits, "set", "random digits")
    else:
        tokenizer = Product(semid.views_of_codes(views, config.code_views), digits=config.digits, size=size)
        ids = tokenizer.fit(catalog, seed=job.seed).assign(catalog)
        if job.out is not None:
            tokenizer.save(job.out / "tokenizer.safetensors")
    job.log.write("tokenizer", health=health(ids))
    return ids


def build(config: Config, ids: SemanticIds, max_length: int, start: Tensor | None, content: Tensor | None, has_gaps: bool) -> Parallel:
    return Parallel(ids, width=config.width, layers=config.layers, heads=config.heads, feedforward=config.feedforward,
                    dropout=config.dropout, max_length=max_length, start=start, content=content, has_time_gaps=has_gaps,
                    temperature=config.temperature, is_tied=config.is_tied)


def load(config: Config, catalog: Catalog, folder: Path) -> ParallelRecommender:
    ids = read_codes(folder / "codes.parquet")
    weights = load_tensors(folder / "generator.safetensors")
    start = torch.empty(len(ids), config.width) if "input.item.weight" in weights else None
    generator = build(config, ids, len(weights["temporal.position.weight"]), start, weights.get("input.content"), "gap.weight" in weights)
    generator.load_state_dict(weights)
    graph = None
    if config.search == "graph":
        graph = ItemGraph(**load_tensors(folder / "graph.safetensors"), beams=config.beams, steps=config.steps)
    return ParallelRecommender(generator.eval(), SCALE, ids=ids, graph=graph)
