"""Arrays on disk under the SHA-256 of everything they were computed from: the same question is never computed twice."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from semid.errors import RunError
from semid.files import write_atomically

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return $SEMID_CACHE, else ~/.cache/semid."""
    return Path(os.environ.get("SEMID_CACHE") or Path.home() / ".cache" / "semid")


def fingerprint(*parts: object) -> str:
    """Return 64 hex digits over the parts, in order. Lists are hashed entry by entry, anything else by its text.

    Every entry is preceded by its length, so ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        entries = part if isinstance(part, list) else [part]
        digest.update(len(entries).to_bytes(8, "little"))
        for entry in entries:
            data = str(entry).encode()
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cached(key: str, compute: Callable[[], np.ndarray], folder: Path, *, rows: int) -> np.ndarray:
    """Return the float32 [rows, D] array kept under `key`, else compute it and keep it.

    A file that cannot be read, or holds something else, is recomputed and replaced with one line in the log; a folder
    that cannot be written costs the next run its time, not this run its result. Writing is atomic.
    """
    path = folder / f"{key}.npy"
    if path.exists():
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            log.warning("cached vectors %s cannot be read (%s); computing them again", path, error)
        else:
            if array.dtype == np.float32 and array.ndim == 2 and len(array) == rows and np.isfinite(array).all():
                return array
            log.warning("cached vectors %s: want finite float32 [%d, D], got %s %s; computing them again",
                        path, rows, array.dtype, array.shape)
    array = compute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: _save(temporary, array))
    except (OSError, RunError) as error:
        log.warning("vectors are not cached: %s cannot be written (%s)", path, error)
    return array


def _save(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:  # by its name, numpy would add .npy
        np.save(file, array, allow_pickle=False)
