"""Yesterday's data set holds nothing of today."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from semid.data.earlier import earlier
from semid.errors import DataError
from semid.types import Interactions, Split
from tests.toyworld.world import walk


def at_times(unit: str) -> Split:
    """A walk whose users come one after another, so that late items are not there early on."""
    data = walk(users=6, length=10)
    train = data.train
    time = train.time + train.user.astype(np.int64) * 10**9 if unit == "seconds" else np.arange(len(train), dtype=np.int64)
    train = Interactions(train.user, train.item, time, train.users, train.items, unit)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(data, train=train)


def test_items_and_events_are_those_up_to_a_time_under_their_own_ids_texts_and_vectors():
    data = at_times("seconds")
    was, rows = earlier(data, 0.5)
    until = np.quantile(data.train.time, 0.5)
    kept = data.train.time <= until
    assert rows.tolist() == sorted(set(data.train.item[kept].tolist()))
    assert 0 < len(rows) < 64
    assert was.source.time.max() <= until
    assert was.catalog.items.ids[was.source.item].tolist() == data.catalog.items.ids[data.train.item[kept]].tolist()
    np.testing.assert_array_equal(was.catalog.view("text"), data.catalog.view("text")[rows])
    assert was.catalog.titles == [data.catalog.titles[row] for row in rows]
    assert was.catalog.table["title"].to_pylist() == was.catalog.titles


def test_an_order_without_times_is_cut_in_every_history():
    data = at_times("ordinal")
    was, _ = earlier(data, 0.5)
    assert np.diff(was.source.offsets).tolist() == [4] * 6  # of 8 training events each


def test_nothing_to_ask_is_one_clear_message():
    with pytest.raises(DataError, match=r"the first 20% of the training events: .*no test case is left"):
        earlier(at_times("ordinal"), 0.2)
