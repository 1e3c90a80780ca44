"""A data set as it was earlier: what would have been known, and which items were there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from semid.data.split import split as split_events
from semid.errors import DataError
from semid.types import Protocol, Split


def earlier(split: Split, share: float = 0.8) -> tuple[Split, np.ndarray]:
    """Return (the split as it was earlier, int64 [n] rows of its items in the catalogue of today).

    Its events are the training events up to the quantile `share` of their times (of an order without times, the first `share` of each
    user's), its catalogue the items among them, with the same texts and views, split anew by leave-one-out. Raises `DataError` where
    nothing is left to ask.
    """
    train = split.train
    if train.time_unit == "seconds":
        is_early = train.time <= np.quantile(train.time, share)
    else:
        place = np.arange(len(train)) - train.offsets[train.user]
        is_early = place < np.ceil(share * np.diff(train.offsets)[train.user])
    events = train.take(is_early)
    rows = np.unique(events.item).astype(np.int64)
    place = np.full(len(split.catalog), -1, np.int32)
    place[rows] = np.arange(len(rows))
    catalog = split.catalog.take(rows)
    events = replace(events, item=place[events.item], items=catalog.items, split=None)
    protocol = Protocol(max_history=split.protocol.max_history, seen=split.protocol.seen)
    try:
        return split_events(events, catalog, protocol, split.fingerprint), rows
    except DataError as error:
        raise DataError(f"the first {share:.0%} of the training events: {error}") from None
