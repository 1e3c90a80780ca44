"""Rules over the catalogue: a boolean expression in SQL's notation to a mask over items.

The expression comes from users and requests, so it is parsed first and only what is on a list may appear in it: columns,
constants, comparisons, AND / OR / NOT, IN, LIKE, BETWEEN, CASE, casts and the functions below. What runs is written anew from
the tree that was checked, never the text that came, in a connection of its own that may touch neither files nor settings.
"""

from __future__ import annotations

import json
import re
from typing import Any

import duckdb
import numpy as np

from semid.data.columns import listed
from semid.data.items import is_string
from semid.errors import DataError, did_you_mean
from semid.types import Catalog

FUNCTIONS = frozenset([
    "lower", "upper", "trim", "ltrim", "rtrim", "length", "len", "strlen", "contains", "starts_with", "prefix", "ends_with",
    "suffix", "substring", "substr", "left", "right", "regexp_matches", "regexp_full_match", "concat",
    "list_contains", "list_has", "array_contains", "array_has", "list_has_any", "list_has_all", "array_has_any",
    "array_has_all", "list_value", "list_position", "abs", "round", "floor", "ceil", "ceiling", "least", "greatest", "coalesce",
    "ifnull", "nullif", "isnan", "isfinite", "sqrt", "ln", "log10", "exp", "pow", "power",
    "year", "month", "day", "hour", "date_part", "epoch", "make_date",
    "+", "-", "*", "/", "//", "%", "||", "&&", "@>", "<@", "^", "**", "~~", "!~~", "~~*", "!~~*", "~", "!~", "^@",
    "like_escape", "not_like_escape", "ilike_escape", "not_ilike_escape", "array_extract", "struct_extract",
])
"""What may be called; operators are functions too. None whose result may be far longer than its arguments, such as `replace` or `repeat`:
a condition of three such calls takes gigabytes."""

CLASSES = frozenset(["COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "OPERATOR", "FUNCTION", "BETWEEN", "CASE", "CAST",
                     "TYPE"])
"""Kinds of expressions that may appear. No subqueries, windows, lambdas, parameters or stars."""

LONGEST = 20_000
"""Characters of a condition."""

DEEPEST = 100
"""Parentheses inside one another. The parser takes time that grows with the square of those that it finds open."""

_QUOTED = re.compile(r"""(?<![eE])'[^']*'|(?<=[eE])'[^'\\]*'|"[^"]*"|--[^\n\r]*""")
"""What parentheses don't count in: text, names, a remark. Not e'...' where \\' may stand for a quote."""

_BEFORE, _AFTER = "SELECT 1 FROM catalog WHERE\n", "\nLIMIT 1"
"""What a condition stands between to be parsed. No parentheses, which "a) OR (b" would close; what is cut short fails behind it."""


def mask(catalog: Catalog, where: str) -> np.ndarray:
    """Return bool [N]: which items satisfy `where`. Null counts as no.

    >>> from semid.data.bundled import movielens
    >>> films = movielens().catalog
    >>> int(mask(films, "year < 1930 and 'Comedy' in categories").sum())
    28

    Raises `DataError` for a syntax error (with its place), an unknown column or function, and where no item matches.
    """
    found = matches(catalog, where)
    if not found.any():
        raise DataError(f"--where {where!r}: no item of {len(catalog):,} matches; check the values, which are compared exactly")
    return found


def matches(catalog: Catalog, where: str) -> np.ndarray:
    """Return what `mask` does; where no item matches, all are False."""
    locked: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False, "autoinstall_known_extensions": False,
        "autoload_known_extensions": False}
    with duckdb.connect(config=locked) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET lock_configuration = true")
        try:
            query = _parse(connection, where)
            _allow(query["statements"][0]["node"]["select_list"], where, catalog.table.column_names)
            [(checked,)] = connection.execute("SELECT json_deserialize_sql(?)", [json.dumps(query)]).fetchall()
            connection.register("catalog", catalog.table)
            column = connection.sql(checked).to_arrow_table().column(0)
        except RecursionError:
            raise DataError(f"--where {where[:60]!r}...: nested too deeply; write it flatter") from None
        except duckdb.Error as error:
            raise DataError(f"--where {where!r}: {_reason(error)}{_hint(catalog, error)}") from None
    if str(column.type) != "bool":
        raise DataError(f"--where {where!r}: want a condition that is true or false for an item, got {column.type}; "
                        "compare it with something, such as price < 20")
    return column.fill_null(False).to_numpy(zero_copy_only=False)


def _parse(connection: duckdb.DuckDBPyConnection, where: str) -> Any:
    """Return the tree of a query that selects the expression, after making sure that it is one expression and nothing else."""
    if not where.strip():
        raise DataError("--where: want a condition such as \"price < 20\", got nothing")
    if len(where) > LONGEST:
        raise DataError(f"--where: want at most {LONGEST:,} characters, got {len(where):,}; put long lists into a column")
    _check_parentheses(where)
    parsed = lambda text: json.loads(connection.execute("SELECT json_serialize_sql(?)", [text]).fetchall()[0][0])
    one = parsed(f"{_BEFORE}{where}{_AFTER}")
    if one["error"]:
        place = int(one.get("position", -1)) - len(_BEFORE)
        message = one["error_message"].split("\n")[0]
        wrong = f"{message}, at character {place + 1}" if 0 <= place < len(where) else message
        if wrong.endswith('near "LIMIT"'):  # ours, behind the condition
            wrong = "it breaks off at the end"
        raise DataError(f"--where {where[:200]!r}: {wrong}; want a condition such as \"category = 'x' and price < 20\"")
    empty, query = parsed(f"{_BEFORE}true{_AFTER}"), parsed(f"SELECT (\n{where}\n) FROM catalog")
    nodes = [statement["node"] for statement in one["statements"]]
    rest, plain = ([_without_places({k: v for k, v in node.items() if k != "where_clause"}) for node in group]
                   for group in (nodes, [empty["statements"][0]["node"]]))
    if rest != plain or query["error"]:
        raise DataError(f"--where {where!r}: want one condition and nothing else")
    return query


def _check_parentheses(where: str) -> None:
    """Raise `DataError` for parentheses that don't match or are too many, before the parser spends its time on them."""
    plain = _QUOTED.sub(lambda found: " " * len(found[0]), where)
    wrong, opened = "", []
    if stray := re.search(r"['\"$\\]|/\*", plain):  # as this reads the text, the parser must: no quotes of another kind
        sign = stray[0]
        wrong = f"{sign} at character {stray.start() + 1} " + ("is not closed" if sign in "'\"" else "may stand in quotes alone")
    for sign in re.finditer(r"[()]", plain):
        if sign[0] == "(":
            opened.append(sign.start() + 1)
        elif opened:
            opened.pop()
        else:
            wrong = wrong or f"the parenthesis at character {sign.start() + 1} closes none"
        if len(opened) > DEEPEST:
            wrong = wrong or f"more than {DEEPEST} parentheses inside one another"
    if opened and not wrong:
        wrong = f"the parenthesis at character {opened[-1]} is not closed"
    if wrong:
        raise DataError(f"--where {where[:200]!r}: {wrong}; want a condition such as \"category = 'x' and price < 20\"")


def _without_places(value: Any) -> Any:
    """Drop where in the text a node stands."""
    if isinstance(value, dict):
        return {k: _without_places(v) for k, v in value.items() if not k.startswith("query_location")}
    return [_without_places(v) for v in value] if isinstance(value, list) else value


def _allow(value: Any, where: str, columns: list[str]) -> None:
    """Walk the tree; raise `DataError` at the first thing that is not on the lists."""
    if isinstance(value, list):
        for part in value:
            _allow(part, where, columns)
    if not isinstance(value, dict):
        return
    kind = value.get("class")
    if kind is not None and kind not in CLASSES:
        raise DataError(f"--where {where!r}: a {kind.lower()} may not appear in a condition; want comparisons of columns")
    if kind == "COLUMN_REF":
        name = value["column_names"][0]
        if name.lower() not in (column.lower() for column in columns):
            raise DataError(f"--where {where!r}: unknown column {name!r}{did_you_mean(name, columns)}; "
                            f"the columns are: {listed(columns)}. Text goes in single quotes: category = 'x'")
    if kind == "FUNCTION" and value["function_name"].lower() not in FUNCTIONS:
        name = value["function_name"]
        raise DataError(f"--where {where!r}: unknown function {name!r}{did_you_mean(name, FUNCTIONS)}; "
                        f"known: {', '.join(sorted(f for f in FUNCTIONS if f[0].isalpha()))}")
    for part in value.values():
        _allow(part, where, columns)


def _reason(error: Exception) -> str:
    """The first line of DuckDB's message, without its kind."""
    return re.sub(r"^(\w+ )+Error: ", "", str(error).strip().split("\n")[0])


def _hint(catalog: Catalog, error: Exception) -> str:
    import pyarrow as pa

    if "Cannot compare values of type" in str(error) or "Could not convert string" in str(error):
        text = [field.name for field in catalog.table.schema if is_string(field.type)]
        return f"; the columns with text are {listed(text)}: compare them with text in single quotes, or cast: CAST(x AS DOUBLE) < 20"
    lists = [field.name for field in catalog.table.schema if pa.types.is_list(field.type) or pa.types.is_large_list(field.type)]
    if ("[]" not in str(error) and "list" not in str(error).lower()) or not lists:
        return ""
    return f"; {listed(lists)} hold lists: ask with list_contains({lists[0]}, 'x') or 'x' in {lists[0]}"
