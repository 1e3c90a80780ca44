"""Rows that are left out on request: repeated pairs, thin users and items, short histories. Each returns what it removed."""

from __future__ import annotations

from typing import Literal

import numpy as np

from semid.data.events import Arrays
from semid.data.report import Step
from semid.errors import DataError


def first_of_pair(arrays: Arrays, *, last: bool = False) -> np.ndarray:
    """bool [E]: whether an event is the first (or last) of its user with its item, in the order of the events."""
    pair = arrays.user.astype(np.int64) * len(arrays.item_ids) + arrays.item
    pair = pair[::-1] if last else pair
    mask = np.zeros(len(pair), dtype=bool)
    mask[np.unique(pair, return_index=True)[1]] = True
    return mask[::-1] if last else mask


def drop_duplicates(arrays: Arrays, keep: Literal["exact", "first", "last"]) -> Step:
    """Keep one event of each (user, item) pair, or (exact) of those that are alike in user, item, time, kind and value, in place.

    Raises `DataError` for exact where events have no times: nothing tells a repetition from a double import.
    """
    before = len(arrays.user)
    if keep == "exact":
        if arrays.stamp is None:
            raise DataError("duplicates=exact: want events with times, got an order alone, in which no two are alike; take first or last")
        columns = [column for column in (arrays.value, arrays.action, arrays.stamp, arrays.item, arrays.user) if column is not None]
        order = np.lexsort(columns)
        again = np.ones(before, dtype=bool)
        again[:1] = False
        for column in columns:
            again[1:] &= column[order][1:] == column[order][:-1]
        stay = np.ones(before, dtype=bool)
        stay[order[again]] = False
        arrays.take(stay)
        return Step("events", "duplicates", before, len(arrays.user), "one of those alike in user, item, time, kind and value kept")
    arrays.take(first_of_pair(arrays, last=keep == "last"))
    return Step("events", "duplicates", before, len(arrays.user), f"the {keep} event of each user and item kept")


def drop_unknown_items(arrays: Arrays, num_known: int, name: str) -> Step:
    """Drop events of items behind the first `num_known`, which the items table `name` holds, and those items, in place."""
    before = len(arrays.user)
    arrays.take(arrays.item < num_known)
    arrays.item_ids = arrays.item_ids[:num_known]
    return Step("events", "unknown items", before, len(arrays.user), f"items that {name} doesn't hold left out")


def keep_core(arrays: Arrays, user_core: int, item_core: int) -> tuple[Step, np.ndarray]:
    """Drop users and items with fewer events, in place, until none is left to drop.

    Returns the step and the items that stay, bool [N].
    """
    before, rounds = len(arrays.user), 0
    while True:
        of_user = np.bincount(arrays.user, minlength=len(arrays.user_ids))
        of_item = np.bincount(arrays.item, minlength=len(arrays.item_ids))
        keep = (of_user[arrays.user] >= user_core) & (of_item[arrays.item] >= item_core)
        if keep.all():
            note = f"users with >= {user_core} and items with >= {item_core} events, {rounds} rounds"
            return Step("events", "k-core", before, len(arrays.user), note), of_item >= item_core
        arrays.take(keep)
        rounds += 1


def drop_short_users(arrays: Arrays, least: int) -> Step:
    """Drop users with fewer than `least` events, once, in place."""
    before = len(arrays.user)
    arrays.take(np.bincount(arrays.user, minlength=len(arrays.user_ids))[arrays.user] >= least)
    return Step("events", "least events of a user", before, len(arrays.user), f"users with >= {least} events")


def compact(ids: np.ndarray, rows: np.ndarray, stay: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids that stay and int32 row numbers among them. stay: bool, one an id; all `rows` stay."""
    if stay.all():
        return ids, rows
    return ids[stay], (np.cumsum(stay) - 1).astype(np.int32)[rows]
