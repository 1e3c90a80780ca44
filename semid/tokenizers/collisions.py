"""What to do with items that receive the same codes. Each policy is a function (ids, distances, popularity) -> ids.

exact, every item gets its own codes, identical vectors included:
    extra_level        one more level, a running number inside the group (TIGER; GRID)
    popularity_rank    one more level, the popularity rank inside the group (MMGRec)
    next_free          the nearest free last-level code under the same prefix; popular items keep theirs
    minimum_cost       the last-level codes of a whole prefix dealt anew at the least total distance
at best effort, leftovers reported:
    sinkhorn           colliding groups spread evenly over the last level (LC-Rec)

The policies that move items keep the first L-1 codes. If more items than last-level codes share a prefix, no assignment
exists: the ids get one more level, 0 for the most popular V items of each prefix, 1 for the next V, and so on.

`collision_report` compares the ids before and after. Items that come later get free codes by the same idea, and nobody else
moves: `nearest_free_code` after `next_free` or `minimum_cost`, `next_number` after `extra_level`.

Axes: N items, n new items, L levels, V codes of the last level, G items that share a prefix.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch

from semid.errors import DataError
from semid.nn.loop import loop
from semid.nn.quantize import sinkhorn_plan
from semid.tokenizers.groups import colliding_groups, group_sizes, groups
from semid.types import SemanticIds

log = logging.getLogger(__name__)


def extra_level(ids: SemanticIds, distances: np.ndarray, popularity: np.ndarray, *,
                is_unique_zero: bool = False) -> SemanticIds:
    """Append the item's running number among those with its codes: 0, 1, 2, ... in row order (TIGER).

    is_unique_zero: 0 is kept for items that are alone, groups count 1, 2, ... (GRID).
    """
    return _append_rank(ids, np.zeros(len(ids)), "extra level", is_unique_zero=is_unique_zero)


def popularity_rank(ids: SemanticIds, distances: np.ndarray, popularity: np.ndarray) -> SemanticIds:
    """Append the item's rank by popularity among those with its codes, 0 = the most popular; ties in row order.

    Source: MMGRec, arXiv 2404.16555, section 3.2.
    """
    return _append_rank(ids, -popularity, "popularity rank")


def next_free(ids: SemanticIds, distances: np.ndarray, popularity: np.ndarray) -> SemanticIds:
    """Move each item that does not own its codes to the nearest free last-level code under the same prefix.

    The most popular item of a group (ties: the lowest row) keeps its code; the others choose in order of popularity.
    """
    def deal(codes: np.ndarray, cost: np.ndarray) -> np.ndarray:
        codes = codes.copy()
        is_first = np.zeros(len(codes), dtype=bool)
        is_first[np.unique(codes, return_index=True)[1]] = True
        is_free = np.ones(cost.shape[1], dtype=bool)
        is_free[codes] = False
        for row in np.flatnonzero(~is_first):
            codes[row] = np.where(is_free, cost[row], np.inf).argmin()
            is_free[codes[row]] = False
        return codes

    return _deal_prefixes(ids, distances, popularity, deal, "next free code")


def minimum_cost(ids: SemanticIds, distances: np.ndarray, popularity: np.ndarray) -> SemanticIds:
    """Deal the last-level codes of each prefix with collisions anew, at the least sum of squared distances.

    Source: zero-collision reassignment, arXiv 2605.25330. Optimal per prefix; never costs more than `next_free`.
    """
    return _deal_prefixes(ids, distances, popularity, lambda codes, cost: assign_rows(cost.astype(np.float64)), "minimum cost")


def sinkhorn(ids: SemanticIds, distances: np.ndarray, popularity: np.ndarray, *, epsilon: float = 0.003,
             iterations: int = 50, rounds: int = 20) -> SemanticIds:
    """Give each colliding group new last-level codes by an even transport plan, until nothing collides or `rounds` pass.

    Not exact: identical vectors stay together, and a group may run into a neighbour; what is left is logged.

    Source: LC-Rec, arXiv 2311.09049, section 3.1; epsilon, iterations and rounds of its code.
    """
    codes = ids.codes.copy()
    for _ in range(rounds):
        shared = list(colliding_groups(codes))
        if not shared:
            break
        for rows in shared:
            plan = sinkhorn_plan(torch.from_numpy(distances[rows]), epsilon=epsilon, iterations=iterations)
            codes[rows, -1] = plan.argmax(1).numpy()
    repaired = SemanticIds(codes, ids.sizes, ids.order, _sourced(ids, "Sinkhorn repair"))
    if left := len(repaired) - repaired.num_distinct:
        log.warning("Sinkhorn repair: %d of %d items still share their codes after %d rounds", left, len(repaired), rounds)
    return repaired


def nearest_free_code(taken: SemanticIds, wanted: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Return codes [n, taken.levels] for new items, in their order: the wanted last code where it is free, else the nearest free one.

    wanted: integer [n, L] of the tokenizer; distances float32 [n, V] as of `Tokenizer.distances`. Where `taken` has one level
    more (too many items under a prefix), its values are filled one after another. Raises `DataError` where a prefix is full.
    """
    turns = taken.sizes[-1] if taken.levels > wanted.shape[1] else 1
    used = _under(taken.codes, wanted[:, :-1])
    codes = np.zeros((len(wanted), taken.levels), np.int32)
    codes[:, : wanted.shape[1]] = wanted
    for row, prefix in enumerate(map(tuple, wanted[:, :-1].tolist())):
        for turn in range(turns):
            tail = (turn,) if taken.levels > wanted.shape[1] else ()
            cost = [np.inf if (code, *tail) in used[prefix] else at for code, at in enumerate(distances[row].tolist())]
            best = int(np.argmin(cost))
            if cost[best] < np.inf:
                codes[row, len(prefix) :] = (best, *tail)
                used[prefix].add((best, *tail))
                break
        else:
            raise DataError(f"new item {row} (from 0): all {len(cost)} codes under its prefix {prefix} are taken; "
                            "train again with larger codebooks or more levels")
    return codes


def next_number(taken: SemanticIds, wanted: np.ndarray, distances: np.ndarray, *, is_unique_zero: bool = False) -> np.ndarray:
    """Return codes [n, taken.levels] for new items: the wanted codes, and the lowest free number behind them.

    is_unique_zero: as in `extra_level`; 0 only where nobody has these codes yet. Raises `DataError` where no number is left.
    """
    used = _under(taken.codes, wanted)
    codes = np.zeros((len(wanted), taken.levels), np.int32)
    codes[:, :-1] = wanted
    for row, group in enumerate(map(tuple, wanted.tolist())):
        first = int(is_unique_zero and bool(used[group]))
        number = next((n for n in range(first, taken.sizes[-1]) if (n,) not in used[group]), None)
        if number is None:
            raise DataError(f"new item {row} (from 0): its codes {group} have all {taken.sizes[-1]} numbers that this model knows; "
                            "train again with the new items")
        codes[row, -1] = number
        used[group].add((number,))
    return codes


def _under(codes: np.ndarray, prefixes: np.ndarray) -> defaultdict[tuple[int, ...], set[tuple[int, ...]]]:
    """Return {prefix: the tails that items have behind it}, for the given prefixes [n, l] alone."""
    length = prefixes.shape[1]
    both, _ = groups(np.concatenate([codes[:, :length], prefixes]))
    found: defaultdict[tuple[int, ...], set[tuple[int, ...]]] = defaultdict(set)
    for path in codes[np.isin(both[: len(codes)], both[len(codes) :])].tolist():
        found[tuple(path[:length])].add(tuple(path[length:]))
    return found


def collision_report(before: SemanticIds, after: SemanticIds, distances: np.ndarray) -> dict[str, float]:
    """Say what a policy did.

    rate = (N - distinct) / N before and after; colliding_share = items in groups of 2 or more / N; largest_group;
    moved = items whose codes of the old levels changed; added_levels; distortion = mean squared distance to the
    last-level code, after over before (1 = nothing lost).
    """
    levels, rows = before.levels, np.arange(len(before))
    cost = [float(distances[rows, ids.codes[:, levels - 1]].mean(dtype=np.float64)) for ids in (before, after)]
    size_before, size_after = group_sizes(before.codes), group_sizes(after.codes)
    return {
        "rate_before": 1 - before.num_distinct / len(before),
        "rate_after": 1 - after.num_distinct / len(after),
        "colliding_share_before": float((size_before > 1).mean()),
        "colliding_share_after": float((size_after > 1).mean()),
        "largest_group_before": int(size_before.max()),
        "largest_group_after": int(size_after.max()),
        "moved": int((before.codes != after.codes[:, :levels]).any(axis=1).sum()),
        "added_levels": after.levels - levels,
        "distortion": cost[1] / cost[0] if cost[0] > 0 else 1.0,
    }


@loop()
def assign_rows(cost: np.ndarray) -> np.ndarray:
    """Return int64 [G], a different column for each row, with the least total cost. cost float64 [G, V], G <= V. O(G^2 V).

    Shortest augmenting paths with potentials. Source: Jonker and Volgenant 1987; Crouse 2016 for the rectangular case.
    """
    num_rows, num_columns = cost.shape
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns)
    column_of, row_of = np.full(num_rows, -1), np.full(num_columns, -1)
    came_from = np.empty(num_columns, dtype=np.int64)
    for start in range(num_rows):
        shortest = np.full(num_columns, np.inf)
        is_done = np.zeros(num_columns, dtype=np.bool_)
        row, length, end = start, 0.0, -1
        while end < 0:  # grow the tree of shortest paths until it meets a free column
            near, nearest_length = -1, np.inf
            for column in range(num_columns):
                if is_done[column]:
                    continue
                through = length + cost[row, column] - row_price[row] - column_price[column]
                if through < shortest[column]:
                    shortest[column], came_from[column] = through, row
                # among equally near columns a free one ends the search
                if shortest[column] < nearest_length or (shortest[column] == nearest_length and row_of[column] < 0):
                    near, nearest_length = column, shortest[column]
            length, is_done[near] = nearest_length, True
            if row_of[near] < 0:
                end = near
            else:
                row = row_of[near]
        row_price[start] += length
        for column in range(num_columns):
            if is_done[column] and column != end:
                row_price[row_of[column]] += length - shortest[column]
                column_price[column] -= length - shortest[column]
        column = end
        while True:  # flip the path
            row = came_from[column]
            row_of[column] = row
            column_of[row], column = column, column_of[row]
            if row == start:
                break
    return column_of


def _append_rank(ids: SemanticIds, key: np.ndarray, name: str, *, is_unique_zero: bool = False) -> SemanticIds:
    """Append each item's rank, by `key` [N] then row, among the items with its codes."""
    group, size = groups(ids.codes)
    order = np.lexsort((np.arange(len(ids)), key, group))
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    rank = np.empty(len(ids), dtype=np.int64)
    rank[order] = np.arange(len(ids)) - first[group[order]]
    if is_unique_zero:
        rank += size[group] > 1
    return _with_level(ids.codes, ids, rank, name)


def _with_level(codes: np.ndarray, ids: SemanticIds, level: np.ndarray, name: str) -> SemanticIds:
    size = int(level.max()) + 1
    return SemanticIds.of(np.column_stack([codes, level]), (*ids.sizes, size), ids.order, _sourced(ids, name))


def _deal_prefixes(ids: SemanticIds, distances: np.ndarray, popularity: np.ndarray,
                   deal: Callable[[np.ndarray, np.ndarray], np.ndarray], name: str) -> SemanticIds:
    """Let `deal(codes [G], cost [G, V]) -> codes [G]` choose new last-level codes for each prefix with collisions.

    Rows come most popular first. More than V rows are dealt V at a time, each time on a new value of an extra level.
    """
    codes, capacity = ids.codes.copy(), ids.sizes[-1]
    overflow = np.zeros(len(ids), dtype=np.int64)
    prefix, _ = groups(codes[:, :-1])
    crowded = np.unique(prefix[group_sizes(codes) > 1])
    order = np.lexsort((np.arange(len(ids)), -popularity, prefix))
    begin, end = (np.searchsorted(prefix[order], crowded, side=side) for side in ("left", "right"))
    for b, e in zip(begin, end, strict=True):
        for turn, start in enumerate(range(b, e, capacity)):
            rows = order[start:min(start + capacity, e)]
            codes[rows, -1] = deal(codes[rows, -1], distances[rows])
            overflow[rows] = turn
    if not overflow.any():
        return SemanticIds(codes, ids.sizes, ids.order, _sourced(ids, name))
    log.warning("%s: %d items have more neighbours under their prefix than the %d codes of the last level; "
                "one more level tells them apart", name, (overflow > 0).sum(), capacity)
    return _with_level(codes, ids, overflow, name)


def _sourced(ids: SemanticIds, name: str) -> str:
    return f"{ids.source} + {name}".removeprefix(" + ")
