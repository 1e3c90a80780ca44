from __future__ import annotations

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from semid.errors import DataError
from semid.serving.service import table_of

SCHEMA = pa.schema({"item_id": pa.string(), "title": pa.string(), "year": pa.int32(), "price": pa.float64(), "tags": pa.list_(pa.string()),
                    "sizes": pa.list_(pa.int64())})
TIMES = pa.schema({"day": pa.date32(), "at": pa.timestamp("us"), "zoned": pa.timestamp("us", "UTC"), "days": pa.list_(pa.date32())})


def test_items_become_a_table_of_the_catalogues_types():
    table = table_of([{"item_id": 7, "year": 1999}, {"item_id": "b", "tags": ["x"], "price": 2}], SCHEMA)
    assert table.to_pydict() == {"item_id": ["7", "b"], "year": [1999, None], "tags": [None, ["x"]], "price": [None, 2.0]}
    assert [table.schema.field(name).type for name in table.column_names] == [SCHEMA.field(name).type for name in table.column_names]


def test_the_id_has_a_column_where_the_catalogue_keeps_none():
    assert table_of([{"item_id": "a", "title": "A"}], pa.schema({"title": pa.string()})).column_names == ["item_id", "title"]


def test_dates_and_times_are_iso_text():
    row = {"day": "2024-02-03", "at": "2024-02-03T04:05:06", "zoned": "2024-02-03T04:05:06Z", "days": ["2024-02-03", None]}
    assert table_of([row, {}], TIMES).to_pylist()[0] == {
        "day": date(2024, 2, 3), "at": datetime(2024, 2, 3, 4, 5, 6), "zoned": datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC),
        "days": [date(2024, 2, 3), None]}


@pytest.mark.parametrize(("name", "value"), [("day", 19_000), ("at", 1_700_000_000), ("zoned", "2024-02-03T04:05:06"), ("at", True),
                                             ("days", [19_000]), ("day", "tomorrow"), ("day", ["2024-02-03"])])
def test_what_is_no_iso_text_is_no_date(name: str, value: object):
    with pytest.raises(DataError, match=f"column '{name}': want .* as ISO text, got "):
        table_of([{name: value}], TIMES)


def test_fractions_make_a_column_of_whole_numbers_one_of_fractions():
    assert table_of([{"year": 1.5}, {"year": 2}, {}], SCHEMA)["year"].to_pylist() == [1.5, 2.0, None]
    assert table_of([{"year": 1.0}], SCHEMA)["year"].type == pa.int32()


@pytest.mark.parametrize(("row", "sentence"), [
    ({}, "one without columns"), ({"item_id": "a", "yeer": 1}, "did you mean 'year'?"), ({"": 1}, "unknown column ''"),
    ({"semid:id": "a"}, "unknown column"), ({"year": "new"}, "column 'year': want int32"),
    ({"year": 2**40}, "column 'year': want int32"), ({"year": float("inf")}, "column 'year'"),
    ({"price": True}, "column 'price': want double, got True"), ({"sizes": [True]}, "column 'sizes'"),
    ({"price": float("nan")}, "column 'price': want double, got nan"), ({"price": 10**400}, "column 'price'"),
    ({"sizes": [1, 1.5]}, "column 'sizes'"), ({"sizes": [float("inf")]}, "column 'sizes'"), ({"sizes": [[1]]}, "column 'sizes'"),
    ({"tags": "x"}, "column 'tags'"), ({"tags": [1]}, "column 'tags'"), ({"title": {"en": "x"}}, "column 'title'"),
    ({"title": "\ud800"}, "column 'title'"), ({"title": [["deep"]]}, "column 'title'")])
def test_a_bad_item_is_a_sentence(row: dict, sentence: str):
    with pytest.raises(DataError, match=sentence.replace("?", r"\?")):
        table_of([row], SCHEMA)
