"""Slices over targets."""

import numpy as np
import pyarrow as pa

from semid.evaluation.evaluate import truth_of
from semid.evaluation.slices import DAY, HISTORY_BANDS, by_bands, by_popularity, slicings
from semid.types import Cases, Catalog, IdMap, Interactions, Protocol, Split


def test_popularity_parts_hold_equal_numbers_of_items_head_first():
    parts = by_popularity(np.array([5, 9, 0, 1]), np.array([1, 0, 3, 2, 1]), parts=2)
    assert parts["1"].tolist() == [True, True, False, False, True]  # items 1 and 0 are the head
    assert parts["2"].tolist() == [False, False, True, True, False]


def test_bands_cover_every_length_once():
    bands = by_bands(np.arange(300), HISTORY_BANDS)
    assert list(bands) == ["0", "1-2", "3-5", "6-10", "11-20", "21-50", "51-200", "201+"]
    assert (np.sum(list(bands.values()), axis=0) == 1).all()
    assert np.flatnonzero(bands["3-5"]).tolist() == [3, 4, 5]


def a_split(time_unit="seconds"):
    ids = lambda n: IdMap([str(i) for i in range(n)])
    time = np.array([0, DAY - 1, DAY, 5 * DAY, 5 * DAY + 9, 9 * DAY], np.int64)
    events = Interactions(np.array([0, 0, 0, 1, 1, 1], np.int32), np.array([0, 1, 2, 0, 1, 3], np.int32), time, ids(2), ids(4),
                          time_unit)
    cases = Cases(np.array([0, 0, 1, 1], np.int32), np.array([0, 0, 3, 3]), np.array([1, 2, 4, 3]),
                  np.array([1, 2, 1, 0], np.int32), np.arange(5), time[[1, 2, 4, 3]])
    train = events.take(np.array([0, 1, 3]))
    catalog = Catalog(ids(4), pa.table({"id": list("abcd")}))
    return Split(Protocol(), catalog, source=events, events=events, train=train, valid=cases, test=cases), cases


def found(time_unit="seconds"):
    split, cases = a_split(time_unit)
    truth, time = truth_of(cases)
    return slicings(split, cases, truth, time)


def test_same_day_means_the_utc_day_of_the_last_event():
    day = found()["day"]
    # Case 0: second 0 and DAY - 1. Case 1: DAY - 1 and DAY, a second apart. Case 2: nine seconds. Case 3 has no history.
    assert day["same day"].tolist() == [True, False, True, False]
    assert day["another day"].tolist() == [False, True, False, False]


def test_an_order_without_clock_has_no_days():
    assert "day" not in found("ordinal")


def test_cold_targets_have_no_training_event():
    target = found()["target"]
    assert target["cold"].tolist() == [False, True, False, False]
    assert target["warm"].tolist() == [True, False, True, True]


def test_empty_slices_are_left_out():
    assert list(found()["history"]) == ["0", "1-2"]
