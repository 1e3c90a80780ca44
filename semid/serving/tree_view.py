"""The code tree of what is served, as the page shows it: one part of it at a time, with the listed items' paths lit.

Axes: N items, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.errors import ConfigError
from semid.evaluation.tree_chart import MOST_OPENED, Cell, Tree, arrange, icicle, said
from semid.evaluation.wording import count, escape
from semid.reporting import categories
from semid.serving.snapshot import Snapshot

LEVELS = 3
"""Levels drawn at once."""

NARROW = 1 / 300
"""Share of the width below which cells are merged; opening a merged cell's parent shows them apart."""

TITLES = 12
"""Titles of an opened part that are listed below it."""


@dataclass(frozen=True)
class View:
    """What to show. picture: SVG markup; crumbs: (label, prefix) from the root to the part shown; legend: (colour slot, category);
    titles: the best known items of an opened part; note: what a person should know."""

    picture: str
    crumbs: tuple[tuple[str, str], ...]
    legend: tuple[tuple[int, str], ...]
    titles: tuple[str, ...]
    note: str


def prefix(text: str) -> tuple[int, ...]:
    """Return codes from "3.17". Raises `ConfigError`."""
    try:
        codes = tuple(int(part) for part in text.split(".")) if text else ()
    except ValueError:
        codes = (-1,)
    if any(not 0 <= code < 2**31 for code in codes):
        raise ConfigError(f"under: want codes from the root on with dots between them, such as 3.17, got {text[:100]!r}")
    return codes


def view(snapshot: Snapshot, under: tuple[int, ...], listed: Sequence[str], chosen: str | None) -> View:
    """Draw the living items whose codes begin with `under`, those of `listed` and `chosen` lit. Takes O(N L).

    Of more than 20,000 items the best known are drawn. Raises `ConfigError` for a run without codes or a prefix of no item.
    """
    if snapshot.codes is None:
        raise ConfigError(f"recipe {snapshot.run.recipe!r} ranks items directly: there is no code tree")
    codes = snapshot.codes.ids.codes
    is_below = (codes[:, : len(under)] == np.array(under, np.int64)).all(axis=1) if len(under) < codes.shape[1] else np.zeros(0, bool)
    rows = np.flatnonzero(is_below)
    rows = rows[snapshot.alive[rows]]
    if not len(rows):
        raise ConfigError(f"under: no item's codes begin with {'.'.join(map(str, under))} and go on; open another part of the tree")
    note = f"{count(len(rows))} items, as wide as they are often taken."
    if len(rows) > MOST_OPENED:
        rows = np.sort(rows[np.argsort(-snapshot.popularity[rows], kind="stable")[:MOST_OPENED]])
        note = f"{note} Drawn are the {count(MOST_OPENED)} best known; open a part to see all of it."
    names = categories(snapshot.catalog)
    drawn = arrange(Tree(codes[rows][:, len(under) :], [snapshot.catalog.titles[row] for row in rows],
                         snapshot.popularity[rows] + 1.0, None if names is None else [names[row] for row in rows],
                         levels=min(LEVELS, codes.shape[1] - len(under))))
    place = rows[drawn.order]
    lit = np.isin(place, snapshot.catalog.items.rows(listed))
    is_chosen = np.isin(place, snapshot.catalog.items.rows([] if chosen is None else [chosen]))

    def attributes(cell: Cell) -> str:
        inside = slice(cell.begin, cell.end)
        mark = ' data-lit="chosen"' if is_chosen[inside].any() else ' data-lit="listed"' if lit[inside].any() else ""
        opens = cell.merged == 1 and cell.end - cell.begin > 1 and len(under) + cell.level + 1 < codes.shape[1]
        path = ".".join(map(str, [*under, *drawn.codes[cell.begin, : cell.level + 1].tolist()]))
        text = escape(said(drawn, cell).split("\n")[0] + (f", {lit[inside].sum()} of the list" if lit[inside].any() else ""))
        role = f' role="button" data-under="{path}"' if opens else ' role="img"'
        return f'{mark}{role} tabindex="-1" aria-label="{text}"'

    best = rows[np.argsort(-snapshot.popularity[rows], kind="stable")[:TITLES]]
    steps = tuple((str(code), ".".join(map(str, under[: level + 1]))) for level, code in enumerate(under))
    return View(icicle(drawn, narrow=NARROW, attributes=attributes).replace('role="img"', 'role="group"', 1),
                (("All items", ""), *steps), tuple(enumerate(drawn.names)),
                tuple(snapshot.catalog.titles[row] for row in best) if under else (), note)
