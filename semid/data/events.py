"""Event rows of any source to sorted arrays: checked, mapped to row numbers and sorted in DuckDB, never as Python objects.

A row is bad for the first of these reasons that holds: no user, no item, no usable time, position, value or split.
Order inside a user: position where there is one, else time; ties keep the order of the source.
"""

from __future__ import annotations

import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from semid.data.formats import Bad, Source, Staged, lines_of, literal, quoted
from semid.errors import DataError
from semid.types import DAY, TEST, TRAIN, VALID

MISSING = ("", "nan", "NaN", "NULL", "null", "None", "<NA>")
"""Texts that stand for no value: what exports write for an empty cell."""

BLANKS = " \t\r\n\u00a0"
"""What is left out around ids; the last one is the blank that doesn't break, of web pages and spreadsheets."""

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT", "UHUGEINT")
SPLITS = {"train": TRAIN, "training": TRAIN, "valid": VALID, "validation": VALID, "val": VALID, "dev": VALID, "test": TEST}
SHORT = {"user": "u", "item": "i", "time": "t", "position": "p", "value": "v", "action": "a", "split": "s"}
"""Names of the checked columns in the view of events."""

ORDINAL_BELOW = 1e8
"""A time column whose median lies below (March 1973 in seconds) holds an order, not times."""

EARLIEST = 631_152_000
"""1990-01-01 in UTC seconds. No log of today begins before; what lies there is a time in another unit, or one that is missing."""

CALENDAR = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Numbers that spell a date, by how many digits they have: 20240131, 202401311015, 20240131101530."""

UNITS = ((1e11, "seconds", 1), (1e14, "milliseconds", 1_000), (1e17, "microseconds", 1_000_000),
         (np.inf, "nanoseconds", 1_000_000_000))
"""(median below, unit, ticks a second): each unit covers the years 1973 to 5138."""


@dataclass(frozen=True)
class TimeUnit:
    """How a time column is read. ticks: SQL of int64 ticks, which give the order; per_second: ticks in a second (None = an
    ordinal); note: what was decided, for the report."""

    ticks: str
    per_second: int | None
    note: str


@dataclass(frozen=True)
class Events:
    """The checked events: a DuckDB view `events` with row, the columns of `SHORT` and `bad` (a place in `reasons`, or null)."""

    source: Source
    staged: Staged
    columns: Mapping[str, str]
    unit: TimeUnit | None
    reasons: tuple[tuple[str, str], ...]
    num_bad: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass
class Arrays:
    """Events sorted by (user, order); row int64 [E] is the source row. Others as in `Interactions`, absent ones None.

    `time` is seconds, or ticks of an ordinal; `stamp` the times as exact as they were given; `position` int64 [E]; `action` a code into
    `actions`.
    """

    row: np.ndarray
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    position: np.ndarray | None
    value: np.ndarray | None
    action: np.ndarray | None
    split: np.ndarray | None
    user_ids: np.ndarray
    item_ids: np.ndarray
    actions: tuple[str, ...]
    stamp: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> None:
        """Keep the events `rows` (boolean mask or positions), in place so that 20 million events exist once."""
        for name in ("row", "user", "item", "time", "position", "value", "action", "split", "stamp"):
            column = getattr(self, name)
            if column is not None:
                setattr(self, name, column[rows])


def check_events(connection: duckdb.DuckDBPyConnection, source: Source, staged: Staged, columns: Mapping[str, str]) -> Events:
    """Create the view `events`. columns: role -> column name; user and item are among them."""
    notes: list[str] = []
    warnings: list[str] = []
    types = {role: source.columns[column] for role, column in columns.items()}
    raw = {**columns, **({"(line)": source.broken} if source.broken else {})}
    raws = ", ".join(f"{quoted(column)} AS {_raw(role)}" for role, column in raw.items())
    rows = f"SELECT {staged.row} AS row, {raws} FROM {staged.relation}"

    values: dict[str, str] = {}
    checks: list[tuple[str, str, str]] = []  # (role, SQL that is true for a bad row, reason)
    if source.broken:
        checks.append(("(line)", f"{_raw('(line)')} IS NOT NULL", "not a JSON object"))
    for role in ("user", "item"):
        where = f"{source.name}: column {columns[role]!r}"
        values[role] = id_text(connection, f"({rows})", _raw(role), types[role], where, notes, warnings)
        checks.append((role, f"{SHORT[role]} IS NULL", f"no {role} id"))
    unit = None
    if "time" in columns:
        where = f"{source.name}: time column {columns['time']!r}"
        unit = time_unit(connection, f"({rows})", _raw("time"), types["time"], where)
        notes.append(unit.note)
        values["time"] = unit.ticks
        absent = f"{_raw('time')} IS NULL" + (f" OR {_text(_raw('time'))} IS NULL" if types["time"] == "VARCHAR" else "")
        checks += [("time", absent, "no time"), ("time", "t IS NULL", "not a time; want Unix time or ISO 8601"),
                   ("time", "t < 0", "a negative time")]
        if unit.per_second is not None:
            latest = int(clock.time() + DAY)
            early, late = EARLIEST * unit.per_second, latest * unit.per_second
            mixed = " OR ".join(f"t BETWEEN {EARLIEST * ticks} AND {latest * ticks}" for _, _, ticks in UNITS if ticks != unit.per_second)
            checks += [("time", mixed, "a time in another unit than the rest: seconds and milliseconds, say, are mixed; write all in one"),
                       ("time", f"t < {early}", "a time before 1990: another unit than the rest, or missing?"),
                       ("time", f"t > {late}", "a time in the future")]
    if "position" in columns:
        values["position"] = _whole(_raw("position"), types["position"])
        checks.append(("position", "p IS NULL", "not a whole number"))
    if "value" in columns:
        number = _raw("value")
        if types["value"] == "VARCHAR" and has_decimal_commas(connection, f"({rows})", number):
            notes.append(f"{source.name}: column {columns['value']!r}: decimal commas are read as numbers")
            number = f"replace({number}, ',', '.')"
        values["value"] = f"TRY_CAST({number} AS FLOAT)"
        checks.append(("value", "v IS NULL OR NOT isfinite(v)", "not a finite number"))
    if "action" in columns:
        values["action"] = f"coalesce(CAST({_raw('action')} AS VARCHAR), '')"
    if "split" in columns:
        whens = " ".join(f"WHEN {literal(name)} THEN {code}" for name, code in SPLITS.items())
        values["split"] = f"CASE lower(trim(CAST({_raw('split')} AS VARCHAR))) {whens} END"
        checks.append(("split", "s IS NULL", "want train, valid or test"))

    checked = ", ".join(f"{value} AS {SHORT[role]}" for role, value in values.items())
    bad = " ".join(f"WHEN {condition} THEN {number}" for number, (_, condition, _) in enumerate(checks))
    connection.execute(f"CREATE TEMP VIEW events AS SELECT *, CASE {bad} END AS bad FROM (SELECT *, {checked} FROM ({rows}))")
    num_bad = connection.execute("SELECT count(bad) FROM events").fetchall()[0][0]
    return Events(source, staged, columns, unit, tuple((role, reason) for role, _, reason in checks), num_bad, tuple(notes),
                  tuple(warnings))


def has_decimal_commas(connection: duckdb.DuckDBPyConnection, relation: str, column: str) -> bool:
    """Whether values of a column of text have commas before one or two decimals, and none has a point or any other comma."""
    some, every = f"bool_or({column} LIKE '%,%')", f"bool_and(regexp_full_match({column}, '[^,.]*(,[0-9]{{1,2}})?'))"
    return all(connection.execute(f"SELECT coalesce({test}, false) FROM {relation}").fetchall()[0][0] for test in (some, every))


def kinds(connection: duckdb.DuckDBPyConnection, events: Events) -> dict[str, int]:
    """Return {kind of event: good rows}, the most frequent first; {} without a column of kinds."""
    if "action" not in events.columns:
        return {}
    return dict(connection.execute("SELECT a, count(*) AS n FROM events WHERE bad IS NULL GROUP BY a ORDER BY n DESC, a").fetchall())


def list_bad(connection: duckdb.DuckDBPyConnection, events: Events, limit: int | None = None) -> list[Bad]:
    """Return the bad rows of the view and the lines the parser refused, at most `limit` of each."""
    refused = events.staged.bad[:limit]
    if not events.num_bad:
        return refused
    shown = " ".join(f"WHEN {number} THEN CAST({_raw(role)} AS VARCHAR)" for number, (role, _) in enumerate(events.reasons))
    found = connection.execute(f"SELECT row, bad, left(CASE bad {shown} END, 80) FROM events WHERE bad IS NOT NULL ORDER BY row"
                               + (f" LIMIT {limit}" if limit else "")).fetchall()
    lines = lines_of(events.source, events.staged, np.asarray([row[0] for row in found], dtype=np.int64)).tolist()
    return refused + [(line, events.columns.get(role := events.reasons[bad][0], role), value, events.reasons[bad][1])
                      for line, (_, bad, value) in zip(lines, found)]


def fetch(connection: duckdb.DuckDBPyConnection, events: Events, known_items: np.ndarray, *, in_file_order: bool,
          actions: Sequence[str] | None = None, with_stamps: bool = False) -> Arrays:
    """Map ids to rows, sort, and return arrays. known_items: ids of the items table; rows of unseen ids follow behind them. actions: the
    kinds of events to read, None for all; of the others not even users and items remain. with_stamps: `Arrays.stamp` too.

    Users are numbered by their first row in the source, unseen items likewise. O(E log E) time; memory: the arrays and
    what DuckDB may hold.
    """
    import pyarrow as pa

    connection.register("known_items", pa.table({"id": pa.array(known_items.tolist(), pa.string()),
                                                 "n": pa.array(np.arange(len(known_items), dtype=np.int32))}))
    chosen = "" if actions is None else f" AND a IN ({', '.join(map(literal, actions))})"
    connection.execute(f"CREATE TEMP VIEW good AS SELECT * FROM events WHERE bad IS NULL{chosen}")
    connection.execute("CREATE TEMP TABLE user_rows AS "
                       "SELECT id, CAST(row_number() OVER (ORDER BY first) - 1 AS INTEGER) AS n FROM "
                       "(SELECT u AS id, min(row) AS first FROM good GROUP BY u)")
    connection.execute("CREATE TEMP TABLE item_rows AS SELECT id, n FROM known_items UNION ALL "
                       f"SELECT id, CAST({len(known_items)} + row_number() OVER (ORDER BY first) - 1 AS INTEGER) FROM "
                       "(SELECT i AS id, min(row) AS first FROM good GROUP BY i) "
                       "WHERE id NOT IN (SELECT id FROM known_items)")
    user_ids, item_ids = (_column(connection, f"SELECT id FROM {table} ORDER BY n") for table in ("user_rows", "item_rows"))
    if max(len(user_ids), len(item_ids)) >= 2**31:
        raise DataError(f"{events.source.name}: more than 2**31 users or items")

    selected = {"row": ("e.row", np.int64), "user": ("user_rows.n", np.int32), "item": ("item_rows.n", np.int32)}
    joins = "JOIN user_rows ON user_rows.id = e.u JOIN item_rows ON item_rows.id = e.i"
    if "time" in events.columns:
        # Ordered by ticks, kept as seconds: the order inside a second survives.
        per_second = events.unit.per_second if events.unit else None
        selected["time"] = (f"e.t // {per_second}" if per_second else "e.t", np.int64)
        if with_stamps:
            selected["stamp"] = ("e.t", np.int64)
    if "position" in events.columns:
        selected["position"] = ("e.p", np.int64)
    if "value" in events.columns:
        selected["value"] = ("e.v", np.float32)
    if "split" in events.columns:
        selected["split"] = ("CAST(e.s AS TINYINT)", np.int8)
    names: tuple[str, ...] = ()
    if "action" in events.columns:
        connection.execute("CREATE TEMP TABLE action_rows AS "
                           "SELECT a, CAST(row_number() OVER (ORDER BY a) - 1 AS INTEGER) AS n FROM "
                           "(SELECT DISTINCT a FROM good)")
        names = tuple(_column(connection, "SELECT a FROM action_rows ORDER BY n").tolist())
        if len(names) > np.iinfo(np.int16).max:
            raise DataError(f"{events.source.name}: action column {events.columns['action']!r} has {len(names):,} values; "
                            "want at most 32,767; it is probably not an action, name another with --action")
        selected["action"] = ("CAST(action_rows.n AS SMALLINT)", np.int16)
        joins += " JOIN action_rows ON action_rows.a = e.a"
    within = [] if in_file_order else [SHORT[role] for role in ("position", "time") if role in events.columns]
    order = ", ".join(["user_rows.n", *(f"e.{short}" for short in within), "e.row"])
    selection = ", ".join(f"{sql} AS {name}_" for name, (sql, _) in selected.items())
    query = f"SELECT {selection} FROM good e {joins} ORDER BY {order}"

    num = events.staged.num_rows - events.num_bad
    if actions is not None:
        num = connection.execute("SELECT count(*) FROM good").fetchall()[0][0]
    columns = {name: np.empty(num, dtype) for name, (_, dtype) in selected.items()}
    begin = 0
    for batch in connection.sql(query).to_arrow_reader(1 << 18):
        end = begin + batch.num_rows
        for name, column in zip(selected, batch.columns):
            columns[name][begin:end] = column.to_numpy(zero_copy_only=False)
        begin = end
    assert begin == num, (begin, num)
    return Arrays(columns["row"], columns["user"], columns["item"], columns.get("time"), columns.get("position"),
                  columns.get("value"), columns.get("action"), columns.get("split"), user_ids, item_ids, names, columns.get("stamp"))


def id_text(connection: duckdb.DuckDBPyConnection, relation: str, column: str, type_: str, where: str, notes: list[str],
            warnings: list[str]) -> str:
    """Return SQL for an id as text, null where there is none: 1, 1.0, "1" and " 1 " are one id. column: SQL."""
    if type_ in INTEGERS or type_ == "UUID":
        return f"CAST({column} AS VARCHAR)"
    if type_ in ("FLOAT", "DOUBLE") or type_.startswith("DECIMAL"):
        notes.append(f"{where} holds {type_.lower()} numbers; whole ones are read as integer ids (1.0 as '1')")
        number = f"CAST({column} AS DOUBLE)"
        return (f"CASE WHEN isfinite({number}) THEN CASE WHEN {number} = trunc({number}) AND abs({number}) < 9e15 "
                f"THEN CAST(CAST({number} AS BIGINT) AS VARCHAR) ELSE CAST({number} AS VARCHAR) END END")
    if type_ != "VARCHAR" and not type_.startswith("ENUM"):
        raise DataError(f"{where}: want strings or whole numbers as ids, got {_known(type_)}; cast it first or name another")
    column = column if type_ == "VARCHAR" else f"CAST({column} AS VARCHAR)"
    found = _mended(connection, relation, column, where, notes, warnings)
    as_floats = ("SELECT coalesce(bool_and(regexp_full_match(x, '-?[0-9]+\\.0')), false) "
                 "FROM (SELECT {} AS x FROM {}{}) WHERE x IS NOT NULL")
    if not all(connection.execute(as_floats.format(found, relation, limit)).fetchall()[0][0] for limit in (" LIMIT 1000", "")):
        return found
    notes.append(f"{where}: every id ends in '.0', as floats are written; '1.0' is read as '1'")
    return f"left({found}, len({found}) - 2)"


def _mended(connection: duckdb.DuckDBPyConnection, relation: str, column: str, where: str, notes: list[str], warnings: list[str]) -> str:
    """Return SQL for an id, `_text`; count the ids with blanks around them, and those that a spreadsheet has shortened. column: SQL."""
    edges = [f"{column} LIKE {literal(edge)}" for edge in (f"{BLANKS[-1]}%", *(f"%{blank}" for blank in BLANKS))]
    has_blanks = f"{column} < '!' OR {' OR '.join(edges)}"  # the blanks that may begin a text come before '!', all but the last
    # CASE, as AND may begin with its dear side.
    is_trimmed = f"CASE WHEN {has_blanks} THEN {_text(column)} IS NOT NULL END"
    is_short = f"CASE WHEN {column} LIKE '%E+%' THEN regexp_full_match({_text(column)}, '[0-9]([.,][0-9]+)?E[+][0-9]+') END"
    trimmed, example, several = connection.execute(
        f"SELECT count(*) FILTER ({is_trimmed}), any_value({column}) FILTER ({is_short}), count(*) FILTER ({is_short}) "
        f"FROM {relation}").fetchall()[0]
    if several:
        warnings.append(f"{where}: {several:,} ids are in scientific notation, such as {example.strip(BLANKS)!r}: a spreadsheet has "
                        "shortened them, so that different ids may have become one; export the table again with this column as text")
    if trimmed:
        notes.append(f"{where}: blanks around {trimmed:,} ids are left out")
        return _text(column)
    return f"CASE WHEN {column} >= '!' AND {column} NOT IN ({', '.join(map(literal, MISSING))}) THEN {column} END"


def _text(column: str) -> str:
    """SQL for a text without the blanks around it, null where nothing or one of `MISSING` is left. Trimming costs twenty times the
    comparisons: ids that need none are spared it."""
    plain = f"trim({column}, {literal(BLANKS)})"
    return f"CASE WHEN {plain} NOT IN ({', '.join(map(literal, MISSING))}) THEN {plain} END"


def time_unit(connection: duckdb.DuckDBPyConnection, relation: str, column: str, type_: str, where: str) -> TimeUnit:
    """Return how to read a time column; the unit of numbers is told by their median. column: SQL."""
    if type_ == "DATE" or type_.startswith("TIMESTAMP"):
        cast = f"CAST({column} AS TIMESTAMPTZ)"
        return TimeUnit(f"CASE WHEN isfinite({cast}) THEN epoch_us({cast}) END", 1_000_000, f"{where}: dates, read as UTC")
    if type_ not in (*INTEGERS, "FLOAT", "DOUBLE", "VARCHAR") and not type_.startswith("DECIMAL"):
        raise DataError(f"{where}: want Unix time, dates or ISO 8601 text, got {_known(type_)}; cast it first or name another")
    number = f"TRY_CAST({column} AS DOUBLE)"
    moment = (f"coalesce(TRY_CAST({column} AS TIMESTAMPTZ), CAST(try_strptime({column}, ['%m %d, %Y']) AS TIMESTAMPTZ))"
              if type_ == "VARCHAR" else "CAST(NULL AS TIMESTAMPTZ)")
    digits = f"CAST({_whole(column, type_)} AS VARCHAR)"
    whens = " ".join(f"WHEN {length} THEN try_strptime({digits}, '{form}')" for length, form in CALENDAR.items())
    day = f"CASE len({digits}) {whens} END"
    numbers, moments, median, days = connection.execute(
        f"SELECT count(d) FILTER (isfinite(d)), count(m), approx_quantile(d, 0.5) FILTER (isfinite(d)), "
        f"count(*) FILTER (year(c) BETWEEN 1990 AND {clock.gmtime().tm_year + 1}) "
        f"FROM (SELECT {number} AS d, {moment} AS m, {day} AS c FROM {relation})").fetchall()[0]
    if not numbers and not moments:
        example = connection.execute(f"SELECT any_value(CAST({column} AS VARCHAR)) FROM {relation}").fetchall()[0][0]
        got = f"values such as {example!r}" if example else "an empty column"
        raise DataError(f"{where}: want Unix time, dates or ISO 8601 text, got {got}; name another with --time")
    if moments > numbers:
        return TimeUnit(f"epoch_us({moment})", 1_000_000, f"{where}: text dates, read as UTC where no zone is given")
    if days > numbers / 2:  # of whole numbers that mean something else, one in thirty looks like a date
        return TimeUnit(f"epoch_us({day})", 1_000_000, f"{where}: numbers that spell dates, such as 20240131, read as UTC")
    if abs(median) < ORDINAL_BELOW:
        return TimeUnit(_whole(column, type_), None, f"{where}: numbers around {median:,.0f} are an order, not times")
    name, per_second = next((name, ticks) for below, name, ticks in UNITS if abs(median) < below)
    if type_ in INTEGERS:
        return TimeUnit(f"TRY_CAST({column} AS BIGINT)", per_second, f"{where}: {name} since 1970, told by their size")
    # Fractions of a second matter for the order: ticks of a microsecond (or the finer unit of the column).
    scale = max(1, 1_000_000 // per_second)
    ticks = (f"CASE WHEN isfinite({number}) AND abs({number}) < {9e18 / scale!r} "
             f"THEN CAST(floor({number} * {scale}) AS BIGINT) END")
    return TimeUnit(ticks, per_second * scale, f"{where}: {name} since 1970, told by their size")


def _known(type_: str) -> str:
    """A type for people; DuckDB's NULL is the type of a column without a value."""
    return "an empty column" if type_ == '"NULL"' else type_


def _whole(column: str, type_: str) -> str:
    """SQL for an int64, null where the value is no whole number."""
    if type_ in INTEGERS:
        return f"TRY_CAST({column} AS BIGINT)"
    number = f"TRY_CAST({column} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) AND {number} = trunc({number}) THEN TRY_CAST({number} AS BIGINT) END"


def _column(connection: duckdb.DuckDBPyConnection, query: str) -> np.ndarray:
    return connection.sql(query).to_arrow_table().column(0).to_numpy(zero_copy_only=False)


def _raw(role: str) -> str:
    return quoted(f"raw {role}")

