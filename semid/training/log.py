"""What a run says while it runs: one JSON line a record in metrics.jsonl, and a view for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from semid.files import write_text


class Log:
    """Records go to `path` (append) and to `view`, a callable that draws them; both are optional.

    A record is {"stage", "step", "steps", ...}: loss and parts while training, `valid` after a look, free fields for
    other stages (`note`).
    """

    def __init__(self, path: Path | None = None, view: Callable[[dict], None] | None = None):
        self.path, self.view = path, view

    def write(self, stage: str, **record) -> None:
        record = {"stage": stage, **record}
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        if self.view is not None:
            self.view(record)

    def rewind(self, stage: str, step: int) -> None:
        """Drop the stage's records after `step`: a resumed run writes them again."""
        if self.path is None or not self.path.exists():
            return
        kept = [record for record in read_records(self.path) if record["stage"] != stage or record.get("step", 0) <= step]
        text = "".join(f"{json.dumps(record)}\n" for record in kept)
        write_text(self.path, text)


def read_records(path: Path) -> list[dict]:
    """Return the records of a metrics.jsonl, without the line that a killed process was writing; empty if there is no file."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
