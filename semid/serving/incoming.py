"""Tables of items that come after training, brought to the columns of the run's catalogue.

Axes: n items of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from semid.data.columns import listed
from semid.data.items import is_string, texts
from semid.data.read import read_items
from semid.errors import DataError, did_you_mean
from semid.types import Catalog

ID, TEXT, CODES, VECTOR = "semid:id", "semid:text:", "semid:codes", "semid:vector"
"""Columns of a change in the journal beside the catalogue's own."""


def read_new(items: Any, known: Catalog, *, item_id: str | None = None,
             views: Mapping[str, str | Path | np.ndarray] | None = None) -> Catalog:
    """Return the items of a table as a catalogue with exactly the columns and text fields of `known`; missing ones are null.

    items: as `semid.read` takes them. Raises `DataError` for a column that `known` lacks or a value of another type.
    """
    given = read_like(items, known, item_id=item_id, views=views)
    table = conform(given, known)
    columns = widened(known.table.slice(0, 0), table).schema
    whole = pa.table({field.name: table[field.name] if field.name in table.column_names else pa.nulls(len(given), field.type)
                      for field in columns}, schema=columns)
    return Catalog(given.items, whole, texts(whole, list(known.text), "new items"), given.views)


def read_like(items: Any, known: Catalog, *, item_id: str | None = None,
              views: Mapping[str, str | Path | np.ndarray] | None = None) -> Catalog:
    """Read a table of items whose columns stay text where those of `known` are: "True" is not to become "true"."""
    as_text = {field.name for field in known.table.schema if is_string(field.type)}
    return read_items(items, item_id=item_id, views=views, as_text=as_text)


def conform(given: Catalog, known: Catalog) -> pa.Table:
    """Return the columns of `given` under the names and types of `known`, the id column among them. Fractions for a column that was whole
    so far stay fractions: it becomes one of them (`widened`)."""
    theirs = id_column(known)
    own = id_column(given, theirs, known.table.column_names)
    columns = {}
    for name in given.table.column_names:
        target = theirs if name == own and theirs is not None else name
        if name == own and theirs is None:
            continue
        if target not in known.table.column_names:
            raise DataError(f"items: unknown column {target!r}{did_you_mean(target, known.table.column_names)}; "
                            f"the run has: {listed(known.table.column_names)}")
        wanted = known.table.schema.field(target).type
        if pa.types.is_integer(wanted) and has_fractions(given.table[name]):
            wanted = pa.float64()
        try:
            columns[target] = _as_lists(given.table[name], wanted).cast(wanted)
        except pa.ArrowException as error:
            raise DataError(f"items, column {target!r}: want {wanted} as in the run, got {given.table[name].type} "
                            f"({str(error).splitlines()[0]}); write it as in the run's own table, or leave the column out") from None
    return pa.table(columns)


def has_fractions(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether a column holds numbers that are not whole."""
    import pyarrow.compute as pc

    return pa.types.is_floating(column.type) and not pc.call_function("all", [pc.call_function("equal", [
        pc.call_function("trunc", [column]), column])]).as_py()


def widened(table: pa.Table, other: pa.Table) -> pa.Table:
    """Return `table` with its whole numbers as float64 where `other` has fractions."""
    for place, field in enumerate(table.schema):
        if field.name in other.column_names and pa.types.is_integer(field.type) and pa.types.is_floating(other[field.name].type):
            table = table.set_column(place, pa.field(field.name, pa.float64()), table[field.name].cast(pa.float64()))
    return table


def _as_lists(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """Read text where lists of text are wanted, as a text file has them: parts between | signs."""
    is_list = pa.types.is_list(wanted) or pa.types.is_large_list(wanted)
    if not is_string(column.type) or not is_list or not pa.types.is_string(wanted.value_type):
        return column
    parts = [None if value is None else [part.strip() for part in value.split("|") if part.strip()] for value in column.to_pylist()]
    return pa.chunked_array([pa.array(parts, pa.list_(pa.string()))])


def id_column(catalog: Catalog, likely: str | None = None, others: Sequence[str] = ()) -> str | None:
    """Return the column that holds the item ids. Where titles are ids too: `likely` if it holds them, or one that isn't among `others`."""
    ids = catalog.items.ids.tolist()
    text = [field.name for field in catalog.table.schema if is_string(field.type)]
    text.sort(key=lambda name: (name != likely, name in others))
    return next((name for name in text if catalog.table[name].to_pylist() == ids), None)


def add_entry(new: Catalog, codes: np.ndarray, vectors: np.ndarray) -> pa.Table:
    """Return what the journal keeps of added items: everything, so that no encoder is needed to read it. """
    table = new.table.append_column(ID, pa.array(new.items.ids.tolist(), pa.string()))
    for name, column in new.text.items():
        table = table.append_column(TEXT + name, pa.array(column, pa.string()))
    table = table.append_column(CODES, pa.array(codes.tolist(), pa.list_(pa.int32())))
    return table.append_column(VECTOR, pa.array(list(vectors), pa.list_(pa.float32())))


def text_of(table: pa.Table) -> dict[str, list[str]]:
    """Return {field: n strings} of a journal's table."""
    return {name.removeprefix(TEXT): table[name].to_pylist() for name in table.column_names if name.startswith(TEXT)}


def attributes_of(table: pa.Table) -> pa.Table:
    """Return the catalogue's columns of a journal's table."""
    return table.select([name for name in table.column_names if not name.startswith("semid:")]).replace_schema_metadata(None)
