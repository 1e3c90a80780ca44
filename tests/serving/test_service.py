from __future__ import annotations

import pyarrow as pa
import pytest

from semid.errors import DataError
from semid.serving.service import table_of

SCHEMA = pa.schema({"item_id": pa.string(), "title": pa.string(), "year": pa.int32(), "price": pa.float64(), "tags": pa.list_(pa.string())})


def test_items_become_a_table_of_the_catalogues_types():
    table = table_of([{"item_id": 7, "year": 1999}, {"item_id": "b", "tags": ["x"], "price": 2}], SCHEMA)
    assert table.to_pydict() == {"item_id": ["7", "b"], "year": [1999, None], "tags": [None, ["x"]], "price": [None, 2.0]}
    assert [table.schema.field(name).type for name in table.column_names] == [SCHEMA.field(name).type for name in table.column_names]


def test_the_id_has_a_column_where_the_catalogue_keeps_none():
    assert table_of([{"item_id": "a", "title": "A"}], pa.schema({"title": pa.string()})).column_names == ["item_id", "title"]


@pytest.mark.parametrize(("row", "sentence"), [
    ({}, "one without columns"), ({"item_id": "a", "yeer": 1}, "did you mean 'year'?"), ({"": 1}, "unknown column ''"),
    ({"semid:id": "a"}, "unknown column"), ({"year": "new"}, "column 'year': want int32"),
    ({"year": 2**40}, "column 'year': want int32"), ({"year": 1.5}, "column 'year'"),
    ({"price": float("nan")}, "column 'price': want double, got nan"), ({"price": 10**400}, "column 'price'"),
    ({"tags": "x"}, "column 'tags'"), ({"tags": [1]}, "column 'tags'"), ({"title": {"en": "x"}}, "column 'title'"),
    ({"title": "\ud800"}, "column 'title'"), ({"title": [["deep"]]}, "column 'title'")])
def test_a_bad_item_is_a_sentence(row: dict, sentence: str):
    with pytest.raises(DataError, match=sentence.replace("?", r"\?")):
        table_of([row], SCHEMA)
