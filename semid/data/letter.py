"""The JSON layout of LETTER and LC-Rec: `X.inter.json`, `X.item.json` and `X.index.json`.

`X.inter.json` {user: [item, ...]} in the order of time; `X.item.json` {item: {title, brand, ...}}; `X.index.json`
{item: ["<a_1>", "<b_2>", ...]}, the published semantic ids, one letter a level.

Sources: LETTER (arXiv 2405.07314) and LC-Rec (arXiv 2311.09049), data folders of their repositories.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pyarrow as pa

from semid.errors import DataError
from semid.types import IdMap, SemanticIds

log = logging.getLogger(__name__)

_TOKEN = re.compile(r"<([a-z]+)_(\d+)>")


def read_sequences(path: Path) -> pa.Table:
    """Return the events of an `.inter.json` file, columns user_id and item_id, in the file's order."""
    sequences = _load(path)
    wrong = next((user for user, items in sequences.items() if not isinstance(items, list)), None)
    if wrong is not None:
        raise DataError(f"{path}: want {{user: [item, ...]}}, got {type(sequences[wrong]).__name__} for user {wrong!r}")
    users = [user for user, items in sequences.items() for _ in items]
    items = [None if item is None else str(item) for items in sequences.values() for item in items]
    return pa.table({"user_id": pa.array(users, pa.string()), "item_id": pa.array(items, pa.string())})


def read_items(path: Path) -> pa.Table:
    """Return the items of an `.item.json` file: item_id and the union of their attributes."""
    items = _load(path)
    wrong = next((item for item, attributes in items.items() if not isinstance(attributes, dict)), None)
    if wrong is not None:
        raise DataError(f"{path}: want {{item: {{attribute: value}}}}, got {type(items[wrong]).__name__} for item {wrong!r}")
    names = dict.fromkeys(name for attributes in items.values() for name in attributes)
    columns = {name: _column([attributes.get(name) for attributes in items.values()]) for name in names}
    return pa.table({"item_id": pa.array(list(items), pa.string()), **{k: v for k, v in columns.items() if k != "item_id"}})


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException:  # mixed types: keep strings, write the rest as JSON
        texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
        return pa.array(texts, pa.string())


def read_index_json(path: str | Path, items: IdMap, sizes: Sequence[int] | None = None) -> SemanticIds:
    """Return the published codes of every item in `items`, in their row order.

    sizes: codes a level; None takes the largest code seen + 1. Raises `DataError` for items without codes, items twice
    in the file and tokens that are no codes; items of the file that the catalogue does not hold are counted in the log.
    """
    path = Path(path)
    index = _load(path)
    rows = items.rows(list(index))
    if (unknown := int((rows < 0).sum())):
        first = next(item for item, row in zip(index, rows.tolist()) if row < 0)
        log.warning("%s: %d of %d items are not in the catalogue, the first %r; left out", path, unknown, len(index), first)
    if (missing := [item for item in items.ids.tolist() if item not in index]):
        raise DataError(f"{path}: want codes for all {len(items):,} items, got none for {len(missing):,}, "
                        f"the first {missing[0]!r}; "
                        "drop those items, or use the index that belongs to this data")
    return codes_of_tokens([index[item] for item in items.ids.tolist()], items, str(path), sizes)


PUBLISHED_FILES = (".json", ".json.gz")
LARGEST = 1 << 20
"""Codes of a level that tables are made for."""


def write_index_json(path: Path, ids: SemanticIds, items: IdMap) -> None:
    """Write {item id: ["<a_1>", "<b_2>", ...]} as `read_index_json` reads it; padding is left out. Atomic; packed where the name ends
    in .gz.

    Raises `DataError` for more levels than the alphabet has letters, and for a name that would not be read as such a file.
    """
    from semid.files import write_atomically

    if not path.name.endswith(PUBLISHED_FILES):
        raise DataError(f"{path}: want a name that ends in {' or '.join(PUBLISHED_FILES)}, such as {path.stem}.index.json, by which the "
                        "codes are known when they are read again")

    if ids.levels > len(ascii_lowercase):
        raise DataError(f"{path}: want at most {len(ascii_lowercase)} levels, a letter each, got {ids.levels}; "
                        "this layout has no name for the others")
    index = {str(item): [f"<{letter}_{code}>" for letter, code in zip(ascii_lowercase, row, strict=False) if code >= 0]
             for item, row in zip(items.ids.tolist(), ids.codes.tolist(), strict=True)}
    text = (json.dumps(index, ensure_ascii=False, indent=0) + "\n").encode()
    packed = gzip.compress(text, mtime=0) if path.name.endswith(".gz") else text
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(packed))


def codes_of_tokens(tokens: Sequence[Sequence[str | int] | None], items: IdMap, source: str,
                    sizes: Sequence[int] | None = None) -> SemanticIds:
    """Return codes from one token list an item, `["<a_1>", "<b_2>"]`, in item order; also what a `letter_sid` column holds.

    Level l carries letter l of the alphabet, so that a shuffled or truncated list is an error and not another code. Plain numbers
    (`[12, 7, 1]`, as ColaRec's `colarec_gid`) are codes as they stand.

    >>> codes_of_tokens([["<a_3>", "<b_0>"]], IdMap(["x"]), "example").codes.tolist()
    [[3, 0]]
    """
    for item, row in enumerate(tokens):
        if not isinstance(row, list | tuple | None):
            raise DataError(f"{source}: item {items.ids[item]!r}: want a list of tokens such as ['<a_3>', '<b_17>'], got {row!r}")
    levels = max((len(row) for row in tokens if row), default=0)
    codes = np.full((len(tokens), levels), -1, dtype=np.int32)
    for item, row in enumerate(tokens):
        for level, token in enumerate(row or ()):
            if isinstance(token, int) and not isinstance(token, bool) and token >= 0:
                codes[item, level] = _within(token, items.ids[item], source)
                continue
            match = _TOKEN.fullmatch(str(token))
            if match is None or match.group(1) != chr(ord("a") + level):
                raise DataError(f"{source}: item {items.ids[item]!r}: want a token like '<{chr(ord('a') + level)}_12>' "
                                f"at level {level}, got {token!r}")
            codes[item, level] = _within(int(match.group(2)), items.ids[item], source)
        if not row:
            raise DataError(f"{source}: item {items.ids[item]!r} has no codes")
    return SemanticIds(codes, tuple(sizes) if sizes else tuple((codes.max(axis=0) + 1).tolist()), source=source)


def _within(code: int, item: object, source: str) -> int:
    if code >= LARGEST:
        raise DataError(f"{source}: item {item!r}: want codes below {LARGEST:,}, got {code:,}; mend the list")
    return code


def code_columns(table: pa.Table) -> list[str]:
    """Return the columns of an items table that hold published codes, lists of tokens such as `["<a_1>", "<b_2>"]`; by the first item."""
    found = []
    for name in table.column_names:
        first = table[name][0].as_py() if table.num_rows and pa.types.is_list(table.schema.field(name).type) else None
        if first and all(isinstance(token, str) and _TOKEN.fullmatch(token) for token in first):
            found.append(name)
    return found


def _load(path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise DataError(f"{path}: key {twice!r} appears twice; want every user and item once")
        return found

    try:
        packed = path.read_bytes()
        text = gzip.decompress(packed) if path.name.lower().endswith(".gz") else packed
        loaded = json.loads(text, object_pairs_hook=unique)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if not isinstance(loaded, dict):
        raise DataError(f"{path}: want a JSON object, got {type(loaded).__name__}")
    return loaded
