"""What a recipe is told besides its configuration and the data: where, from which seed, on what."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from semid.training.log import Log


@dataclass(frozen=True)
class Job:
    """out: the run folder, None = nothing is written; resume: go on from its checkpoints; device: a torch device name."""

    seed: int = 0
    out: Path | None = None
    device: str = "cpu"
    resume: bool = False
    log: Log = field(default_factory=Log)

    def checkpoint(self, stage: str) -> Path | None:
        """Return the checkpoint file of a stage, None without a run folder."""
        return None if self.out is None else self.out / f".{stage}.checkpoint.safetensors"
