"""What the lists are like apart from being right: how much of the catalogue they show, how new, varied and fair to a taste.

Two kinds. Properties of all lists together start from `exposure` and are one number; the others give float64 [B], one value a
case, with NaN where a case has no such value (an empty list, a list of one item for a distance, a history without categories).

Axes: B cases, K list length, N items, D width, L levels, G categories, E events.
"""

from __future__ import annotations

import numpy as np

from semid.errors import DataError
from semid.types import Catalog, Interactions, Recommendations, SemanticIds

CHUNK = 4_000_000
"""Numbers gathered at a time: bounds the working memory to some tens of MB."""

CATEGORIES = ("category", "categories", "genre", "genres", "main_category", "brand")
"""Columns of the catalogue that may name an item's category; the first that is there does."""

MOST_CATEGORIES = 1000
"""Calibration compares shares over categories; beyond so many they are names, not categories."""


def exposure(recommendations: Recommendations, num_items: int, k: int) -> np.ndarray:
    """Return int64 [N]: in how many of the lists each item is among the first k."""
    shown = recommendations.item[:, :k]
    return np.bincount(shown[shown >= 0], minlength=num_items)


def coverage(exposure: np.ndarray) -> float:
    """Return the share of the catalogue that is shown to anybody."""
    return float((exposure > 0).mean())


def gini(exposure: np.ndarray) -> float:
    """Return the Gini index of exposure over all items: 0 if all are shown equally often, 1 - 1/N if one takes all.

    Half the mean absolute difference between two items, relative to the mean.
    """
    n, total = len(exposure), exposure.sum()
    return float(((2 * np.arange(1, n + 1) - n - 1) * np.sort(exposure)).sum() / (n * total)) if total else float("nan")


def entropy(exposure: np.ndarray) -> float:
    """Return the Shannon entropy of exposure in bits; 2 to this power is the number of items shown in effect."""
    if not exposure.sum():
        return float("nan")
    share = exposure[exposure > 0] / exposure.sum()
    return float(-(share * np.log2(share)).sum())


def known_share(train: Interactions) -> np.ndarray:
    """Return float64 [N]: the share of the training users who had each item."""
    pairs = np.unique(train.user.astype(np.int64) * len(train.items) + train.item)
    users = np.bincount(pairs % len(train.items), minlength=len(train.items))
    return users / max(1, len(np.unique(train.user)))


def long_tail(popularity: np.ndarray, *, head: float = 0.8) -> np.ndarray:
    """Return bool [N]: True for all items but the fewest that make up the share `head` of the events.

    popularity: int64 [N] training events. Ties go to the lower row.

    >>> long_tail(np.array([1, 7, 1, 1])).tolist()
    [False, False, True, True]
    """
    order = np.argsort(-popularity, kind="stable")
    above = np.cumsum(popularity[order]) - popularity[order]
    tail = np.empty(len(popularity), dtype=bool)
    tail[order] = above >= head * popularity.sum()
    return tail


def _list_mean(recommendations: Recommendations, value: np.ndarray, k: int) -> np.ndarray:
    """Return float64 [B]: the mean of float64 [N] `value` over the first k items of each list."""
    item = recommendations.item[:, :k]
    filled = item >= 0
    total = np.where(filled, value[item], 0).sum(axis=1)
    return _ratio(total, filled.sum(axis=1))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)


def novelty(recommendations: Recommendations, known: np.ndarray, k: int) -> np.ndarray:
    """Return the expected popularity complement: the mean over the list of 1 - (share of users who had the item).

    known: float64 [N] of `known_share`. Source: EPC of Vargas & Castells, RecSys 2011, without discount and relevance.
    """
    return _list_mean(recommendations, 1 - known, k)


def arp(recommendations: Recommendations, popularity: np.ndarray, k: int) -> np.ndarray:
    """Return the average recommendation popularity: the mean of the items' training events.

    Source: Yin et al., VLDB 2012; the name is Abdollahpouri et al.'s, FLAIRS 2019.
    """
    return _list_mean(recommendations, popularity.astype(np.float64), k)


def aplt(recommendations: Recommendations, tail: np.ndarray, k: int) -> np.ndarray:
    """Return the share of long-tail items in the list. tail: bool [N] of `long_tail`. Source: as `arp`."""
    return _list_mean(recommendations, tail.astype(np.float64), k)


def popularity_lift(recommendations: Recommendations, popularity: np.ndarray, history_popularity: np.ndarray, k: int) -> float:
    """Return how much more popular the lists are than the histories: mean ARP / mean popularity in the histories - 1.

    history_popularity: float64 [B] of `history_mean`. 0 = as popular as what people took before.
    Source: Abdollahpouri et al., RecSys 2020, with all users as one group.
    """
    lists = arp(recommendations, popularity, k)
    both = np.isfinite(lists) & np.isfinite(history_popularity)
    before = history_popularity[both].sum()  # 0 where the histories hold nothing but items that nobody took in training
    return float(lists[both].sum() / before - 1) if before else float("nan")


def history_mean(item: np.ndarray, begin: np.ndarray, end: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return float64 [B, ...]: the mean of `value` [N, ...] over each history `item[begin:end]`; NaN where it is empty."""
    length = end - begin
    mean = np.full((len(begin), *value.shape[1:]), np.nan)
    width = int(np.prod(value.shape[1:], dtype=np.int64))
    cut = np.flatnonzero(np.diff(np.cumsum(length) * width // CHUNK, prepend=-1))
    for rows in np.split(np.arange(len(begin)), cut[1:]):
        rows = rows[length[rows] > 0]
        if not len(rows):
            continue
        start = np.cumsum(length[rows]) - length[rows]
        event = np.repeat(begin[rows] - start, length[rows]) + np.arange(length[rows].sum())
        total = np.add.reduceat(value[item[event]].astype(np.float64), start, axis=0)
        mean[rows] = total / length[rows].reshape(-1, *[1] * (value.ndim - 1))
    return mean


def diversity(recommendations: Recommendations, vectors: np.ndarray, k: int) -> np.ndarray:
    """Return the mean cosine distance (0 to 2) over the pairs of the list.

    vectors: float [N, D]; a zero vector counts as at right angles to all. O(B k D), as the products of all pairs add up to the
    squared length of the sum. Source: intra-list diversity, Ziegler et al., WWW 2005.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    value = np.empty(len(recommendations.item))
    for begin in range(0, len(value), step := max(1, CHUNK // (k * vectors.shape[1]))):
        item = recommendations.item[begin : begin + step, :k]
        filled = (item >= 0)[:, :, None]
        own = np.where(filled, unit[item], 0).astype(np.float64)  # [b, k, D]
        n = filled.sum(axis=(1, 2))
        same = (own.sum(axis=1) ** 2).sum(axis=1) - (own**2).sum(axis=(1, 2))
        value[begin : begin + step] = 1 - _ratio(same, n * (n - 1))
    return value


def code_diversity(recommendations: Recommendations, ids: SemanticIds, k: int) -> np.ndarray:
    """Return the mean distance in codes (0 to 1) over the pairs of the list.

    The distance of two items is the share of levels below their common prefix (order "sequence": how far up the tree they meet)
    or the share of digits that differ (order "set"). Padding on both sides counts as equal. O(B k^2 L).
    """
    value = np.empty(len(recommendations.item))
    for begin in range(0, len(value), step := max(1, CHUNK // (k * k * ids.levels))):
        item = recommendations.item[begin : begin + step, :k]
        filled = item >= 0
        code = ids.codes[item]  # [b, k, L]
        equal = code[:, :, None] == code[:, None]  # [b, k, k, L]
        if ids.order == "sequence":
            equal = np.logical_and.accumulate(equal, axis=3)
        pair = filled[:, :, None] & filled[:, None] & ~np.eye(item.shape[1], dtype=bool)
        value[begin : begin + step] = _ratio(((~equal).mean(axis=3) * pair).sum(axis=(1, 2)), pair.sum(axis=(1, 2)))
    return value


def category_column(catalog: Catalog) -> str | None:
    """Return the first column of `CATEGORIES` there is, in any case."""
    names = {name.lower(): name for name in catalog.table.column_names}
    return next((names[name] for name in CATEGORIES if name in names), None)


def known_categories(catalog: Catalog) -> np.ndarray | None:
    """Return `category_shares` of the catalogue's own category column; None where there is none, it is
    empty, or they are too many to be categories."""
    column = category_column(catalog)
    shares = None if column is None else category_shares(catalog, column)
    return shares if shares is not None and 0 < shares.shape[1] <= MOST_CATEGORIES else None


def category_shares(catalog: Catalog, column: str) -> np.ndarray:
    """Return float32 [N, G]: each item's weight 1, shared equally among its categories; a row of zeros where it has none.

    column: an attribute of the catalogue, one value an item or a list of values. Categories are in alphabetical order.
    """
    if column not in catalog.table.column_names:
        raise DataError(f"categories: want a column of the catalogue ({', '.join(catalog.table.column_names)}), got {column!r}")
    values = [v if isinstance(v, list) else [v] for v in catalog.table[column].to_pylist()]
    values = [sorted({str(c) for c in v if c is not None and c != ""}) for v in values]
    names = {name: g for g, name in enumerate(sorted(set().union(*values)))}
    share = np.zeros((len(catalog), len(names)), dtype=np.float32)
    for row, own in enumerate(values):
        share[row, [names[name] for name in own]] = 1 / max(1, len(own))
    return share


def category_entropy(recommendations: Recommendations, shares: np.ndarray, k: int) -> np.ndarray:
    """Return the Shannon entropy in bits of the categories in the list: 0 = all of one, log2 G = all categories alike.

    shares: float [N, G] of `category_shares`. Items without a category are left out.
    Source: Entropy@k of tags, arXiv 2511.10492.
    """
    value = np.empty(len(recommendations.item))
    for begin in range(0, len(value), step := max(1, CHUNK // (k * shares.shape[1]))):
        item = recommendations.item[begin : begin + step, :k]
        mass = np.where((item >= 0)[:, :, None], shares[item], 0).sum(axis=1, dtype=np.float64)  # [b, G]
        total = mass.sum(axis=1, keepdims=True)
        part = mass / np.maximum(total, 1e-12)
        value[begin : begin + step] = np.where(total[:, 0] > 0, -(part * np.log2(np.where(part > 0, part, 1))).sum(axis=1), np.nan)
    return value


def miscalibration(
    recommendations: Recommendations, shares: np.ndarray, history: np.ndarray, k: int, *, alpha: float = 0.01
) -> np.ndarray:
    """Return the divergence KL(p || (1 - alpha) q + alpha p) in nats, of the categories in the list q from the history's p.

    shares: float [N, G] of `category_shares`; history: float64 [B, G], `history_mean` of them. 0 = the list has the tastes of
    the history in their proportions. Items without a category are left out.
    Source: Steck, Calibrated recommendations, RecSys 2018, equations 2 to 5, with equal weights.
    """
    value = np.empty(len(recommendations.item))
    for begin in range(0, len(value), step := max(1, CHUNK // (k * shares.shape[1]))):
        item = recommendations.item[begin : begin + step, :k]
        q = np.where((item >= 0)[:, :, None], shares[item], 0).sum(axis=1, dtype=np.float64)
        p = np.nan_to_num(history[begin : begin + step])
        empty = (p.sum(axis=1) == 0) | (q.sum(axis=1) == 0)
        p = p / np.maximum(p.sum(axis=1, keepdims=True), 1e-12)
        q = q / np.maximum(q.sum(axis=1, keepdims=True), 1e-12)
        smooth = (1 - alpha) * q + alpha * p
        ratio = np.divide(p, smooth, out=np.ones_like(p), where=p > 0)
        value[begin : begin + step] = np.where(empty, np.nan, (p * np.log(ratio)).sum(axis=1))
    return value
