"""Training as a person sees it: a live bar a stage on a terminal, one line a minute in a pipe.

Fed by the records of `semid.training.log`; a record is drawn by what it holds, so a new stage or health signal needs no change.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

PLACE = {"stage", "step", "steps", "epoch", "seconds", "loss", "parts", "rate", "valid", "note", "health", "collisions", "unexplained",
         "tried"}
"""Fields with a place of their own; every other number of a record is a health signal."""

SHOWN_BY_BAR = {"step", "steps", "seconds"}

Mode = Literal["live", "lines", "quiet"]


class Progress:
    """Draws records. Use as a context manager; give `view()` to a `Log`.

    mode: live (bars that move), lines (one line a stage every `every` seconds, and every look and note), quiet (nothing);
    by default live on a terminal, lines elsewhere.
    """

    def __init__(self, console: Console, mode: Mode | None = None, *, every: float = 60.0,
                 clock: Callable[[], float] = time.monotonic):
        self.console, self.every, self.clock = console, every, clock
        self.mode = mode or ("live" if console.is_terminal else "lines")
        self._bars = Bars(TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(),
                          TextColumn("{task.fields[said]}", markup=False), console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._first: dict[str, tuple[float, float]] = {}
        self._best: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Progress:
        if self.mode == "live":
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.mode == "live":
            self._bars.stop()

    def view(self, name: str = "") -> Callable[[dict], None]:
        """Return what a `Log` calls with each record. name: put before the stages, to tell several runs apart."""
        return lambda record: self._draw(" ".join(dict.fromkeys(filter(None, [name, record["stage"]]))), record)

    def _draw(self, stage: str, record: dict) -> None:
        if self.mode == "quiet":
            return
        if "note" in record or ("health" in record and "step" not in record):
            self._say(stage, describe(record))
        elif "valid" in record:
            self._say(stage, f"{describe(record)}{self._judge(stage, record['valid'])}")
        if self.mode == "live":
            self._move(stage, record)
        elif "step" in record and "valid" not in record:
            self._tell(stage, record)

    def _say(self, stage: str, text: str) -> None:
        self.console.print(Text.assemble((f"{stage}: ", "bold"), text), soft_wrap=True)

    def _judge(self, stage: str, valid: dict[str, float]) -> str:
        """Compare with the best look so far by the last metric named, which is the one that selects."""
        name, value = list(valid.items())[-1]
        best = self._best.get(stage)
        if best is None or value > best[1]:
            self._best[stage] = (name, value)
            return "" if best is None else " (best so far)"
        return f" (best {fraction(best[1])})"

    def _move(self, stage: str, record: dict) -> None:
        if not record.get("steps"):
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=record["steps"], completed=record["step"], said="")
        task = self._tasks[stage]
        self._bars.update(task, completed=record["step"], total=record["steps"])
        if "valid" not in record:
            self._bars.update(task, said=describe({k: v for k, v in record.items() if k not in SHOWN_BY_BAR}))
        if record["step"] >= record["steps"]:
            self._bars.update(task, visible=False)

    def _tell(self, stage: str, record: dict) -> None:
        now = self.clock()
        self._first.setdefault(stage, (now, record["step"]))
        if stage in self._printed and now - self._printed[stage] < self.every:
            return
        self._printed[stage] = now
        self._say(stage, describe(record) + self._left(stage, now, record))

    def _left(self, stage: str, now: float, record: dict) -> str:
        began, first = self._first[stage]
        done = record["step"] - first
        if done <= 0 or not record.get("steps"):
            return ""
        return f", at most {duration((now - began) / done * (record['steps'] - record['step']))} left"


def describe(record: dict) -> str:
    """Return a record in words.

    >>> describe({"stage": "sasrec", "step": 50, "steps": 600, "epoch": 0.5, "loss": 7.25, "rate": 1e-3, "codes_used": 0.98})
    'step 50 of 600, 0.5 passes over the data, loss 7.25, rate 0.001, codes used 0.98'
    """
    said = []
    if "note" in record:
        said.append(str(record["note"]))
    if "step" in record:
        said.append(f"step {record['step']:,} of {record['steps']:,}" if record.get("steps") else f"step {record['step']:,}")
    if "epoch" in record:
        said.append(f"{record['epoch']:.1f} passes over the data")
    if "loss" in record:
        parts = record.get("parts") or {}
        said.append(f"loss {number(record['loss'])}" + (f" ({_numbers(parts)})" if len(parts) > 1 else ""))
    if "rate" in record:
        said.append(f"rate {number(record['rate'])}")
    said += [f"{name.replace('_', ' ')} {fraction(value)}" for name, value in (record.get("valid") or {}).items()]
    said += [_health(record["health"])] if record.get("health") else []
    if "collisions" in record:
        said.append(f"collision rate before they were mended {number(record['collisions']['rate_before'])}")
    if "unexplained" in record:
        said.append(f"unexplained after each level {', '.join(map(fraction, record['unexplained']))}")
    said += [f"{key.replace('_', ' ')} {_shown(value)}" for key, value in record.items() if key not in PLACE]
    if "seconds" in record:
        said.append(duration(record["seconds"]))
    return ", ".join(said)


def _health(values: dict) -> str:
    """Numbers by name; of a code table's levels, how many codes are in use."""
    levels = [f"{level['used']:,} of {level['size']:,}" for level in values.get("levels", ())]
    plain = _numbers({key: value for key, value in values.items() if key != "levels"})
    return f"{plain}, codes used {', '.join(levels)}" if levels else plain


def _numbers(values: dict) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in values.items())


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return _numbers(value)
    return number(value) if isinstance(value, int | float) else str(value)


def number(value: float) -> str:
    """Return three or four digits of a number.

    >>> number(0.08124), number(7.126), number(1234), number(0.0005)
    ('0.0812', '7.13', '1,234', '0.0005')
    """
    if isinstance(value, int) or not math.isfinite(value):
        return f"{value:,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if 1e-3 <= abs(value) < 1 else f"{value:.3g}"


def fraction(value: float | None) -> str:
    """Return a metric between 0 and 1 as papers print it.

    >>> fraction(0.08124), fraction(1.0), fraction(None)
    ('.0812', '1.0000', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    text = f"{value:.4f}"
    return text[1:] if text.startswith("0.") else text


def duration(seconds: float) -> str:
    """Return a time span in words.

    >>> duration(0.34), duration(14.2), duration(75), duration(4000)
    ('0.3 s', '14 s', '1 min 15 s', '1 h 6 min')
    """
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
