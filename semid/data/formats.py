"""Files and tables of every kind as one thing: a `Source` that DuckDB can scan.

Kinds: "table" (Parquet and in-memory tables: typed columns, cheap to scan twice), "csv" (CSV, TSV and RecBole's atomic files:
all columns arrive as text, so that one set of checks serves all), "jsonl" (JSON Lines: text as well), "sequences" (LETTER's).
"""

from __future__ import annotations

import codecs
import glob
import gzip
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import duckdb
import numpy as np
import pyarrow as pa

from semid.data import letter
from semid.data.columns import listed
from semid.errors import DataError, did_you_mean

ENDINGS = {".inter.json": "sequences", ".item.json": "letter_items", ".inter": "recbole", ".item": "recbole",
           ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".txt": "csv", ".tsv": "tsv",
           ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
"""What a file is, by the end of its name; each also with `.gz` behind it. Longer endings come first."""

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
MEMORY = "1GB"
"""What DuckDB may hold before it spills to the temporary folder."""

UNREADABLE = (OSError, EOFError, zlib.error)
"""What a missing right, a broken disk or a damaged .gz raises."""

Bad = tuple[int, str, str | None, str]
"""(line from 1, column, value, reason)"""


@dataclass(frozen=True)
class Source:
    """A table that can be scanned. scan: SQL of the relation; columns: {name: DuckDB type} in source order;
    row: SQL of a row's number from 0, where the scan knows it; broken: a further column, not null where a line was no row;
    header: the line of a text file that names its columns."""

    name: str
    scan: str
    columns: dict[str, str]
    kind: Literal["table", "csv", "jsonl", "sequences"]
    path: Path | None = None
    row: str = ""
    quote: str = '"'
    broken: str | None = None
    header: int = 1


@dataclass(frozen=True)
class Staged:
    """A source ready for several passes. row: SQL of a row's number, from 0; num_rows counts the rows that could be parsed;
    bad: the lines that could not."""

    relation: str
    row: str
    num_rows: int
    bad: list[Bad]
    refused_lines: frozenset[int]


@contextmanager
def workspace() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with bounded memory and a temporary folder of its own, both gone afterwards."""
    folder = tempfile.mkdtemp(prefix="semid-read-")
    connection = duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": folder,
                                        "autoinstall_known_extensions": "false", "autoload_known_extensions": "false"})
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        connection.execute(f"ATTACH {literal(folder + '/stage.duckdb')} AS stage")  # on disk, where DuckDB compresses
        yield connection
    except duckdb.OutOfMemoryException as error:
        raise DataError(f"not enough memory or temporary disk in {folder}: {_first_line(error)}; "
                        "free some, or point TMPDIR at a larger disk") from None
    finally:
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)


def literal(text: str) -> str:
    """Return a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """Return a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def locate(events: Any, items: Any) -> tuple[Any, Any, dict[str, Path]]:
    """Return (events, items, feature files): a folder is replaced by the files in it, anything else is passed on.

    A folder holds `interactions.*` (or `*.inter`, `*.inter.json`), and maybe `items.*` (or `*.item`, `*.item.json`) and
    `features/*.npy`.
    """
    if not isinstance(events, (str, Path)) or not Path(events).is_dir():
        return events, items, {}
    folder = Path(events)
    found = _find(folder, ("interactions", "events"), (".inter", ".inter.json"))
    if found is None:
        content = listed(sorted(path.name for path in folder.iterdir())) or "nothing in it"
        raise DataError(f"{folder}: want interactions.* (parquet, csv, tsv, jsonl, each also .gz), *.inter or *.inter.json, "
                        f"got a folder with {content}; name the file itself")
    if items is None:
        items = _find(folder, ("items", "catalog"), (".item", ".item.json"))
    return found, items, {path.stem: path for path in sorted((folder / "features").glob("*.npy"))}


def _find(folder: Path, stems: Sequence[str], endings: Sequence[str]) -> Path | None:
    def fits(path: Path) -> bool:
        ending = _ending(path)
        stem = path.name.lower().removesuffix(".gz").removesuffix(ending or "")
        return path.is_file() and ending is not None and (ending in endings or stem in stems)

    matches = sorted(filter(fits, folder.iterdir()))
    if len(matches) > 1:
        raise DataError(f"{folder}: {listed(path.name for path in matches)} could each be meant; name the file itself")
    return matches[0] if matches else None


def _ending(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((ending for ending in ENDINGS if name.endswith(ending)), None)


def open_source(connection: duckdb.DuckDBPyConnection, source: Any, what: Literal["events", "items"]) -> Source:
    """Return the source behind a path or an in-memory table (pandas, polars, Arrow, DuckDB, or a dict of columns).

    Raises `DataError` for anything missing, empty, unreadable or of an unknown kind.
    """
    if isinstance(source, (str, Path)):
        return _open_file(connection, Path(source), what)
    return _from_arrow(connection, _to_arrow(source, what), what, "table", what)


def _open_file(connection: duckdb.DuckDBPyConnection, path: Path, what: Literal["events", "items"]) -> Source:
    _readable(path)
    ending = _ending(path)
    if ending is None:
        raise DataError(f"{path}: unknown kind of file; want a name that ends in {', '.join(ENDINGS)}, each also with .gz")
    kind = ENDINGS[ending]
    if kind == "sequences" and what == "events":
        return _from_arrow(connection, letter.read_sequences(path), str(path), "sequences", what)
    if kind == "letter_items" and what == "items":
        return _from_arrow(connection, letter.read_items(path), str(path), "table", what)
    if kind in ("sequences", "letter_items"):
        raise DataError(f"{path}: a {ending} file holds {'events' if kind == 'sequences' else 'items'}, it was given as {what}")
    if kind == "parquet":
        return _open_parquet(connection, path, what)
    if kind == "jsonl":
        return _open_jsonl(connection, path, what)
    return _open_csv(connection, path, kind, what)


def _readable(path: Path) -> None:
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file{did_you_mean(path.name, siblings)}")
    if not path.is_file():
        raise DataError(f"{path}: want a file, got a {'folder' if path.is_dir() else 'special file'}")
    if not _first_lines(path)[0]:
        raise DataError(f"{path}: the file is empty; want a header or a first row")


def _first_lines(path: Path) -> tuple[bytes, bytes]:
    """The first two lines, at most 1 MiB of each."""
    try:
        with open_text(path) as file:
            return file.readline(1 << 20), file.readline(1 << 20)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def open_text(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, unpacked if its name ends in .gz."""
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _open_parquet(connection: duckdb.DuckDBPyConnection, path: Path, what: str) -> Source:
    if path.name.lower().endswith(".gz"):  # DuckDB reads Parquet by offsets, so it needs it unpacked
        unpacked = Path(connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0]) / f"{what}.parquet"
        try:
            with open_text(path) as packed, unpacked.open("wb") as out:
                shutil.copyfileobj(packed, out)
        except UNREADABLE as error:
            raise DataError(f"{path}: cannot be unpacked ({error})") from None
        pattern = literal(str(unpacked))
    else:
        pattern = literal(_no_glob(path))
    try:
        columns = _describe(connection, f"read_parquet({pattern}, hive_partitioning = false)")
    except duckdb.Error as error:
        raise DataError(f"{path}: not a Parquet file that can be read ({_first_line(error)})") from None
    return Source(str(path), f"read_parquet({pattern}, hive_partitioning = false, file_row_number = true)", columns, "table",
                  row="file_row_number")


def _open_csv(connection: duckdb.DuckDBPyConnection, path: Path, kind: str, what: str) -> Source:
    first, second = _first_lines(path)
    says = re.fullmatch(rb"sep=(.)\s*", first.removeprefix(codecs.BOM_UTF8), re.IGNORECASE)  # how Excel is told the delimiter
    header, raw = (2, second) if says else (1, first)
    try:
        line = raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}:{header}: the header is not UTF-8 text; save the file as UTF-8") from None
    if not line.strip():
        raise DataError(f"{path}:{header}: the first line is empty; want the names of the columns there")
    guessed = max(DELIMITERS, key=lambda mark: len(_cells(line, mark, '"'))) if kind == "csv" else "\t"
    delimiter = says[1].decode("latin-1") if says else guessed
    quote = "" if kind == "recbole" else '"'
    names = [name.strip().strip(quote or None).replace('""', '"') for name in _cells(line, delimiter, quote)]
    if len(names) == 1 and what == "events":
        other = next((f"; it looks separated by {word}s: end its name in {'.tsv' if mark == chr(9) else '.csv'}"
                      for mark, word in DELIMITERS.items() if mark != delimiter and mark in line), "")
        want = repr(delimiter) if says else "tab" if kind != "csv" else "comma, tab, semicolon or bar"
        raise DataError(f"{path}:{header}: want columns separated by {want}, got one column {line[:80]!r}"
                        f"{other or '; write it with commas'}")
    types: dict[str, str] = {}
    if kind == "recbole":
        pairs = [name.partition(":") for name in names]
        names, types = [name for name, _, _ in pairs], {name: type_ for name, _, type_ in pairs}
    is_closed = len(names) > 1 and not names[-1]  # a delimiter at the end of each line
    if is_closed:
        names[-1] = "unnamed" + "_" * max(map(len, names))  # longer than any name, so none is equal
    _distinct(names, f"{path}:{header}")
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    scan = (f"read_csv({literal(_no_glob(path))}, auto_detect = false, header = true, delim = {literal(delimiter)}, "
            f"quote = {literal(quote)}, escape = {literal(quote)}, columns = {{{columns}}}, skip = {header - 1}, store_rejects = true, "
            "rejects_limit = 0, hive_partitioning = false, max_line_size = 33554432)")
    if is_closed:
        lenient = scan.replace("store_rejects = true, rejects_limit = 0", "ignore_errors = true")
        _want_empty(connection, lenient, names.pop(), f"{path}:{header}")
    sequences = [name for name, type_ in types.items() if type_.endswith("_seq")]
    if sequences:
        split = ", ".join(f"string_split({quoted(name)}, ' ') AS {quoted(name)}" for name in sequences)
        scan = f"(SELECT * REPLACE ({split}) FROM {scan})"
    types = {name: "VARCHAR[]" if name in sequences else "VARCHAR" for name in names}
    return Source(str(path), scan, types, "csv", path, quote=quote, header=header)


def _want_empty(connection: duckdb.DuckDBPyConnection, scan: str, column: str, where: str) -> None:
    """Raise `DataError` where the last column, which has no name, holds something."""
    try:
        found = connection.execute(f"SELECT any_value({quoted(column)}) FROM {scan}").fetchall()[0][0]
    except duckdb.Error:
        return  # told with all that is wrong in the file when it is staged
    if found is not None:
        raise DataError(f"{where}: want a name for each column, got none for the last one, which holds values such as "
                        f"{found[:80]!r}; name it")


def _distinct(names: Sequence[str], where: str) -> None:
    """SQL does not tell upper from lower case, so names that differ in case alone are one name twice."""
    plain = [name.lower() for name in names]
    wrong = next((name for name in names if not name or plain.count(name.lower()) > 1), None)
    if wrong is not None:
        raise DataError(f"{where}: want a name of its own for each column, upper and lower case being one, got {wrong!r} "
                        f"{'as a name' if not wrong else 'twice'} in {listed(names)}")


def _cells(line: str, delimiter: str, quote: str) -> list[str]:
    """Split a header line at delimiters outside quotes."""
    cells, inside, begin = [], False, 0
    for place, letter_ in enumerate(line):
        if quote and letter_ == quote:
            inside = not inside
        elif letter_ == delimiter and not inside:
            cells.append(line[begin:place])
            begin = place + 1
    return [*cells, line[begin:]]


def _open_jsonl(connection: duckdb.DuckDBPyConnection, path: Path, what: Literal["events", "items"]) -> Source:
    lines = (f"(SELECT json AS line FROM read_json_objects({literal(_no_glob(path))}, format = 'newline_delimited', "
             "ignore_errors = true, maximum_object_size = 33554432))")
    # Events are many and read as text; items are few and get the types that all of them agree on.
    sample = f"(SELECT * FROM {lines} LIMIT 100000)" if what == "events" else lines
    try:
        structure = connection.execute(f"SELECT json_group_structure(line) FROM {sample} "
                                       "WHERE json_type(line) = 'OBJECT'").fetchall()[0][0]
    except duckdb.Error as error:
        raise DataError(f"{path}: not JSON Lines ({_first_line(error)}); want one object a line") from None
    keys: dict[str, Any] = json.loads(structure) if structure else {}
    if not keys:
        raise DataError(f"{path}: want JSON Lines, one object {{\"user_id\": ..., \"item_id\": ...}} a line, got no such line")
    _distinct(list(keys), str(path))
    columns = {key: _json_type(type_) if what == "items" else "VARCHAR" for key, type_ in keys.items()}
    parts = [_json_value(key, type_) + f" AS {quoted(key)}" for key, type_ in columns.items()]
    broken = "broken" + "_" * max(map(len, columns))  # longer than any key, so none has this name
    text = "CASE WHEN json_type(line) = 'OBJECT' THEN NULL ELSE coalesce(CAST(line AS VARCHAR), '') END"
    scan = f"(SELECT {', '.join(parts)}, {text} AS {quoted(broken)} FROM {lines})"
    return Source(str(path), scan, columns, "jsonl", path, broken=broken)


def _json_type(structure: Any) -> str:
    if structure in ("BIGINT", "UBIGINT", "DOUBLE", "BOOLEAN"):
        return "BIGINT" if structure == "UBIGINT" else structure
    if isinstance(structure, list) and not isinstance(structure[0], (list, dict)):
        return "VARCHAR[]"
    return "VARCHAR"


def _json_value(key: str, type_: str) -> str:
    pointer = literal("/" + key.replace("~", "~0").replace("/", "~1"))
    if type_ == "VARCHAR[]":
        return f"from_json(line -> {pointer}, '[\"VARCHAR\"]')"
    return f"(line ->> {pointer})" if type_ == "VARCHAR" else f"TRY_CAST(line ->> {pointer} AS {type_})"


def _to_arrow(source: Any, what: str) -> pa.Table:
    """Any table that speaks Arrow's C stream interface (pandas, polars, Arrow, DuckDB) or a dict of columns."""
    try:
        table = pa.table(source)
    except (pa.ArrowException, OverflowError) as error:
        reason = "; ".join(map(str, error.args))
        raise DataError(f"{what}: a column cannot be read as one type ({reason}); make it text, say") from None
    except TypeError:
        raise DataError(f"{what}: want a path or a pandas, polars, Arrow or DuckDB table, got {type(source).__name__}"
                        + ("; call .collect() first" if type(source).__name__ == "LazyFrame" else "")) from None
    return table.drop_columns([name for name in table.column_names if name.startswith("__index_level_")])


def _from_arrow(connection: duckdb.DuckDBPyConnection, table: pa.Table, name: str, kind: Literal["table", "sequences"],
                what: str) -> Source:
    _distinct(table.column_names, name)
    view = f"given_{what}"
    connection.register(view, table)
    columns = _describe(connection, view)
    row = "row" + "_" * max(map(len, columns), default=0)  # longer than any name, so none is equal
    connection.register(view, table.append_column(row, pa.array(np.arange(len(table)))))
    return Source(name, view, columns, kind, row=row)


def _describe(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}


def stage(connection: duckdb.DuckDBPyConnection, source: Source, names: Sequence[str], table: str) -> Staged:
    """Make columns ready for several passes: text is parsed once into a compressed copy, tables stay where they are."""
    wanted = ", ".join(quoted(name) for name in names)
    try:
        if source.kind in ("table", "sequences"):
            rows = connection.execute(f"SELECT count(*) FROM {source.scan}").fetchall()[0][0]
            return Staged(source.scan, source.row, rows, [], frozenset())
        if source.broken:
            wanted += f", {quoted(source.broken)}"
        connection.execute(f"CREATE TABLE stage.{table} AS SELECT {wanted} FROM {source.scan}")
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise DataError(f"{source.name}: cannot be read ({_first_line(error)})") from None
    rows = connection.execute(f"SELECT count(*) FROM stage.{table}").fetchall()[0][0]
    refused = _refused_csv(connection, source) if source.kind == "csv" else []
    return Staged(f"stage.{table}", "rowid", rows, refused, frozenset(bad[0] for bad in refused))


def _refused_csv(connection: duckdb.DuckDBPyConnection, source: Source) -> list[Bad]:
    """Lines that DuckDB's parser refused, once each, with their true line numbers (by byte: DuckDB counts records)."""
    rows = connection.execute("SELECT min(byte_position), line_byte_position, any_value(csv_line), any_value(error_message) "
                              "FROM reject_errors GROUP BY line_byte_position ORDER BY line_byte_position").fetchall()
    connection.execute("DELETE FROM reject_errors")
    if not rows:
        return []
    starts = np.asarray([row[1] for row in rows])
    lines = _lines_at(source, starts)
    return [(int(line), "(line)", str(text).strip("\r\n")[:80], str(message))
            for line, (_, _, text, message) in zip(lines, rows)]


def _lines_at(source: Source, starts: np.ndarray) -> np.ndarray:
    """int64: the number, from 1, of the lines that begin at these byte positions (or hold them)."""
    assert source.path is not None
    with open_text(source.path) as file:
        ends = np.cumsum(np.fromiter(map(len, file), dtype=np.int64))
    return np.searchsorted(ends, starts, side="right") + 1


def lines_of(source: Source, staged: Staged, rows: np.ndarray) -> np.ndarray:
    """Return where rows stand, from 1: int64 line numbers of a text file, else row numbers. rows: ascending int64, from 0.

    Only walked when there are bad rows to report: blank lines hold no row, refused lines were reported already, and a quoted
    cell may span lines.
    """
    if source.path is None:
        return rows + 1
    lines = np.zeros(len(rows), dtype=np.int64)
    done, row, begin, inside = 0, -source.header if source.kind == "csv" else 0, 1, False
    mark = source.quote.encode()
    with open_text(source.path) as file:
        for number, line in enumerate(file, start=1):
            if done == len(rows):
                break
            if not inside:
                begin = number
            if number in staged.refused_lines:
                inside = False
                continue
            inside ^= source.kind == "csv" and bool(mark) and line.count(mark) % 2 == 1
            if inside or (begin == number and not line.strip()):
                continue
            while done < len(rows) and rows[done] == row:
                lines[done] = begin
                done += 1
            row += 1
    return lines


def _no_glob(path: Path) -> str:
    """DuckDB expands *, ? and [ in paths; a class of one character stands for itself."""
    return glob.escape(str(path))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
