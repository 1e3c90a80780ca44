"""Writing a file so that a reader finds the old or the new content, never a part: what every stage keeps goes through here."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from semid.errors import RunError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)`, flush to disk, then rename. The folder must exist; the file gets the usual permissions.

    Raises `RunError` where the disk is full or the folder cannot be written; nothing of the attempt is left.
    """
    from safetensors import SafetensorError

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        usual = temporary.stat().st_mode  # safetensors makes its files private, and a server may run as somebody else
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, usual)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be written ({error}); free some space, or choose a folder that you may write to; "
                       "what was saved before is whole; repeat the command to go on (train: with --resume)") from error
    finally:
        with contextlib.suppress(OSError):  # where it could not be made, it cannot be removed
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write JSON, atomically, into a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1) + "\n")
