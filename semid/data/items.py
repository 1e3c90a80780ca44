"""The items table to catalogue rows: checked ids, attributes for filters, texts for encoders, vectors by row.

Rows follow the table; items that only events know come behind them, with empty attributes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from semid.data.columns import is_identifier, listed
from semid.data.events import MISSING, id_text
from semid.data.formats import Bad, Source, lines_of, literal, quoted, stage
from semid.data.letter import code_columns
from semid.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Items:
    """The kept rows of an items table. ids: N strings; table: their attributes; kept int64 [N]: row in the source;
    num_rows: rows that could be parsed; rows_in: those and the lines that could not; bad: the rows left out."""

    name: str
    column: str
    ids: np.ndarray
    table: pa.Table
    kept: np.ndarray
    num_rows: int
    rows_in: int
    bad: list[Bad]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def read_items(connection: duckdb.DuckDBPyConnection, source: Source, column: str, as_text: Collection[str] = ()) -> Items:
    """Return the items of a source. Bad are rows without an id and ids that an earlier row has. as_text: columns of a text file that are
    not to be taken for anything else."""
    notes: list[str] = []
    warnings: list[str] = []
    staged = stage(connection, source, list(source.columns), "items")
    where = f"{source.name}: column {column!r}"
    id_ = id_text(connection, staged.relation, quoted(column), source.columns[column], where, notes, warnings)
    broken = f", {quoted(source.broken)}" if source.broken else ""
    ids = connection.sql(f"SELECT {id_} AS id{broken} FROM {staged.relation}").to_arrow_table()
    typed = ", ".join(_typed(connection, source, staged.relation, as_text, notes))
    table = connection.sql(f"SELECT {typed} FROM {staged.relation}").to_arrow_table()
    values = ids.column(0).to_pylist()
    unparsed = ids.column(1).to_pylist() if source.broken else [None] * len(values)
    first: dict[str, int] = {}
    wrong: list[Bad] = []  # with rows from 0, until their lines are known
    for row, (value, line) in enumerate(zip(values, unparsed)):
        if line is not None:
            wrong.append((row, "(line)", line[:80], "not a JSON object"))
        elif value is None:
            wrong.append((row, column, None, "no item id"))
        elif first.setdefault(value, row) != row:
            wrong.append((row, column, value[:80], "an item id that an earlier row has"))
    lines = lines_of(source, staged, np.asarray([row for row, *_ in wrong], dtype=np.int64)).tolist()
    bad = staged.bad + [(line, at, value, reason) for line, (_, at, value, reason) in zip(lines, wrong)]
    kept = np.fromiter(first.values(), dtype=np.int64, count=len(first))
    if not len(kept):
        raise DataError(f"{source.name}: want at least one item, got none with an id in column {column!r}")
    return Items(source.name, column, np.asarray(list(first), dtype=object), table.take(kept), kept, staged.num_rows,
                 staged.num_rows + len(staged.bad), bad, tuple(notes), tuple(warnings))


TIME = "[T ][0-9]{{2}}:[0-9]{{2}}(:[0-9]{{2}}([.][0-9]+)?)?( ?(Z|UTC|[+-][0-9]{{2}}(:?[0-9]{{2}})?))?"
DAY = "[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}"
NUMBER = "TRY_CAST({0} AS DOUBLE) IS NOT NULL AND NOT regexp_matches({0}, '^-?0[0-9]')"
COMMA = "replace({0}, ',', '.')"
TYPES = (
    ("BIGINT", "CAST(TRY_CAST({0} AS BIGINT) AS VARCHAR) IS NOT DISTINCT FROM {0}", "{0}"),
    ("DOUBLE", NUMBER, "{0}"),
    ("BOOLEAN", "lower({0}) IN ('true', 'false')", "{0}"),
    ("DATE", f"regexp_full_match({{0}}, '{DAY}') AND TRY_CAST({{0}} AS DATE) IS NOT NULL", "{0}"),
    ("TIMESTAMP", f"regexp_full_match({{0}}, '{DAY}({TIME})?') AND TRY_CAST({{0}} AS TIMESTAMPTZ) IS NOT NULL", "CAST({0} AS TIMESTAMPTZ)"),
    # two decimals, as prices have: 1,234 may be a thousand and more, and 3,12,7 a list
    ("DOUBLE", "regexp_matches({0}, '^-?[0-9]+(,[0-9]{{2}})?$') AND " + NUMBER.format(COMMA), COMMA))
"""What a column of a text file may be when all its values say so, the first that fits: (type, test, what is read as it)."""


def _typed(connection: duckdb.DuckDBPyConnection, source: Source, relation: str, as_text: Collection[str], notes: list[str]) -> list[str]:
    """Columns of a text file as the type that every value of them has: integers, numbers, true and false, dates and times (UTC), numbers
    with decimal commas, else text ("007" stays text); what stands for no value (`MISSING`) is null. So is NaN in any table. Categories of
    a data frame become text."""
    chosen = {name: f"CAST({quoted(name)} AS VARCHAR)" for name, type_ in source.columns.items() if type_.startswith("ENUM")}
    chosen |= {name: known_number(quoted(name)) for name, type_ in source.columns.items() if type_ in ("FLOAT", "DOUBLE")}
    if source.kind == "csv":
        words = ", ".join(literal(word) for word in MISSING if word)
        chosen |= {name: f"CASE WHEN {quoted(name)} NOT IN ({words}) THEN {quoted(name)} END"
                   for name, type_ in source.columns.items() if type_ == "VARCHAR"}
    texts = [name for name, type_ in source.columns.items() if type_ == "VARCHAR" and source.kind == "csv" and name not in as_text]
    if texts:
        present = ", ".join(f"{chosen[name]} AS {quoted(name)}" for name in texts)
        tests = [f"bool_and({test.format(quoted(name))}) FILTER ({quoted(name)} IS NOT NULL)" for name in texts for _, test, _ in TYPES]
        found = connection.execute(f"SELECT {', '.join(tests)} FROM (SELECT {present} FROM {relation})").fetchall()[0]
        for place, name in enumerate(texts):
            fits = found[place * len(TYPES) : (place + 1) * len(TYPES)]
            first = next((number for number, fit in enumerate(fits) if fit), None)
            if first is None:
                continue
            type_, _, read = TYPES[first]
            value = f"CAST({read.format(chosen[name])} AS {type_})"
            chosen[name] = known_number(value) if type_ == "DOUBLE" else value
            if read == COMMA:
                notes.append(f"{source.name}: column {name!r}: decimal commas are read as numbers")
    return [f"{chosen[name]} AS {quoted(name)}" if name in chosen else quoted(name) for name in source.columns]


def known_number(sql: str) -> str:
    """SQL for a float, null where it is NaN, which would be larger than any number to a condition."""
    return f"CASE WHEN NOT isnan({sql}) THEN {sql} END"


def attributes(items: Items | None, ids: np.ndarray, id_column: str) -> pa.Table:
    """Return N rows: the id (as text) and every attribute of the items table, null for ids behind its rows."""
    id_array = pa.array(ids.tolist(), pa.string())
    if items is None:
        return pa.table({id_column: id_array})
    unseen = len(ids) - items.table.num_rows
    index = pa.array([*range(items.table.num_rows), *([None] * unseen)], pa.int64())
    table = items.table.take(index) if unseen else items.table
    place = table.schema.get_field_index(items.column)
    return table.set_column(place, items.column, id_array).replace_schema_metadata(None).combine_chunks()


def texts(table: pa.Table, given: Sequence[str] | None, where: str, *, id_column: str | None = None) -> dict[str, list[str]]:
    """Return {column: N strings}: string columns, and lists of strings joined by ", "; '' where missing.

    given: the columns to take; None takes all but `id_column`, those whose name says that they hold ids, and published codes.
    """
    if given is not None:
        for name in given:
            if name not in table.column_names:
                raise DataError(f"{where}: no column {name!r} for --text{did_you_mean(name, table.column_names)}; "
                                f"the columns are: {listed(table.column_names)}")
            if not _is_text(table.schema.field(name).type):
                type_ = table.schema.field(name).type
                raise DataError(f"{where}: --text {name}: want strings or lists of strings, got {type_}")
    others = {id_column, *code_columns(table)}
    guessed = [field.name for field in table.schema
               if _is_text(field.type) and not is_identifier(field.name) and field.name not in others]
    names = guessed if given is None else given
    return {name: [_joined(value) for value in table.column(name).to_pylist()] for name in names}


def _joined(value: str | list[str | None] | None) -> str:
    if isinstance(value, list):
        return ", ".join(part for part in value if part)
    return value or ""


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _is_text(type_.value_type) and not pa.types.is_list(type_.value_type)
    return is_string(type_)


def is_string(type_: pa.DataType) -> bool:
    """Whether values of the type are text."""
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def read_views(views: Mapping[str, Path | str | np.ndarray], items: Items | None, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return {name: float32 [N, D]} from `.npy` files or arrays whose row k is row k of the items table.

    Items that only events know get a zero vector. Raises `DataError` for a wrong number of rows and for NaN or infinity.
    """
    return {name: _view(name, source, items, ids) for name, source in views.items()}


def _view(name: str, source: Path | str | np.ndarray, items: Items | None, ids: np.ndarray) -> np.ndarray:
    where = f"view {name!r}" if isinstance(source, np.ndarray) else str(source)
    if items is None:
        raise DataError(f"{where}: vectors belong to the rows of an items table, and none was given; name one with --items")
    array = source if isinstance(source, np.ndarray) else _load(Path(source))
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(f"{where}: want numbers [items, width], got {array.dtype} {array.shape}")
    if len(array) != items.num_rows:
        raise DataError(f"{where}: want {items.num_rows:,} rows, one for each row of {items.name}, got {len(array):,}")
    vectors = np.zeros((len(ids), array.shape[1]), dtype=np.float32)
    vectors[:len(items.kept)] = array[items.kept]
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{where}: want finite numbers, got NaN or infinity in {len(wrong):,} rows, first in {items.kept[row]} "
                        f"(from 0; item {ids[row]!r}); drop those items or give them zero vectors")
    return vectors


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a NumPy array file that can be read ({error})") from None
