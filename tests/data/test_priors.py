"""Priors of items: tags of a column, bands of numbers, when an item came; every item carries one of each column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from semid.data.priors import number_of, priors_of
from semid.errors import DataError
from semid.types import Catalog, IdMap, Interactions

NAMES = IdMap(list("abcdef"))


def catalog(**columns) -> Catalog:
    return Catalog(NAMES, pa.table(columns))


def train(items=(0, 0, 0, 1, 2, 3), times=None) -> Interactions:
    times = np.arange(len(items)) if times is None else np.array(times)
    return Interactions(np.arange(len(items), dtype=np.int32), np.array(items, np.int32), times.astype(np.int64),
                        IdMap([f"u{i}" for i in range(len(items))]), NAMES)


def test_the_tags_with_most_events_have_heads_and_the_rest_is_other():
    genres = catalog(genres=[["x", "y"], ["y"], ["z"], ["y", "z"], ["w"], None])
    priors = priors_of(genres, train(), ("genres",), most=2)
    assert priors.names == ("genres=y", "genres=x", "genres=other")  # y: 3 + 1 + 1 events, x: 3, z: 2
    assert priors.tags.tolist() == [[True, True, False], [True, False, False], [False, False, True], [True, False, False],
                                    [False, False, True], [False, False, True]]
    np.testing.assert_allclose(priors.share, [(1.5 + 1 + 1) / 6, 1.5 / 6, 1 / 6], rtol=1e-6)


def test_several_columns_stand_side_by_side_and_every_item_carries_one_of_each():
    both = catalog(genre=["x", "x", "y", "y", "y", "y"], brand=["p", "q", "p", "", None, "q"])
    priors = priors_of(both, train(), ("genre", "brand"))
    assert priors.names == ("genre=x", "genre=y", "brand=p", "brand=q", "brand=other")
    assert priors.tags[:, :2].sum(1).tolist() == priors.tags[:, 2:].sum(1).tolist() == [1] * 6
    assert priors.share.sum() == pytest.approx(1)


def test_numbers_become_bands_of_equal_events():
    years = catalog(year=[1990, 1991, 1992, 1993, 1994, None])
    priors = priors_of(years, train((0, 1, 2, 3)), ("year",), most=2)
    assert priors.names == ("year=1990..", "year=1992..", "year=other")
    assert priors.tags.argmax(1).tolist() == [0, 0, 1, 1, 1, 2]
    assert priors.share.tolist() == [0.5, 0.5, 0]


def test_an_item_came_when_training_first_saw_it():
    day = 86_400
    priors = priors_of(catalog(x=["a"] * 6), train((1, 0, 1, 2), times=[10_000 * day, 10_001 * day, 10_009 * day, 10_005 * day]),
                       ("first_seen",), most=2)
    assert priors.names == ("first_seen=1997-05-19..", "first_seen=1997-05-20..", "first_seen=other")
    assert priors.tags.argmax(1).tolist() == [1, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(("columns", "message"), [
    (("genra",), r"want columns of the items table or 'first_seen', got 'genra' \(did you mean 'genre'\?\)"),
    (("same",), "column 'same' doesn't tell items apart"),
    (("none",), "column 'none' doesn't tell items apart"),
    (("nan",), "column 'nan' doesn't tell items apart"),
    ((), "want one column"),
])
def test_columns_that_are_no_priors_are_refused(columns, message):
    items = catalog(genre=list("xxyyzz"), same=["x"] * 6, none=pa.array([None] * 6, pa.string()), nan=[float("nan")] * 6)
    with pytest.raises(DataError, match=message):
        priors_of(items, train(), columns)


def test_an_unknown_prior_gets_the_nearest_name():
    names = ("genre=x", "genre=yy")
    assert number_of("genre=yy", names) == 1
    with pytest.raises(DataError, match=r"unknown prior 'genre=y' \(did you mean 'genre=yy'\?\); this model knows: genre=x, genre=yy"):
        number_of("genre=y", names)


def test_bands_have_names_of_their_own_and_numbers_of_any_size_are_read():
    items = catalog(seen=[1_600_000_000 + second for second in range(6)], ean=[2**62 + number * 4096 for number in range(6)])
    priors = priors_of(items, train((0, 1, 2, 3, 4, 5)), ("seen", "ean"), most=3)
    assert len(set(priors.names)) == len(priors.names)
    assert priors.names[0] == "seen=1600000000.."
    day = priors_of(catalog(x=["a"] * 6), train((0, 1, 2), times=[8 * 10**8, 8 * 10**8 + 1, 8 * 10**8 + 2]), ("first_seen",), most=3)
    assert day.names[:2] == ("first_seen=1995-05-09.. (1)", "first_seen=1995-05-09.. (2)")
