"""P5's item indexing: seven ways to name items without learning, under semid's two-level generator that reads the names alone.

Source: Hua et al., "How to Index Item IDs for Recommendation Foundation Models", SIGIR-AP 2023, arXiv 2305.06569. Status: the indexers,
not the language model; each is a variant (`p5:random`, `p5:independent`, `p5:title`, `p5:sequential`, `p5:collaborative`, `p5:semantic`,
`p5:hybrid`); `p5` alone is the best row of its logs: category paths with private last tokens (`p5:semantic_hybrid`).
`p5:two_level_random` and so on put the same names under semid's generator with all its inputs, so that they alone differ from `semid`.
Deviations: (1) codes stand for the pieces of text, see `tokenizers.p5`; (2) the generator is semid's, without its content, id embeddings
and node vectors, and not T5: no prompts, no weights learnt from text, no whole-word embedding (codes of an item are summed to one vector);
(3) the private token of hybrid names is an id embedding and vectors of the tree's nodes, which start at random and at zero.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch

from semid.coding import made_once
from semid.config import ReadWhere
from semid.errors import ConfigError, DataError
from semid.evaluation.beyond_accuracy import category_column
from semid.generation import NEVER, refuse_fusion
from semid.recipes import semid
from semid.recipes.semid import Config as TwoLevel
from semid.recommenders import CodeRecommender
from semid.tokenizers import p5
from semid.tokenizers.health import health
from semid.training.job import Job
from semid.types import Catalog, SemanticIds, Split

INDEXES = ("random", "independent", "title", "sequential", "collaborative", "semantic", "hybrid", "semantic_hybrid")
VARIANTS: dict[str, dict[str, object]] = {
    f"two_level_{index}" if is_two_level else index: {"index": index, "is_two_level": is_two_level}
    for index in INDEXES for is_two_level in (False, True)
    if is_two_level or index != INDEXES[-1]  # that is `p5` itself
}
PRIVATE = ("semantic_hybrid", "hybrid")


@dataclass(frozen=True)
class Config:
    """index: the naming; hybrid is collaborative with a private last token, semantic_hybrid is semantic with one.

    order: of the users whose events number the items; clusters, leaf: parts of a cluster, and the size that is not parted further;
    words: of a title. is_two_level: the generator reads all that semid's does. two_level: its settings; otherwise it reads names alone, and
    whether it has id embeddings and node vectors follows from the index.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        **NEVER, ("index", "sequential"): ("order",), ("index", "title"): ("words",),
        ("index", "collaborative", "hybrid"): ("clusters", "leaf"),
        ("is_two_level", True): tuple(f"two_level.{name}" for name in (
            "text", "cf_dim", "has_content", "has_time_gaps", "has_request_gap", "has_item_ids", "has_node_vectors"))}

    index: Literal["random", "independent", "title", "sequential", "collaborative", "semantic", "hybrid",
                   "semantic_hybrid"] = "semantic_hybrid"
    order: p5.Order = "original"
    clusters: int = 10
    leaf: int = 500
    words: int = 4
    is_two_level: bool = False
    two_level: TwoLevel = TwoLevel()

    def __post_init__(self):
        refuse_fusion(self.two_level)
        if self.clusters < 2 or self.leaf < 1 or self.words < 1:
            raise ConfigError(f"p5: want clusters of at least 2, leaf and words of at least 1, got clusters={self.clusters}, "
                              f"leaf={self.leaf}, words={self.words}")


def smoke() -> Config:
    return Config(leaf=20, clusters=4, two_level=semid.smoke())


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    torch.manual_seed(job.seed)
    ids = made_once(config.two_level.codes, lambda: _logged(names(config, data, job), job), data, job)
    catalog, views = data.catalog, ()
    if config.is_two_level:
        catalog, views = semid.with_views(config.two_level.text, config.two_level.cf_dim, data, job)
    return semid.generate(generator_settings(config), ids, catalog, views, data, job)


def _logged(ids: SemanticIds, job: Job) -> SemanticIds:
    job.log.write("tokenizer", health=health(ids))
    return ids


def names(config: Config, data: Split, job: Job) -> SemanticIds:
    """Return the codes of the index that `config` names. Raises `DataError` where the items lack what it is made of."""
    seed = job.seed
    match config.index:
        case "random":
            return p5.random_index(len(data.catalog), seed=seed)
        case "independent":
            return p5.independent_index(len(data.catalog))
        case "title":
            return p5.title_index(titles(data.catalog), words=config.words)
        case "sequential":
            return p5.sequential_index(data.train, order=config.order, seed=seed)
        case "collaborative" | "hybrid":
            return p5.collaborative_index(data.train, clusters=config.clusters, leaf=config.leaf, seed=seed)
        case "semantic" | "semantic_hybrid":
            return p5.semantic_index(category_paths(data.catalog))


def titles(catalog: Catalog) -> list[str]:
    """Return N titles, '' where there is none."""
    if (found := catalog.given_titles) is None:
        raise DataError("p5:title: want items with a text column title or name, got none; give items with titles (--items), "
                        "or take another index")
    return found


def category_paths(catalog: Catalog) -> list[list[str]]:
    """Return for each item its categories, coarse to fine as the items table lists them."""
    if (column := category_column(catalog)) is None:
        raise DataError("p5: the semantic indexes want a column of categories in the items table, a value or a list coarse to fine; "
                        f"its columns are: {', '.join(catalog.table.column_names)}; give one, or take p5:hybrid")
    values = [value if isinstance(value, list) else [value] for value in catalog.table[column].to_pylist()]
    return [[str(name) for name in path if name] for path in values]


def generator_settings(config: Config) -> TwoLevel:
    """Return the generator's settings: semid's, or without all that semid adds to names; then vectors of an item's own are there where
    its name ends in a private token, and nowhere else."""
    if config.is_two_level:
        return config.two_level
    is_private = config.index in PRIVATE
    return replace(config.two_level, has_content=False, has_time_gaps=False, has_item_ids=is_private, has_node_vectors=is_private)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    recommender = semid.load(generator_settings(config), catalog, folder)
    assert isinstance(recommender, CodeRecommender)  # fusion is for the recipe semid alone
    return recommender
