"""Two tables in, checked arrays out: `read` is the one way that data enter semid."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from semid.data import columns as names
from semid.data import events as event_rows
from semid.data import filters
from semid.data import items as item_rows
from semid.data.formats import Source, lines_of, locate, open_source, stage, workspace
from semid.data.report import SHOWN, ReadReport, Step, bad_rows_table, fail_on
from semid.errors import DataError, did_you_mean
from semid.types import Catalog, IdMap, Interactions, Protocol, Split

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """What `read` returns. fingerprint: 16 hex digits over the events and the items' attributes, as read."""

    interactions: Interactions
    catalog: Catalog
    report: ReadReport
    fingerprint: str

    def split(self, protocol: Protocol) -> Split:
        """Return training rows and cases by a protocol."""
        from semid.data.split import split

        return split(self.interactions, self.catalog, protocol, self.fingerprint)


def read(
    events: Any,
    items: Any = None,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    position: str | None = None,
    action: str | None = None,
    value: str | None = None,
    split: str | None = None,
    actions: str | Sequence[str] | None = None,
    item_id: str | None = None,
    text: str | Sequence[str] | None = None,
    views: Mapping[str, str | Path | np.ndarray] | None = None,
    order: Literal["time", "file"] = "time",
    on_bad_rows: Literal["fail", "drop"] = "fail",
    duplicates: Literal["keep", "exact", "first", "last", "error"] = "keep",
    unknown_items: Literal["keep", "drop"] = "keep",
    user_core: int = 0,
    item_core: int = 0,
    min_events: int = 0,
) -> Dataset:
    """Read events and items, check every row, and return them sorted by user and time.

    events, items: a path (Parquet, CSV, TSV, JSON Lines, RecBole's .inter/.item, LETTER's .inter.json/.item.json, each also
        .gz), a pandas, polars, Arrow or DuckDB table, or a dict of columns. `events` may be a folder with interactions.*,
        items.* and features/*.npy.
    user ... split: the column of each role in events; None guesses by name, "" says that there is none.
    actions: the kinds of events to read, as the action column names them, such as ["buy"]; None: all of them, which train alike.
    item_id: the id column of items; text: its column or columns that an encoder should read (None: all strings that are no ids).
    views: {name: .npy file or array [rows of items, D]}.
    order: "file" takes the order of the source, for logs without times.
    duplicates: repeated (user, item) pairs: kept, only the first or the last event of each kept, or an error; exact: one event is kept of
        those that are alike in user, item, time, kind and value.
    unknown_items: events of items that the items table doesn't hold: kept, their items without attributes, or left out.
    user_core, item_core: iterated k-core, users and items with fewer events leave, items the catalogue too;
    min_events: users with fewer events leave, once, after that.

    >>> data = read({"user": ["a", "a"], "item": [7, 8], "timestamp": ["2020-01-02", "2020-01-01"]})
    >>> data.interactions.items.ids[data.interactions.item].tolist()
    ['8', '7']
    """
    _want_one_of("order", order, ("time", "file"))
    _want_one_of("on_bad_rows", on_bad_rows, ("fail", "drop"))
    _want_one_of("duplicates", duplicates, ("keep", "exact", "first", "last", "error"))
    _want_one_of("unknown_items", unknown_items, ("keep", "drop"))
    for name, number in (("user_core", user_core), ("item_core", item_core), ("min_events", min_events)):
        if number < 0:
            raise DataError(f"{name}: want 0 or more, got {number}")
    given = {"user": user, "item": item, "time": time, "position": position, "action": action, "value": value, "split": split}
    if order == "file" and position:
        raise DataError(f"order=file takes the order of the rows, and position={position!r} another one; leave one of them out")
    text = [text] if isinstance(text, str) else text
    actions = [actions] if isinstance(actions, str) else actions
    events, items, features = locate(events, items)

    with workspace() as connection:
        if items is None and unknown_items == "drop":
            raise DataError("unknown_items=drop leaves out what an items table doesn't hold, and none was given; name one with --items")
        catalogue, item_columns = _read_items(connection, items, item_id, text)
        source, chosen, in_file_order = _open_events(connection, events, given, order)
        staged = stage(connection, source, list(dict.fromkeys(chosen.chosen.values())), "events")
        rows_in = staged.num_rows + len(staged.bad)
        if not rows_in:
            raise DataError(f"{source.name}: want at least one event, got a header without rows")
        if not staged.num_rows:
            fail_on(bad_rows_table(source.name, staged.bad), rows_in, "not a single row could be read; mind quotes and delimiters")
        checked = event_rows.check_events(connection, source, staged, chosen.chosen)
        num_bad = checked.num_bad + len(staged.bad)
        every = on_bad_rows == "drop"
        bad = bad_rows_table(source.name, event_rows.list_bad(connection, checked, None if every else SHOWN))
        if catalogue:
            bad = pa.concat_tables([bad, bad_rows_table(catalogue.name, catalogue.bad)])
        if not every:
            fail_on(bad, num_bad + (len(catalogue.bad) if catalogue else 0))
        if num_bad == rows_in:
            fail_on(bad, len(bad), f"all {rows_in:,} rows of {source.name} are bad, nothing is left; mend them, or name other columns")
        found_kinds = event_rows.kinds(connection, checked)
        if actions is not None:
            _want_kinds(actions, found_kinds, checked)
        known = catalogue.ids if catalogue else np.empty(0, dtype=object)
        arrays = event_rows.fetch(connection, checked, known, in_file_order=in_file_order, actions=actions,
                                  with_stamps=duplicates == "exact")
    if catalogue and arrays.item.min() >= len(known):
        zeros = _same_but_zeros(arrays.item_ids[len(known):], known)
        raise DataError(f"{source.name}: none of its items is in {catalogue.name}: {arrays.item_ids[arrays.item[0]]!r} here, "
                        f"{known[0]!r} there; {zeros or 'name other columns with --item or --item-id'}")

    steps = [Step("events", "bad rows", rows_in, rows_in - num_bad, on_bad_rows)]
    if actions is not None:
        steps.append(Step("events", "kinds of events", rows_in - num_bad, len(arrays.user), f"{names.listed(actions)} read alone"))
    if catalogue:
        steps.append(Step("items", "bad rows", catalogue.rows_in, len(catalogue.ids), on_bad_rows))
        if unknown_items == "drop":
            steps.append(filters.drop_unknown_items(arrays, len(known), catalogue.name))
    notes = [*item_columns.notes, *(catalogue.notes if catalogue else ()), *chosen.notes, *checked.notes]
    warnings = [*(catalogue.warnings if catalogue else ()), *checked.warnings]
    if actions is None and len(found_kinds) > 1:
        told = [f"{kind!r} ({count:,})" for kind, count in list(found_kinds.items())[:SHOWN]]
        more = f" and {len(found_kinds) - SHOWN:,} more" if len(found_kinds) > SHOWN else ""
        warnings.append(f"{source.name}: column {checked.columns['action']!r} holds {len(found_kinds):,} kinds of events, which all train "
                        f"alike: {', '.join(told)}{more}; choose with --actions KIND,KIND (or name all, to read all)")
    if duplicates == "error":
        _refuse_duplicates(arrays, checked)
    elif duplicates != "keep":
        steps.append(filters.drop_duplicates(arrays, duplicates))
    in_core = np.ones(len(arrays.item_ids), dtype=bool)
    if user_core or item_core:
        step, in_core = filters.keep_core(arrays, user_core, item_core)
        steps.append(step)
    if min_events:
        steps.append(filters.drop_short_users(arrays, min_events))
    if not len(arrays.user):
        removed = "; ".join(f"{step.name} ({step.note}) removed {step.removed:,}" for step in steps)
        raise DataError(f"{source.name}: no event is left; {removed}; lower user_core, item_core or min_events")
    time_values, unit = _times(arrays, checked, in_file_order, notes, warnings)

    id_column = catalogue.column if catalogue else "item_id"
    table = item_rows.attributes(catalogue, arrays.item_ids, id_column)
    vectors = item_rows.read_views({**features, **(views or {})}, catalogue, arrays.item_ids)
    if not in_core.all():
        table, vectors = table.filter(pa.array(in_core)), {name: view[in_core] for name, view in vectors.items()}
    item_ids, item_codes = filters.compact(arrays.item_ids, arrays.item, in_core)
    has_events = np.bincount(arrays.user, minlength=len(arrays.user_ids)) > 0
    user_ids, user_codes = filters.compact(arrays.user_ids, arrays.user, has_events)
    fields = item_rows.texts(table, text, catalogue.name, id_column=id_column) if catalogue else {}
    interactions = Interactions(user_codes, item_codes, time_values, IdMap(user_ids), IdMap(item_ids), unit,
                                arrays.action, arrays.value, arrays.split)
    catalog = Catalog(interactions.items, table, fields, vectors)
    if catalogue:
        _compare(interactions, catalog, int(in_core[:len(known)].sum()), catalogue.name, notes, warnings)
    report = ReadReport(source.name, catalogue.name if catalogue else None, dict(chosen.chosen), dict(item_columns.chosen),
                        (*chosen.guessed, *item_columns.guessed), tuple(fields), tuple(steps), tuple(notes), tuple(warnings),
                        arrays.actions, bad)
    for step in steps:
        if step.removed:
            log.info("%s, %s: %d of %d rows left out (%s)", step.table, step.name, step.removed, step.before, step.note)
    for warning in warnings:
        log.warning("%s", warning)
    return Dataset(interactions, catalog, report, fingerprint(interactions, catalog))


def read_items(items: Any, *, item_id: str | None = None, views: Mapping[str, str | Path | np.ndarray] | None = None,
               as_text: Collection[str] = ()) -> Catalog:
    """Read a table of items alone: every row checked, columns as they are, all text fields. Arguments as in `read`; as_text: columns of a
    text file that are text whatever they look like."""
    with workspace() as connection:
        found, _ = _read_items(connection, items, item_id, None, as_text)
    assert found is not None
    for warning in found.warnings:
        log.warning("%s", warning)
    fail_on(bad_rows_table(found.name, found.bad), len(found.bad), "mend them: all of a table is taken, or none of it")
    table = item_rows.attributes(found, found.ids, found.column)
    return Catalog(IdMap(found.ids), table, item_rows.texts(table, None, found.name, id_column=found.column),
                   item_rows.read_views(views or {}, found, found.ids))


def _read_items(connection: duckdb.DuckDBPyConnection, items: Any, item_id: str | None,
                text: Sequence[str] | None, as_text: Collection[str] = ()) -> tuple[item_rows.Items | None, names.Columns]:
    if items is None:
        if item_id is not None or text is not None:
            raise DataError("item_id and text name columns of an items table, and none was given; name one with --items")
        return None, names.Columns({}, ())
    source = open_source(connection, items, "items")
    chosen = names.guess(list(source.columns), {"item": item_id}, names.ITEM_ROLES, source.name, {"item": "item_id"})
    column = names.require(chosen, "item", source.columns, source.name, "item_id")
    return item_rows.read_items(connection, source, column, as_text), chosen


def _open_events(connection: duckdb.DuckDBPyConnection, events: Any, given: Mapping[str, str | None],
                 order: str) -> tuple[Source, names.Columns, bool]:
    """Return the source, its columns, and whether its rows stand in the order of time already."""
    source = open_source(connection, events, "events")
    chosen = names.guess(list(source.columns), given, names.EVENT_ROLES, source.name, {"split": "split_column"})
    for role in ("user", "item"):
        names.require(chosen, role, source.columns, source.name)
    in_file_order = order == "file" or source.kind == "sequences"
    if in_file_order:
        chosen.chosen.pop("position", None)
    elif not {"time", "position"} & set(chosen.chosen):
        raise DataError(f"{source.name}: no time or position column found among {names.listed(source.columns)}; name one with "
                        "--time or --position, or say --order file (order=\"file\") if the rows stand in the order of time")
    return source, chosen, in_file_order


def _want_kinds(actions: Sequence[str], found: Mapping[str, int], events: event_rows.Events) -> None:
    """Raise `DataError` unless the events have a column of kinds and there are good rows of each that is wanted."""
    if not found:
        raise DataError(f"{events.source.name}: --actions reads some kinds of events alone, and no column of kinds was found among "
                        f"{names.listed(events.source.columns)}; name it with --action COLUMN")
    unknown = [kind for kind in actions if kind not in found]
    if unknown or not actions:
        got = f"got {unknown[0]!r}{did_you_mean(unknown[0], found)}" if unknown else "got none"
        raise DataError(f"{events.source.name}: --actions: want kinds of column {events.columns['action']!r}, {got}; "
                        f"it has: {names.listed(found)}")


def _refuse_duplicates(arrays: event_rows.Arrays, checked: event_rows.Events) -> None:
    repeats = np.sort(arrays.row[~filters.first_of_pair(arrays)])
    if len(repeats):
        shown = repeats[:SHOWN]
        order = np.argsort(arrays.row)
        ids = arrays.item_ids[arrays.item[order[np.searchsorted(arrays.row, shown, sorter=order)]]]
        lines = lines_of(checked.source, checked.staged, shown)
        rows = [(int(line), checked.columns["item"], str(id_), "the user has this item already (duplicates=\"error\")")
                for line, id_ in zip(lines, ids)]
        fail_on(bad_rows_table(checked.source.name, rows), len(repeats))


def _times(arrays: event_rows.Arrays, checked: event_rows.Events, in_file_order: bool, notes: list[str],
           warnings: list[str]) -> tuple[np.ndarray, Literal["seconds", "ordinal"]]:
    """Return int64 [E] that never falls inside a user, and what it counts. Position, or file order, wins over time."""
    name = checked.source.name
    by = "the order of the file" if in_file_order else f"position column {checked.columns.get('position')!r}"
    ordinal = arrays.row if in_file_order else arrays.position
    if arrays.time is None:
        assert ordinal is not None
        notes.append(f"{name}: no time; {by} orders the events of a user")
        return ordinal, "ordinal"
    unit = "seconds" if checked.unit and checked.unit.per_second else "ordinal"
    if ordinal is None:
        return arrays.time, unit
    falls = int(((np.diff(arrays.time) < 0) & (np.diff(arrays.user) == 0)).sum())
    if falls:
        warnings.append(f"{name}: {by} contradicts the times of {falls:,} neighbours; it wins, and the times are not used")
        return ordinal, "ordinal"
    notes.append(f"{name}: {by} orders the events of a user; the times agree with it")
    return arrays.time, unit


def _compare(interactions: Interactions, catalog: Catalog, num_known: int, name: str, notes: list[str],
             warnings: list[str]) -> None:
    """Say which items only one of the two tables holds, and which have no text."""
    if len(catalog) > num_known:
        unknown = catalog.items.ids[num_known:]
        zeros = _same_but_zeros(unknown, catalog.items.ids[:num_known])
        kept = "they are kept without attributes, and can be recommended; --unknown-items drop leaves them out"
        warnings.append(f"{len(unknown):,} of the {int((interactions.counts > 0).sum()):,} items of the events are not in {name}, "
                        f"the first {unknown[0]!r}; {zeros or kept}")
    idle = int((interactions.counts[:num_known] == 0).sum())
    if idle:
        notes.append(f"{name}: {idle:,} items have no event; they are kept and can be recommended")
    if not catalog.text:
        warnings.append(f"{name}: no text column, so text encoders have nothing to read; name some with --text")
        return
    mute = sum(not any(row) for row in zip(*catalog.text.values()))
    if mute:
        warnings.append(f"{mute:,} items have no text; they are kept and can be recommended")


def _same_but_zeros(unknown: np.ndarray, known: np.ndarray) -> str:
    """Say so where many ids would be known without the zeros that they begin with; '' otherwise."""
    plain = {str(id_).lstrip("0") for id_ in known}
    alike = [id_ for id_ in unknown.tolist() if str(id_).lstrip("0") in plain]
    if 2 * len(alike) <= len(unknown):
        return ""
    twin = next(id_ for id_ in known.tolist() if id_.lstrip("0") == alike[0].lstrip("0"))
    return (f"ids of {len(alike):,} of them differ by leading zeros alone, {alike[0]!r} here and {twin!r} there: write them alike in both "
            "tables")


def fingerprint(interactions: Interactions, catalog: Catalog) -> str:
    """Return 16 hex digits over the events, their ids and the items' attributes (not the views); the same for the same data
    in another file format with the same types."""
    import duckdb

    digest = hashlib.sha256(interactions.time_unit.encode())
    for ids in (interactions.users.ids, interactions.items.ids):
        digest.update("\0".join(ids.tolist()).encode())
    e = interactions
    for column in (e.user, e.item, e.time, e.action, e.value, e.split):
        digest.update(b"-" if column is None else np.ascontiguousarray(column).view(np.uint8).data)
    with duckdb.connect() as connection:
        connection.register("attributes", catalog.table)
        row = "row" + "_" * max(map(len, catalog.table.column_names))  # longer than any column, so it means the whole row
        rows = connection.sql(f"SELECT CAST(to_json({row}) AS VARCHAR) FROM attributes AS {row}").to_arrow_reader(1 << 16)
        for batch in rows:
            digest.update("\n".join(row or "" for row in batch.column(0).to_pylist()).encode())
    return digest.hexdigest()[:16]


def _want_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise DataError(f"{name}: want one of {names.listed(known)}, got {value!r}")
