"""What happened to a run's catalogue after training: one Parquet file a change in RUN/changes, applied in order when it is opened.

The trained files are never touched, so `semid evaluate RUN` measures what was trained. A change is on disk, whole, before anybody
sees it; two processes that change one run at once are found out, and the second is told to open it again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from semid.errors import RunError
from semid.serving.incoming import ID

Kind = Literal["add", "update", "remove", "restore"]
KINDS: tuple[Kind, ...] = ("add", "update", "remove", "restore")


class ChangedMeanwhile(RunError):
    """Another process changed the run folder since it was opened."""


class Journal:
    """The changes of one run folder. count: how many were read or written so far."""

    def __init__(self, folder: Path):
        self.folder = folder / "changes"
        self.count = 0

    def read(self) -> Iterator[tuple[Kind, pa.Table]]:
        """Yield the changes that were not read yet, in order. Raises `RunError` for a file that is damaged."""
        while (path := self._path(self.count + 1)).exists():
            try:
                table = pq.read_table(path, page_checksum_verification=True)
                kind = json.loads((table.schema.metadata or {})[b"semid"])["kind"]
            except (OSError, pa.ArrowException, KeyError, ValueError) as error:
                raise RunError(f"{path}: cannot be read: {error}; restore the file, or remove it and those after it") from None
            if kind not in KINDS:
                raise RunError(f"{path}: written by a newer semid (change {kind!r}); upgrade semid")
            self.count += 1
            yield kind, table

    def write(self, kind: Kind, table: pa.Table) -> None:
        """Put one more change on disk. Raises `ChangedMeanwhile` if another process was first, `RunError` if the folder
        can't be written."""
        path = self._path(self.count + 1)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        about = {"semid": json.dumps({"kind": kind})}
        try:
            self.folder.mkdir(exist_ok=True)
            pq.write_table(table.replace_schema_metadata(about), temporary, compression="zstd", write_page_checksum=True)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.link(temporary, path)  # unlike a rename, it fails where the file is there already
            try:
                _flush(self.folder)
            except OSError:
                path.unlink()
                raise
        except FileExistsError:
            raise ChangedMeanwhile(f"{path}: another process changed this run meanwhile, and nothing of this change was written; read the "
                                   "run again (a server: POST /reload), then repeat the change") from None
        except OSError as error:
            raise RunError(f"{self.folder}: the change cannot be written: {error.strerror or error}; nothing was changed") from None
        finally:
            temporary.unlink(missing_ok=True)
        self.count += 1

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"


def _flush(folder: Path) -> None:
    """Make the names in a folder last."""
    entry = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def merged(changes: Iterable[tuple[Kind, pa.Table]]) -> list[tuple[Kind, pa.Table]]:
    """Return few changes that come to the same: an item is added once, and before all that is said of it, so items may come first;
    columns and what is shown don't depend on each other, and of an item that came and went the last change counts. Each change copies
    tables as long as the catalogue."""
    changes, steps = list(changes), []
    for kind in ("add", "update"):
        tables = [table for found, table in changes if found == kind]
        steps += [(kind, pa.concat_tables(group)) for _, group in groupby(tables, key=lambda table: table.schema)]
    last = {id_: kind for kind, table in changes if kind in ("remove", "restore") for id_ in table[ID].to_pylist()}
    for kind in ("remove", "restore"):
        if ids := [id_ for id_, found in last.items() if found == kind]:
            steps.append((kind, pa.table({ID: pa.array(ids, pa.string())})))
    return steps
