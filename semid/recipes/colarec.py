"""ColaRec: codes of behaviour, written by a generator that reads content, of users who look for items and of items. Data without order.

Source: Wang et al., "Content-Based Collaborative Generation for Recommender Systems", CIKM 2024, arXiv 2403.18480, and the settings of its
code on Phones. Status: paper's shape and defaults, from random weights; `colarec:small`, for machines without a GPU, reads an item as one
token; `colarec:no_index_task`, `colarec:no_contrast`, `colarec:no_ranking`, `colarec:no_content` (ids without words), `colarec:no_id`
(words without ids) and `colarec:random_codes` are ablations; `colarec:two_level` puts the codes under semid's own generator.
Deviations: (1) those of `tokenizers.colarec` and `generators.colarec`; (2) a user is asked about by his latest `max_history` items;
seen items stay in the lists or not as the evaluation says (the code removes them).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from semid.coding import Coder, made_once
from semid.collaborative import behaviour_vectors
from semid.config import ReadWhere
from semid.data.indexing import IndexingBatches
from semid.data.pairs import SetBatches
from semid.encoders.text import item_texts
from semid.encoders.words import word_rows
from semid.errors import DataError
from semid.generation import OF_TWO_LEVEL, refuse_nested
from semid.generators import colarec as generators
from semid.objectives.colarec import ColaRec as Loss
from semid.recipes import lightgcn, semid
from semid.recipes.lightgcn import Config as LightGCNSettings
from semid.recipes.semid import Config as TwoLevel
from semid.recipes.tiger import fit_generator
from semid.recommenders import CodeRecommender, load_tensors, read_codes
from semid.tokenizers.colarec import ColaRec
from semid.tokenizers.collisions import extra_level
from semid.training.fit import Optimization
from semid.training.job import Job
from semid.tree import CodeTree
from semid.types import Catalog, SemanticIds, Split

SMALL = Optimization(learning_rate=2e-3, beta2=0.999, warmup=200, clip=1.0)
VARIANTS: dict[str, dict[str, object]] = {
    "small": {"is_bag": True, "words": 12, "width": 64, "heads": 4, "head_width": 16, "layers": 2, "feedforward": 256, "epochs": 4,
              "beams": 20, "optimization": SMALL},
    "no_index_task": {"has_index_task": False},
    "no_contrast": {"contrast": 0.0},
    "no_ranking": {"ranking": 0.0},
    "no_content": {"words": 0},
    "no_id": {"has_ids": False},
    "random_codes": {"cf": "random"},
    "two_level": {"is_two_level": True},
}
BEHAVIOUR = "colarec:cf"
"""The view that the tokenizer reads; the two-level generator has a view "cf" of its own."""


@dataclass(frozen=True)
class Config:
    """cf: lightgcn (trained here), random (vectors that mean nothing), or another source of `behaviour_vectors`. codes:
    published codes in place of the tokenizer, a column of the items table or a file X.index.json. levels, size: the codes, of at least as
    many paths as there are items. words: of an item that the generator reads, at most, 0 = none; has_ids, is_bag, max_tokens: see the
    generator. generation, ranking, contrast, has_index_task: the loss, see `objectives.colarec`. sampled: items of a history in training;
    max_history: in use. epochs at most; look_every: epochs between looks at validation; patience: looks without a better NDCG@10.
    two_level: settings of semid's generator, which takes the codes instead where is_two_level.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        **OF_TWO_LEVEL, ("codes", None): ("cf", "levels", "size", "lightgcn"),
        ("is_two_level", False): (
            "words", "has_ids", "is_bag", "width", "heads", "head_width", "layers", "feedforward", "dropout", "max_tokens", "generation",
            "ranking", "contrast", "has_index_task", "sampled", "max_history", "batch_size", "epochs", "look_every", "patience", "beams",
            "optimization")}

    cf: str = "lightgcn"
    codes: str | None = None
    levels: int = 3
    size: int = 32
    words: int = 29
    has_ids: bool = True
    is_bag: bool = False
    width: int = 512
    heads: int = 8
    head_width: int = 64
    layers: int = 6
    feedforward: int = 2048
    dropout: float = 0.1
    max_tokens: int = 256
    generation: float = 0.08
    ranking: float = 1.0
    contrast: float = 0.1
    has_index_task: bool = True
    sampled: int = 10
    max_history: int = 20
    batch_size: int = 128
    epochs: int = 60
    look_every: int = 1
    patience: int = 10
    beams: int = 100
    is_two_level: bool = False
    lightgcn: LightGCNSettings = LightGCNSettings()
    two_level: TwoLevel = TwoLevel()
    optimization: Optimization = Optimization(learning_rate=5e-4, beta2=0.999, warmup=1, schedule="constant", clip=1.0)

    def __post_init__(self):
        refuse_nested(self.two_level)


def smoke() -> Config:
    return Config(size=4, words=4, width=32, heads=2, head_width=16, layers=1, feedforward=64, dropout=0.0, max_history=10, batch_size=128,
                  epochs=8, look_every=4, beams=20, lightgcn=lightgcn.smoke(), two_level=semid.smoke(),
                  optimization=replace(SMALL, learning_rate=5e-3, warmup=20))


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    torch.manual_seed(job.seed)
    words = None if config.is_two_level else words_of(config, data.catalog)  # before minutes go into the codes
    ids = made_once(config.codes, lambda: coder(config, data, job).codes(data, job), data, job)
    if words is None:
        catalog, views = semid.with_views(config.two_level.text, config.two_level.cf_dim, data, job)
        return semid.generate(config.two_level, ids, catalog, views, data, job)
    generator = build(config, ids, *words, num_users=len(data.train.users)).to(job.device)
    recommender = CodeRecommender(generator, ids, CodeTree.build(ids).to(job.device), config.beams, job.device, config.max_history)
    sets = SetBatches(data.train, max_length=config.sampled, batch_size=config.batch_size, seed=job.seed)
    batches = IndexingBatches(sets, ids.codes[:, :-1], seed=job.seed)
    loss = Loss(config.generation, config.ranking, config.contrast, config.has_index_task)
    epoch = batches.steps_per_epoch
    fit_generator(recommender, loss, batches, data, job, steps=config.epochs * epoch, optimization=config.optimization,
                  look_every=config.look_every * epoch, patience=config.patience)
    return recommender


def coder(config: Config, data: Split, job: Job) -> Coder:
    tokenizer = ColaRec(BEHAVIOUR, levels=config.levels, size=config.size)
    tokenizer.want_room(len(data.catalog))  # before minutes go into the vectors
    return Coder(tokenizer, data.catalog.with_view(BEHAVIOUR, behaviour(config, data, job)), extra_level)


def behaviour(config: Config, data: Split, job: Job) -> np.ndarray:
    """Return float32 [N, D] of what users did in the training rows, zeros where nobody took an item."""
    if config.cf == "random":
        return np.random.default_rng(job.seed).normal(size=(len(data.catalog), config.lightgcn.width)).astype(np.float32)
    return behaviour_vectors(config.cf, data, job, width=config.lightgcn.width, lightgcn_settings=config.lightgcn)


def words_of(config: Config, catalog: Catalog) -> tuple[Tensor, int]:
    """Return (int64 [N, W] numbers of the items' words, -1 pads right; how many numbers there are). Raises `DataError` without texts."""
    texts = item_texts(catalog)
    if config.words and not any(texts):
        raise DataError("colarec reads the words of items, but the catalogue has no text; give items with text (--items), or take "
                        "colarec:no_content, which reads ids alone")
    rows, count = word_rows(texts, config.words)
    return torch.from_numpy(rows), count


def build(config: Config, ids: SemanticIds, words: Tensor, num_words: int, *, num_users: int) -> generators.ColaRec:
    return generators.ColaRec(ids, words, num_words=num_words, num_users=num_users, width=config.width, heads=config.heads,
                              head_width=config.head_width, layers=config.layers, feedforward=config.feedforward, dropout=config.dropout,
                              max_tokens=config.max_tokens, has_ids=config.has_ids, is_bag=config.is_bag)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    if config.is_two_level:
        recommender = semid.load(config.two_level, catalog, folder)
        assert isinstance(recommender, CodeRecommender)  # two_level.fusion is for the recipe semid alone
        return recommender
    ids, weights = read_codes(folder / "codes.parquet"), load_tensors(folder / "generator.safetensors")
    generator = build(config, ids, weights["words"][:-1], len(weights["input.weight"]) - generators.FIRST - len(ids),
                      num_users=len(weights["user.weight"]) - 1)
    generator.load_state_dict(weights)
    return CodeRecommender(generator.eval(), ids, CodeTree.build(ids), config.beams, max_history=config.max_history)
