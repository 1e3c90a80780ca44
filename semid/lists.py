"""Lists for many users and the events that a server stored, as tables in files: what goes into a shop's own systems, and back to training.

Files are Parquet or CSV by their ending, whole or not there at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from semid.errors import ConfigError, DataError, UnknownId
from semid.files import write_atomically

if TYPE_CHECKING:
    from semid.data.read import Dataset
    from semid.serving.contract import Request
    from semid.serving.engine import Engine
    from semid.serving.histories import Event


EVENT_ROW = pa.schema({"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64(), "action": pa.string(),
                       "value": pa.float64()})
"""Columns of events in a file."""


def users_of(engine: Engine, named: str) -> list[str]:
    """Return the ids in a text file, one a line, each once; or every user of the run's data if it is called "all".

    Raises `DataError` for a file that isn't there, is no text or names no user of the data.
    """
    known = engine.snapshot.run.split.source.users
    if named == "all":
        return known.ids.tolist()
    try:
        users = list(dict.fromkeys(line.strip() for line in Path(named).read_text(encoding="utf-8-sig").splitlines() if line.strip()))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--users {named}: want a text file with a user id a line, or all; got: {error}") from None
    if not any(user in known for user in users):
        got = f"the first is {users[0]!r}" if users else "it is empty"
        raise DataError(f"--users {named}: want ids of users in the data, got none of them; {got}, the data have e.g. {known.ids[0]!r}")
    return users


def write_lists(engine: Engine, users: Sequence[str], out: Path, ask: Request,
                tell: Callable[[dict], object] = lambda record: None) -> dict:
    """Write the lists of users as rows (user_id, rank from 1, item_id, score), best first, and say how it went.

    ask: what is asked for each, without history and user. Users that the data don't know get what `Request` gives somebody new. tell: gets
    records of progress. Raises `ConfigError` for another ending, the error of the first user that cannot be answered, `RunError` where the
    file cannot be written.
    """
    from semid.data.batch import LISTED

    schema = pa.schema({"user_id": pa.string(), "rank": pa.int32(), "item_id": pa.string(), "score": pa.float32()})
    began, counts = time.perf_counter(), {"users": len(users), "unknown_users": 0, "empty": 0, "rows": 0}

    def request(user: str) -> Request:
        try:
            past = engine.history(user)
        except UnknownId:
            counts["unknown_users"] += 1
            return ask
        return replace(ask, history=past.item_ids, times=past.times, user=user)

    def tables() -> Iterator[pa.Table]:
        for begin in range(0, len(users), LISTED):
            group = users[begin : begin + LISTED]
            rows: list[tuple] = []
            for user, answer in zip(group, engine.recommend([request(user) for user in group]), strict=True):
                if answer.error is not None:
                    raise answer.error
                counts["empty"] += not answer.item_ids
                rows += [(user, rank, item, score)
                         for rank, (item, score) in enumerate(zip(answer.item_ids, answer.scores, strict=True), start=1)]
            counts["rows"] += len(rows)
            tell({"stage": "lists", "step": begin + len(group), "steps": len(users), "seconds": time.perf_counter() - began})
            yield pa.table([list(column) for column in zip(*rows, strict=True)] or [[]] * len(schema), schema=schema)

    write_table(out, schema, tables())
    return {**counts, "out": str(out), "seconds": round(time.perf_counter() - began, 2)}


def write_events(events: Iterable[Event], out: Path, earlier: Dataset | None = None) -> dict[str, int]:
    """Write stored events as rows (user_id, item_id, timestamp in UTC seconds, action, value), which `semid train` reads; return how
    many: {"events" stored, "earlier", "in_both", "rows" written}.

    earlier: a log that comes first; a stored event whose user, item and second are in it isn't written again. Actions are left out where
    no event has one, values where not every event has one: a table of events has them in all rows. Raises as `write_lists`, and
    `DataError` for an earlier log that has an order but no times.
    """
    check_ending(out)
    tables, remaining = [EVENT_ROW.empty_table()], iter(events)
    while group := list(islice(remaining, 10_000)):
        columns = zip(*((event.user, event.item, event.time, event.action, event.value) for event in group), strict=True)
        tables.append(pa.table([list(column) for column in columns], schema=EVENT_ROW))
    table = stored = pa.concat_tables(tables)
    counts = {"events": len(stored), "earlier": 0, "in_both": 0}
    if earlier is not None:
        before, known = _rows_of(earlier), ["user_id", "item_id", "timestamp"]
        placed = stored.append_column("place", pa.array(range(len(stored)), pa.int64()))
        new = placed.join(before.select(known), known, join_type="left anti")
        table = pa.concat_tables([before, new.sort_by("place").select(EVENT_ROW.names)])
        counts |= {"earlier": len(before), "in_both": len(stored) - len(new)}
    if table["action"].null_count == len(table):
        table = table.drop_columns("action")
    if table["value"].null_count:
        table = table.drop_columns("value")
    write_table(out, table.schema, [table])
    return {**counts, "rows": len(table)}


def _rows_of(data: Dataset) -> pa.Table:
    log = data.interactions
    if log.time_unit != "seconds":
        raise DataError(f"{data.report.events}: want events with times, got an order alone: stored events have times, and which came first "
                        "could not be told; name the column of the times with --time")
    named = np.array([*data.report.actions, None], object)
    columns = {"user_id": log.users.ids[log.user], "item_id": log.items.ids[log.item], "timestamp": log.time,
               "action": named[np.full(len(log), -1) if log.action is None else log.action],
               "value": np.full(len(log), None) if log.value is None else log.value.astype(np.float64)}
    return pa.table([pa.array(columns[each.name], each.type) for each in EVENT_ROW], schema=EVENT_ROW)


def write_table(out: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables one after another into one file. Raises `ConfigError` for an ending that is neither .parquet nor .csv."""
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    check_ending(out)

    def write(temporary: Path) -> None:
        with (pq.ParquetWriter if out.suffix == ".parquet" else csv.CSVWriter)(str(temporary), schema) as file:
            for table in tables:
                file.write_table(table)

    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, write)


def check_ending(out: Path) -> None:
    """Raise `ConfigError` unless a file's name ends in .parquet or .csv."""
    if out.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"--out {out}: want a name that ends in .parquet or .csv")
