"""What people know of items, as priors for heads: the tags of a column, its bands where it holds numbers, or when an item came.

Axes: N items, C priors, E training events.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from semid.errors import DataError, did_you_mean
from semid.types import Catalog, Interactions

CAME = "first_seen"
"""The prior that is read from the log: when an item's first training event was."""


@dataclass(frozen=True)
class Priors:
    """names: C of them, such as "categories=Makeup"; tags: bool [N, C], every item carries one at least of each column;
    share: float32 [C], sum 1: the part of the training events whose item carries it, divided evenly where it carries several."""

    names: tuple[str, ...]
    tags: np.ndarray
    share: np.ndarray


def number_of(prior: str, names: tuple[str, ...]) -> int:
    """Return the place of a prior among the names. Raises `DataError` with the nearest one."""
    if prior not in names:
        raise DataError(f"unknown prior {prior!r}{did_you_mean(prior, names)}; this model knows: {', '.join(names)}")
    return names.index(prior)


def priors_of(catalog: Catalog, train: Interactions, columns: tuple[str, ...], *, most: int = 8) -> Priors:
    """Return the priors of the columns, side by side.

    columns: of the items table, text (one tag or a list of them) or numbers; `first_seen` is the time of an item's first training event.
    most: heads a column gives: its most frequent tags by training events (ties in alphabetical order), or as many bands of numbers,
    each with an even part of the events. Items with none of these tags, or no number, carry `column=other`.
    Raises `DataError` for an unknown column and for one that doesn't tell items apart.
    """
    if not columns:
        raise DataError("priors: want one column of the items table at least, got none")
    if most < 1:
        raise DataError(f"priors: want at least one tag of a column, got most={most}")
    parts = [_of_column(catalog, train, column, most) for column in columns]
    names = tuple(name for own, _ in parts for name in own)
    tags = np.concatenate([own for _, own in parts], axis=1)
    return Priors(names, tags, share_of(tags, train.counts))


def share_of(tags: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return `Priors.share` of tags, bool [N, C], of items taken `counts` int64 [N] times."""
    weight = (tags / tags.sum(1, keepdims=True) * counts[:, None]).sum(0)
    return (weight / max(weight.sum(), 1)).astype(np.float32)


def _of_column(catalog: Catalog, train: Interactions, column: str, most: int) -> tuple[list[str], np.ndarray]:
    table = catalog.table
    if column != CAME and column not in table.column_names:
        raise DataError(f"priors: want columns of the items table or {CAME!r}, got {column!r}{did_you_mean(column, table.column_names)}; "
                        f"the columns are: {', '.join(table.column_names)}")
    is_number = column == CAME or pa.types.is_integer(table[column].type) or pa.types.is_floating(table[column].type)
    found = _bands(column, _numbers(table, train, column), train.counts, most) if is_number else _tags(column, table, train.counts, most)
    names, tags = found
    if is_rest := not tags.any(1).all():
        names, tags = [*names, f"{column}=other"], np.column_stack([tags, ~tags.any(1)])
    if tags.shape[1] - is_rest < 1 or tags.shape[1] < 2:
        raise DataError(f"priors: column {column!r} doesn't tell items apart; want at least two tags, or numbers that differ")
    return names, tags


def _tags(column: str, table: pa.Table, counts: np.ndarray, most: int) -> tuple[list[str], np.ndarray]:
    values = [value if isinstance(value, list) else [value] for value in table[column].to_pylist()]
    own = [{str(tag) for tag in value if tag is not None and tag != ""} for value in values]
    events: Counter[str] = Counter()
    for tags, count in zip(own, counts.tolist(), strict=True):
        events.update(dict.fromkeys(tags, count))
    kept = sorted(events, key=lambda tag: (-events[tag], tag))[:most]
    return [f"{column}={tag}" for tag in kept], np.array([[tag in tags for tag in kept] for tags in own], bool).reshape(len(own), len(kept))


def _numbers(table: pa.Table, train: Interactions, column: str) -> np.ndarray:
    if column != CAME:
        return table[column].cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)  # nulls become NaN
    first = np.full(len(train.items), np.inf)
    np.minimum.at(first, train.item, train.time.astype(np.float64))
    return np.where(np.isfinite(first), first, np.nan)


def _bands(column: str, value: np.ndarray, counts: np.ndarray, most: int) -> tuple[list[str], np.ndarray]:
    known = np.isfinite(value)
    order = np.argsort(value[known], kind="stable")
    number, weight = value[known][order], np.cumsum(counts[known][order])
    if not len(number):
        return [], np.zeros((len(value), 0), bool)
    starts = np.searchsorted(weight, np.arange(most) * weight[-1] / most, side="right")
    edges = np.unique(number[np.minimum(starts, len(number) - 1)])
    edges[0] = number[0]
    names = [f"{column}={_said(column, low)}.." for low in edges]
    names = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]  # days of one date
    band = np.searchsorted(edges, value, side="right") - 1
    return names, known[:, None] & (band[:, None] == np.arange(len(edges)))


def _said(column: str, value: float) -> str:
    if column == CAME:
        return str(np.datetime64(int(value), "s").astype("datetime64[D]")) if value > 1e8 else f"{value:.12g}"
    return f"{value:.12g}"
