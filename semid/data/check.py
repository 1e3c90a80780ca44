"""What a person wants to know of two tables before training on them: is it what I think it is, and is it enough?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from semid.data.read import Dataset
from semid.data.report import SHOWN, ReadReport
from semid.types import DAY

if TYPE_CHECKING:
    from rich.console import Group



@dataclass(frozen=True)
class Statistics:
    """Counts, and shares in [0, 1]. A pair is two neighbouring events of one user."""

    users: int
    items: int
    events: int
    density: float
    """Distinct (user, item) pairs over users x items with events."""
    history_length: dict[str, int]
    """Events a user: min, 25%, 50%, 75%, 95%, max."""
    item_popularity: dict[str, int]
    """Events an item that has any: min, 25%, 50%, 75%, 95%, max."""
    repeat_rate: float
    """Share of events whose user had the item before."""
    exact_duplicates: int
    """Events that repeat user, item and time of another."""
    same_time_share: float
    """Share of pairs with equal times: their order is the source's, not the user's."""
    same_day_share: float | None
    """Share of pairs less than a day apart on one UTC day; None for an ordinal."""
    first_day: str | None
    last_day: str | None
    single_event_users: int
    short_users: int
    """Users with fewer than 3 events: leave-one-out trains on them but asks nothing."""
    cold_items: int
    """Items of the catalogue without an event."""
    items_without_text: int
    popular_share: float
    """Share of events that the most popular tenth of the items with events takes."""
    text_fields: tuple[str, ...]
    views: dict[str, int]
    """Width of each view."""


@dataclass(frozen=True)
class Check:
    """The reader's report and the statistics of what was kept."""

    report: ReadReport
    statistics: Statistics
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"fingerprint": self.fingerprint, "statistics": asdict(self.statistics), "report": self.report.to_dict()}

    def render(self) -> Group:
        """Return the check for `rich.print`: columns, steps, statistics, warnings, the first bad rows."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        statistics = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for label, shown in _for_people(self.statistics):
            statistics.add_row(label, shown)
        steps = Table("rows of", "step", "in", "kept", "left out", "how", box=None, padding=(0, 2, 0, 0))
        for step in self.report.steps:
            steps.add_row(step.table, step.name, f"{step.before:,}", f"{step.after:,}", f"{step.removed:,}", Text(step.note))
        parts: list[Any] = [Text(line) for line in self.report.lines() if not line.startswith(("events, ", "items, "))]
        parts += ["", steps, "", statistics]
        if self.report.bad_rows.num_rows:
            bad = Table("file", "line", "column", "value", "reason", box=None, padding=(0, 2, 0, 0))
            for row in self.report.bad_rows.slice(0, SHOWN).to_pylist():
                bad.add_row(*(Text("" if cell is None else str(cell)) for cell in row.values()))
            num_bad = self.report.bad_rows.num_rows
            parts += ["", Text(f"{num_bad:,} bad, the first {SHOWN}:" if num_bad > SHOWN else f"{num_bad} bad:"), bad]
        return Group(*parts)


def check(dataset: Dataset) -> Check:
    """Return the statistics of a data set beside its report. To list all bad rows, read with `on_bad_rows="drop"`."""
    return Check(dataset.report, statistics(dataset), dataset.fingerprint)


def statistics(dataset: Dataset) -> Statistics:
    """Count. O(E log E) time."""
    events, catalog = dataset.interactions, dataset.catalog
    lengths = np.diff(events.offsets)
    counts = events.counts
    seen = np.sort(counts[counts > 0])
    pair = events.user.astype(np.int64) * len(catalog) + events.item
    num_distinct = len(np.unique(pair))
    by_time = np.lexsort((events.time, pair))
    again = (np.diff(pair[by_time]) == 0) & (np.diff(events.time[by_time]) == 0)
    inside = np.diff(events.user) == 0
    num_pairs = max(int(inside.sum()), 1)
    seconds = events.time_unit == "seconds"
    texts = list(catalog.text.values())
    return Statistics(
        users=len(events.users), items=len(catalog), events=len(events),
        density=num_distinct / max(len(events.users) * len(seen), 1),
        history_length=_quantiles(lengths), item_popularity=_quantiles(seen),
        repeat_rate=1 - num_distinct / max(len(events), 1),
        exact_duplicates=int(again.sum()),
        same_time_share=float((inside & (np.diff(events.time) == 0)).sum() / num_pairs),
        same_day_share=float((inside & (np.diff(events.time // DAY) == 0)).sum() / num_pairs) if seconds else None,
        first_day=str(np.datetime64(int(events.time.min()), "s").astype("datetime64[D]")) if seconds else None,
        last_day=str(np.datetime64(int(events.time.max()), "s").astype("datetime64[D]")) if seconds else None,
        single_event_users=int((lengths == 1).sum()), short_users=int((lengths < 3).sum()),
        cold_items=int((counts == 0).sum()),
        items_without_text=sum(not any(row) for row in zip(*texts)) if texts else len(catalog),
        popular_share=float(seen[-max(len(seen) // 10, 1):].sum() / max(seen.sum(), 1)),
        text_fields=tuple(catalog.text), views={name: view.shape[1] for name, view in catalog.views.items()})


def _quantiles(values: np.ndarray) -> dict[str, int]:
    places = {"min": 0.0, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
    return {name: int(value) for name, value in zip(places, np.quantile(values, list(places.values()), method="lower"))}


def _for_people(s: Statistics) -> list[tuple[str, str]]:
    spread = lambda values: ", ".join(f"{name} {value:,}" for name, value in values.items())
    rows = [("users", f"{s.users:,}"), ("items", f"{s.items:,}"), ("events", f"{s.events:,}"), ("density", f"{s.density:.3%}"),
            ("events a user", spread(s.history_length)), ("events an item", spread(s.item_popularity)),
            ("events on the top tenth of items", f"{s.popular_share:.1%}"),
            ("events with an item the user had before", f"{s.repeat_rate:.1%}"),
            ("exact duplicates", f"{s.exact_duplicates:,}"),
            ("neighbours with equal times", f"{s.same_time_share:.1%}")]
    if s.same_day_share is not None:
        rows += [("neighbours on one day", f"{s.same_day_share:.1%}"), ("first and last day", f"{s.first_day} to {s.last_day}")]
    return [*rows, ("users with one event", f"{s.single_event_users:,}"),
            ("users with fewer than 3 events", f"{s.short_users:,}"),
            ("items without events", f"{s.cold_items:,}"), ("items without text", f"{s.items_without_text:,}"),
            ("text", ", ".join(s.text_fields) or "none"),
            ("vectors", ", ".join(f"{name} [{width}]" for name, width in s.views.items()) or "none")]
