"""From a fitted tokenizer, or from published codes, to the semantic ids that a recipe generates: said to the log, kept in the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from semid.data.letter import codes_of_tokens, read_index_json
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
    differ in places.
    """
    file = None if job.out is None else job.out / "codes.parquet"
    if job.resume and file is not None and file.exists():
        return read_codes(file)
    ids = published(source, data, job) if source else tokenize()
    if file is not None:
        write_codes(file, ids)
    return ids


def coded(tokenizer: Tokenizer, catalog: Catalog, policy: CollisionPolicy, data: Split, job: Job) -> SemanticIds:
    """Return the catalogue's codes after the collision policy; the tokenizer is saved into the run folder."""
    before = tokenizer.assign(catalog)
    distances = tokenizer.distances(catalog, before.codes)
    ids = policy(before, distances, data.train.counts)
    job.log.write("tokenizer", health=health(before), collisions=collision_report(before, ids, distances))
    if job.out is not None:
        tokenizer.save(job.out / "tokenizer.safetensors")
    return ids


def published(source: str, data: Split, job: Job) -> SemanticIds:
    """Return codes that somebody else made, in place of a tokenizer's.

    source: a column of the items table with a list of tokens an item (`["<a_3>", "<b_17>"]`), or a file `X.index.json` with such lists
    by item id. Items that share their codes are told apart by other last codes, the lowest free ones; the most popular keeps its own.
    Raises `DataError` for an unknown column, a file that cannot be read, and items without codes.
    """
    catalog = data.catalog
    if source.endswith((".json", ".json.gz")):
        ids = read_index_json(Path(source), catalog.items)
    elif source in catalog.table.column_names:
        ids = codes_of_tokens(catalog.table[source].to_pylist(), catalog.items, f"column {source!r}")
    else:
        columns = catalog.table.column_names
        raise DataError(f"codes={source}: want a column of the items table{did_you_mean(source, columns)} or a file X.index.json; "
                        f"the columns are: {', '.join(columns)}")
    known = np.zeros((len(ids), ids.sizes[-1]), np.float32)  # nothing is known of distances: the lowest free code is the nearest
    unique = next_free(ids, known, data.train.counts)
    job.log.write("tokenizer", health=health(ids), collisions=collision_report(ids, unique, known))
    return unique
