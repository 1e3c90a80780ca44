"""What a report shows, as plain values: one frozen class a section. `report.render` turns them into a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from semid.errors import DataError, did_you_mean
from semid.evaluation.charts import Score
from semid.evaluation.tree_chart import Tree


@dataclass(frozen=True)
class Header:
    """What was run, on what, where. train_seconds: one seed, all stages; facts: more lines ({"Users": "22 363"})."""

    recipe: str
    data: str
    date: str
    protocol: str
    protocol_hash: str
    fingerprint: str
    seeds: Sequence[int]
    machine: str
    train_seconds: float
    parameters: int
    version: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """One row of the comparison.

    scores: {protocol label: {metric: Score}}; train_seconds: of one seed; ms_per_user: median latency.
    """

    name: str
    scores: dict[str, dict[str, Score]]
    seeds: int = 1
    train_seconds: float | None = None
    ms_per_user: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Comparison:
    """The system under report (`subject`, a name among `systems`) beside the others. `primary` is the metric that ranks them.

    Protocols and metrics are printed in the order the systems name them; a system may lack some.
    """

    subject: str
    systems: Sequence[System]
    primary: str = "NDCG@10"

    def __post_init__(self):
        names = [s.name for s in self.systems]
        if self.subject not in names:
            raise DataError(f"comparison.subject: want one of {names}, got {self.subject!r}{did_you_mean(self.subject, names)}")
        if not self.own.scores or any(self.primary not in metrics for metrics in self.own.scores.values()):
            raise DataError(f"comparison: want {self.primary} of {self.subject!r} under every protocol it has, got none")

    @property
    def own(self) -> System:
        """The system under report."""
        return next(s for s in self.systems if s.name == self.subject)

    @property
    def protocols(self) -> list[str]:
        """Labels of all protocols."""
        return list(dict.fromkeys(p for s in self.systems for p in s.scores))

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics."""
        return list(dict.fromkeys(m for s in self.systems for scores in s.scores.values() for m in scores))


@dataclass(frozen=True)
class Training:
    """The records of metrics.jsonl as they were read, in order.

    A record has `step`; `stage` (a name) splits a run into several charts. Numbers called `loss` or under `parts` are
    losses, those under `valid` validation metrics, everything else under `health` or at the top level a health signal.
    """

    records: Sequence[dict]


@dataclass(frozen=True)
class CodeUse:
    """How often each code is used. counts: L arrays int [size of level], items per code, zeros included;
    num_items and num_distinct: items, and distinct full codes among them."""

    counts: Sequence[np.ndarray]
    num_items: int
    num_distinct: int


@dataclass(frozen=True)
class Slice:
    """One metric over groups of cases.

    groups: G short labels; counts: G numbers of cases; systems: {name: G Scores}, the subject first.
    """

    title: str
    metric: str
    groups: Sequence[str]
    counts: Sequence[int]
    systems: dict[str, Sequence[Score]]
    note: str = ""

    def __post_init__(self):
        for name, size in [("counts", len(self.counts)), *((n, len(s)) for n, s in self.systems.items())]:
            if size != len(self.groups):
                raise DataError(f"slice {self.title!r}, {name}: want {len(self.groups)} values, one a group, got {size}")


@dataclass(frozen=True)
class Latency:
    """Milliseconds per request. stages: {name: samples float [n], n >= 1}, in order; setting: machine, batch, k, beams."""

    stages: dict[str, np.ndarray]
    setting: str = ""


@dataclass(frozen=True)
class Suggestion:
    """One recommended item."""

    title: str
    score: float
    is_hit: bool = False


@dataclass(frozen=True)
class UserExample:
    """One user to look at.

    history: titles, oldest first (the last ones suffice, `history_length` counts all); truth: titles; scale: what scores are.
    """

    user: str
    history: Sequence[str]
    suggestions: Sequence[Suggestion]
    truth: Sequence[str]
    history_length: int = 0
    scale: str = "score"


@dataclass(frozen=True)
class Report:
    """Everything a page can show. A section that is None is left out.

    commands: (what to type, what it does); notes: what a reader must know before trusting the numbers.
    """

    header: Header
    comparison: Comparison | None = None
    training: Training | None = None
    codes: CodeUse | None = None
    tree: Tree | None = None
    slices: Sequence[Slice] | None = None
    latency: Latency | None = None
    users: Sequence[UserExample] | None = None
    commands: Sequence[tuple[str, str]] | None = None
    notes: Sequence[str] = ()
