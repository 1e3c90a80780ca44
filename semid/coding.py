"""From a fitted tokenizer, or from published codes, to the semantic ids that a recipe generates: said to the log, kept in the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from semid.data.letter import PUBLISHED_FILES, codes_of_tokens, read_index_json
from semid.errors import DataError, did_you_mean
from semid.protocols import CollisionPolicy, Tokenizer
from semid.recommenders import read_codes, write_codes
from semid.tokenizers.collisions import collision_report, next_free
from semid.tokenizers.health import health
from semid.training.job import Job
from semid.types import Catalog, SemanticIds, Split


def made_once(source: str | None, tokenize: Callable[[], SemanticIds], data: Split, job: Job) -> SemanticIds:
    """Return the run's codes: published ones where `source` names some, else what `tokenize` makes.

    A run that goes on reads the codes it was trained on: made again on another machine, or with another number of threads, they may
    differ in places. What making them draws leaves torch's random state as it was, so that training starts the same.
    """
    file = None if job.out is None else job.out / "codes.parquet"
    if job.resume and file is not None and file.exists():
        return read_codes(file)
    with torch.random.fork_rng(devices=[] if job.device == "cpu" else None):
        ids = published(source, data, job) if source else tokenize()
    if file is not None:
        write_codes(file, ids)
    return ids


@dataclass(frozen=True)
class Coder:
    """How a recipe makes codes: its function `coder(config, data, job) -> Coder` says it before anything is fitted.

    tokenizer: not fitted yet; catalog: the data's, with the views that the tokenizer reads; policy: for items with equal codes.
    """

    tokenizer: Tokenizer
    catalog: Catalog
    policy: CollisionPolicy

    def codes(self, data: Split, job: Job) -> SemanticIds:
        """Fit the tokenizer and return what `coded` makes of it."""
        return coded(self.tokenizer.fit(self.catalog, seed=job.seed), self.catalog, self.policy, data, job)


@dataclass(frozen=True)
class Made:
    """before, ids: codes before and after the collision policy; collisions: their `collision_report`; unexplained: share of what the
    tokenizer encodes that is left after each level, in its own space, empty where nobody knows."""

    before: SemanticIds
    ids: SemanticIds
    collisions: dict[str, float]
    unexplained: list[float]

    def said(self, job: Job) -> Made:
        """Write the health of the codes to the log."""
        own = {"unexplained": self.unexplained} if self.unexplained else {}
        job.log.write("tokenizer", health=health(self.ids), collisions=self.collisions, **own)
        return self


def make(tokenizer: Tokenizer, catalog: Catalog, policy: CollisionPolicy, popularity: np.ndarray) -> Made:
    """Return the codes that a fitted tokenizer and the policy give the catalogue. popularity: int64 [N], from training rows."""
    before = tokenizer.assign(catalog)
    distances = tokenizer.distances(catalog, before.codes)
    ids = policy(before, distances, popularity)
    return Made(before, ids, collision_report(before, ids, distances), tokenizer.unexplained(catalog, before.codes))


def coded(tokenizer: Tokenizer, catalog: Catalog, policy: CollisionPolicy, data: Split, job: Job) -> SemanticIds:
    """Return the catalogue's codes after the collision policy; the tokenizer is saved into the run folder."""
    ids = make(tokenizer, catalog, policy, data.train.counts).said(job).ids
    if job.out is not None:
        tokenizer.save(job.out / "tokenizer.safetensors")
    return ids


def published(source: str, data: Split, job: Job) -> SemanticIds:
    """Return codes that somebody else made, in place of a tokenizer's; see `read_published`."""
    return read_published(source, data.catalog, data.train.counts).said(job).ids


def read_published(source: str, catalog: Catalog, popularity: np.ndarray) -> Made:
    """Return codes that somebody else made.

    source: a column of the items table with a list of tokens an item (`["<a_3>", "<b_17>"]`), or a file `X.index.json` with such lists
    by item id. Where some are shorter than others, a level gets one code more, which says that nothing follows: all have one length
    then. Items that share their codes are told apart by other last codes, the lowest free ones; the most popular keeps its own.
    Raises `DataError` for an unknown column, a file that cannot be read, and items without codes.
    """
    if source.endswith(PUBLISHED_FILES):
        before = read_index_json(Path(source), catalog.items)
    elif source in catalog.table.column_names:
        before = codes_of_tokens(catalog.table[source].to_pylist(), catalog.items, f"column {source!r}")
    else:
        columns = catalog.table.column_names
        raise DataError(f"codes={source}: want a column of the items table{did_you_mean(source, columns)} or a file X.index.json; "
                        f"the columns are: {', '.join(columns)}")
    before = filled(before)
    known = np.zeros((len(before), before.sizes[-1]), np.float32)  # nothing is known of distances: the lowest free code is the nearest
    ids = next_free(before, known, popularity)
    return Made(before, ids, collision_report(before, ids, known), [])


def filled(ids: SemanticIds) -> SemanticIds:
    """Return codes of one length: padding becomes one more code of each level that has any."""
    is_padding = ids.codes < 0
    if not is_padding.any():
        return ids
    sizes = np.array(ids.sizes)
    codes = np.where(is_padding, sizes, ids.codes)
    return replace(ids, codes=codes.astype(np.int32), sizes=tuple((sizes + is_padding.any(0)).tolist()))
