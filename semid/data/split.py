"""Protocols at work: which events train, and which questions are asked.

Training rows are everything a model may learn or count. Validation and test histories may contain more (the
validation item is part of the test history), never the answer.
"""

from __future__ import annotations

import numpy as np

from semid.errors import DataError
from semid.types import TEST, TRAIN, VALID, Cases, Catalog, Interactions, Protocol, Split

Parts = tuple[Interactions, np.ndarray, Cases, Cases]
"""Events that histories point into, mask of training rows over them, validation and test cases."""


def split(interactions: Interactions, catalog: Catalog, protocol: Protocol, fingerprint: str = "") -> Split:
    """Split events by a protocol. Raises `DataError` where nothing is left to train on or to ask."""
    events = interactions if protocol.shuffle_ties is None else shuffle_ties(interactions, protocol.shuffle_ties)
    ways = {"leave_one_out": _leave_one_out, "time": _time, "column": _column,
            "cold_items": _cold_items, "cold_users": _cold_users}
    events, train, valid, test = ways[protocol.split](events, protocol)
    if not train.any():
        raise DataError(f"split {protocol.split!r}: no training rows are left of {len(events):,} events; "
                        "want users with at least 3 events, or another split")
    parts = {name: _at_least(cases, protocol.min_history) for name, cases in (("valid", valid), ("test", test))}
    if not len(parts["test"]):
        raise DataError(f"split {protocol.split!r}: no test case is left; want users with at least 3 events (leave_one_out), "
                        "or events after the cut (time)")
    return Split(protocol, catalog, interactions, events, events.take(train), parts["valid"], parts["test"], fingerprint)


def held_back(own: Split, other: Split) -> tuple[int, int]:
    """Return what a model of `own` knows that the protocol of `other`, on the same events, holds back from it.

    (training events of `own` that are none of `other`, test answers of `other` that were validation answers of `own`): with
    (0, 0) the model may be asked the questions of `other`. Events equal in user, item and time are interchangeable.
    """
    ours, theirs = _counts(*([part.user, part.item, part.time] for part in (own.train, other.train)))
    asked, answered, chosen_on = _counts(*(
        [np.repeat(cases.user, np.diff(cases.target_offsets)), cases.target, cases.target_time]
        for cases in (other.test, own.test, own.valid)))
    return int(np.maximum(ours - theirs, 0).sum()), int(np.minimum(np.maximum(asked - answered, 0), chosen_on).sum())


def _counts(*tables: list[np.ndarray]) -> list[np.ndarray]:
    """Return how often each distinct (user, item, time) of all tables is in each of them."""
    rows = [np.stack([column.astype(np.int64) for column in table], axis=1) for table in tables]
    distinct, key = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    return [np.bincount(part, minlength=len(distinct)) for part in np.split(key.reshape(-1), np.cumsum([len(r) for r in rows])[:-1])]


def shuffle_ties(interactions: Interactions, seed: int) -> Interactions:
    """Return the events with a random order among equal times of one user; a source's order inside a day is an artefact."""
    noise = np.random.default_rng(seed).random(len(interactions))
    order = np.lexsort((noise, interactions.time, interactions.user))
    return interactions.take(order)


def _single(events: Interactions, users: np.ndarray, position: np.ndarray) -> Cases:
    """One case a user: the event at `position` is the target, everything of the user before it the history."""
    return Cases(users.astype(np.int32), events.offsets[users], position, events.item[position],
                 np.arange(len(users) + 1, dtype=np.int64), events.time[position])


def _leave_one_out(events: Interactions, protocol: Protocol) -> Parts:
    if events.split is not None and protocol.shuffle_ties is None:  # a shuffled order asks anew what comes last
        return _column(events, protocol)
    counts = np.diff(events.offsets)
    users = np.flatnonzero(counts >= 3)  # fewer: all events train
    last = events.offsets[users + 1] - 1
    train = np.ones(len(events), bool)
    train[last] = train[last - 1] = False
    return events, train, _single(events, users, last - 1), _single(events, users, last)


def _column(events: Interactions, protocol: Protocol) -> Parts:
    if events.split is None:
        raise DataError("split 'column': the events have no split column with train / valid / test; "
                        "name it with --split-column, or use leave_one_out")
    is_test = events.split == TEST
    return events, events.split == TRAIN, _rows_as_cases(events, events.split == VALID, before=is_test), _rows_as_cases(events, is_test)


def _rows_as_cases(events: Interactions, wanted: np.ndarray, before: np.ndarray | None = None) -> Cases:
    """One case a user: all its `wanted` events are targets, the events before the first of them the history, and before the first of the
    events `before`, bool [E]: a random split may have test answers among what came before validation."""
    position = np.flatnonzero(wanted)
    users, first, counts = np.unique(events.user[position], return_index=True, return_counts=True)
    end = position[first]
    if before is not None:
        hidden, stop = np.flatnonzero(before), events.offsets[1:].copy()
        np.minimum.at(stop, events.user[hidden], hidden)
        end = np.minimum(end, stop[users])
    return Cases(users.astype(np.int32), events.offsets[users], end, events.item[position],
                 np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), events.time[position])


def _time(events: Interactions, protocol: Protocol) -> Parts:
    if events.time_unit != "seconds":
        raise DataError("split 'time': want real timestamps, got an order inside each user only; use leave_one_out")
    valid_from, test_from = np.quantile(events.time, [protocol.valid_from, protocol.test_from])
    valid = (events.time >= valid_from) & (events.time < test_from)
    return events, events.time < valid_from, _rows_as_cases(events, valid), _rows_as_cases(events, events.time >= test_from)


def _cold_items(events: Interactions, protocol: Protocol) -> Parts:
    """Held-out items never train; each of their events is asked after the user's earlier warm events. Half are validation."""
    rng = np.random.default_rng(protocol.seed)
    held = rng.permutation(np.flatnonzero(events.counts))
    held = held[: max(2, int(len(held) * protocol.held_out))]
    role = np.full(len(events.items), TRAIN, np.int8)
    role[held[::2]], role[held[1::2]] = VALID, TEST
    is_warm = role[events.item] == TRAIN
    warm = events.take(is_warm)
    before = np.cumsum(is_warm) - is_warm  # warm events before each event, over the whole table

    def cases(part: int) -> Cases:
        cold = np.flatnonzero(role[events.item] == part)
        return Cases(events.user[cold], warm.offsets[events.user[cold]], before[cold].astype(np.int64), events.item[cold],
                     np.arange(len(cold) + 1, dtype=np.int64), events.time[cold])

    return warm, np.ones(len(warm), bool), cases(VALID), cases(TEST)


def _cold_users(events: Interactions, protocol: Protocol) -> Parts:
    rng = np.random.default_rng(protocol.seed)
    users = np.flatnonzero(np.diff(events.offsets) >= 2)
    held = np.sort(rng.permutation(users)[: max(2, int(len(users) * protocol.held_out))])
    cold = np.zeros(len(events.users), bool)
    cold[held] = True
    last = events.offsets[held + 1] - 1
    return events, ~cold[events.user], _single(events, held[::2], last[::2]), _single(events, held[1::2], last[1::2])


def _at_least(cases: Cases, history: int) -> Cases:
    return cases.take(cases.history_end - cases.history_begin >= history)
