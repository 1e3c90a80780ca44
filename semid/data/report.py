"""What reading did: the columns it chose, the rows it left out and why, in a form that a person can check.

Every row is accounted for: `rows_in` = `rows_kept` + the rows removed by each `Step`; each bad row is listed by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from semid.errors import DataError

BAD_ROW = pa.schema([("file", pa.string()), ("line", pa.int64()), ("column", pa.string()), ("value", pa.string()),
                     ("reason", pa.string())])
"""One bad row a line. `line` counts from 1: the line of a text file (the header is line 1), the row of any other table."""

SHOWN = 20
"""How many bad rows an error message lists."""


@dataclass(frozen=True)
class Step:
    """One thing that may have removed rows. table: "events" or "items"; before, after: rows; note: why."""

    table: Literal["events", "items"]
    name: str
    before: int
    after: int
    note: str = ""

    @property
    def removed(self) -> int:
        return self.before - self.after


@dataclass(frozen=True)
class ReadReport:
    """How two tables became `Interactions` and `Catalog`.

    events, items: the sources by name (items None = no table); event_columns, item_columns: {role: column};
    guessed: flags of the roles that were not given; notes: choices that the reader made; warnings: what may be wrong;
    steps: in order; bad_rows: a table of `BAD_ROW`; actions: name of action code k at place k.
    """

    events: str
    items: str | None
    event_columns: dict[str, str]
    item_columns: dict[str, str]
    guessed: tuple[str, ...]
    text: tuple[str, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    bad_rows: pa.Table = field(default_factory=lambda: BAD_ROW.empty_table())

    @property
    def rows_in(self) -> int:
        """Event rows of the source, unreadable lines included."""
        return next(step.before for step in self.steps if step.table == "events")

    @property
    def rows_kept(self) -> int:
        return [step.after for step in self.steps if step.table == "events"][-1]

    def lines(self) -> list[str]:
        """Return the report as plain lines, for a log or a terminal."""
        columns = [f"{table} {role} = {column!r}{' (guessed)' if _flag(table, role) in self.guessed else ''}"
                   for table, chosen in (("events", self.event_columns), ("items", self.item_columns))
                   for role, column in chosen.items()]
        text = f"item text = {', '.join(map(repr, self.text))}" if self.text else "item text: none"
        steps = [f"{step.table}, {step.name}: {step.before:,} -> {step.after:,} rows" + (f" ({step.note})" if step.note else "")
                 for step in self.steps]
        return [*columns, text, *self.notes, *steps, *(f"warning: {warning}" for warning in self.warnings)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; bad rows as their number and the first ones."""
        return {"events": self.events, "items": self.items,
                "event_columns": self.event_columns, "item_columns": self.item_columns,
                "guessed": list(self.guessed), "text": list(self.text), "actions": list(self.actions),
                "steps": [{"table": s.table, "name": s.name, "before": s.before, "after": s.after, "note": s.note}
                          for s in self.steps],
                "notes": list(self.notes), "warnings": list(self.warnings),
                "num_bad_rows": self.bad_rows.num_rows, "bad_rows": self.bad_rows.slice(0, SHOWN).to_pylist()}

    def write_bad_rows(self, path: str | Path) -> None:
        """Write every bad row to a CSV file: file, line, column, value, reason."""
        write_bad_rows(self.bad_rows, path)


class BadRows(DataError):
    """Rows that cannot be used, where they are an error. table: a table of `BAD_ROW`; is_whole: whether it holds all of them."""

    def __init__(self, message: str, table: pa.Table, is_whole: bool):
        super().__init__(message)
        self.table, self.is_whole = table, is_whole


def write_bad_rows(table: pa.Table, path: str | Path) -> None:
    """Write a table of `BAD_ROW` to a CSV file."""
    import pyarrow.csv

    try:
        pyarrow.csv.write_csv(table, str(path))
    except OSError as error:
        raise DataError(f"{path}: the bad rows cannot be written ({error}); name another file") from None


def _flag(table: str, role: str) -> str:
    return "item_id" if table == "items" and role == "item" else role


def bad_rows_table(file: str, rows: Sequence[tuple[int, str, str | None, str]]) -> pa.Table:
    """Return (line, column, value, reason) tuples of one file as a table of `BAD_ROW`, sorted by line."""
    rows = sorted(rows, key=lambda row: row[0])
    line, column, value, reason = ([row[k] for row in rows] for k in range(4))
    return pa.table([[file] * len(rows), line, column, value, reason], schema=BAD_ROW)


DROP = ("mend them, or leave them out with --on-bad-rows drop (on_bad_rows=\"drop\"); "
        "`semid data check ... --bad-rows FILE` writes all of them to a CSV file")


def fail_on(bad_rows: pa.Table, total: int, advice: str = DROP) -> None:
    """Raise `BadRows` that lists the first bad rows, where there are any. total: how many there are in all; advice: its last line."""
    if not total:
        return
    listed = [f"  {row['file']}:{row['line']}: {row['column']} = {_shown(row['value'])}: {row['reason']}"
              for row in bad_rows.slice(0, SHOWN).to_pylist()]
    if any("unicode" in row["reason"].lower() for row in bad_rows.slice(0, SHOWN).to_pylist()):
        advice = f"save the file as UTF-8: it seems to be in another encoding, such as Windows-1252; otherwise {advice}"
    more = [f"  ... and {total - len(listed):,} more"] if total > len(listed) else []
    head = f"{total:,} bad {'row' if total == 1 else 'rows'}:"
    raise BadRows("\n".join([head, *listed, *more, advice]), bad_rows, len(bad_rows) == total)


def _shown(value: str | None) -> str:
    return "empty" if value is None else repr(value if len(value) <= 60 else value[:57] + "...")
