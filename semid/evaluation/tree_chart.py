"""The code tree as an icicle: one row a level, one cell a prefix, as wide as its share of the items (or of their weight).

Children stand largest first, so that cells too narrow to see lie together and become one cell that says how many it
stands for. `report.js` redraws the part a reader opens, from `tree_data`; without scripts the picture is complete too.

Axes: N items, L levels, D levels drawn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semid.evaluation.charts import SLOTS, pct, svg
from semid.evaluation.wording import clean, count, escape, percent, shorten

ROW = 56
"""Height of a level in pixels."""

NARROW = 1 / 600
"""Share of the width below which a cell is merged with its neighbours."""

MOST_OPENED = 20_000
"""Items up to which the page carries what it needs to open a cell (about 60 bytes an item)."""


@dataclass(frozen=True)
class Cell:
    """An interval [begin, end) of the drawing order at one level. merged: how many prefixes it stands for, 1 for its own."""

    level: int
    begin: int
    end: int
    merged: int = 1


def tree_order(codes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the items so that every prefix is an interval and siblings run from heavy to light.

    codes int [N, D]; weight [N] >= 0. Ties go to the lower code, then to the lower item row. O(N log N) per level.
    """
    keys: list[np.ndarray] = []
    for level in range(codes.shape[1]):
        _, node = np.unique(codes[:, : level + 1], axis=0, return_inverse=True)
        node = node.reshape(-1)
        keys += [-np.bincount(node, weights=weight)[node], codes[:, level]]
    return np.lexsort([np.arange(len(codes)), -weight, *reversed(keys)])


def cells(codes: np.ndarray, edge: np.ndarray, narrow: float) -> list[Cell]:
    """Return the cells to draw.

    codes int [N, D] in tree order (-1 pads right); edge float [N+1]: share of the width left of each item. Prefixes narrower
    than `narrow` that lie side by side under one parent become one cell, and nothing is drawn below it.
    """
    out: list[Cell] = []
    parents = [Cell(-1, 0, len(codes))]
    for level in range(codes.shape[1]):
        opened: list[Cell] = []
        for parent in parents:
            own = codes[parent.begin : parent.end, level]
            cuts = np.flatnonzero(np.diff(own)) + parent.begin + 1
            run: Cell | None = None
            for begin, end in zip([parent.begin, *cuts.tolist()], [*cuts.tolist(), parent.end], strict=True):
                if codes[begin, level] < 0:  # shorter codes end here
                    continue
                if edge[end] - edge[begin] >= narrow:
                    opened.append(Cell(level, begin, end))
                else:
                    run = Cell(level, run.begin if run else begin, end, run.merged + 1 if run else 1)
            if run:
                out.append(run)
        out += opened
        parents = opened
    return out


@dataclass(frozen=True)
class Tree:
    """Which items share which prefix of codes.

    codes int [N, L], -1 pads right; titles: N strings; weight float [N] >= 0 (events, say), None: every item counts 1;
    category: N strings ('' unknown) that colour the cells; levels: how many to draw.
    """

    codes: np.ndarray
    titles: list[str]
    weight: np.ndarray | None = None
    category: list[str] | None = None
    levels: int = 3
    weight_name: str = "items"


@dataclass(frozen=True)
class _Drawn:
    """A tree in drawing order. order [N] (row of the item), codes [N, D], edge [N+1], colour [N] (slot of the item's category)."""

    order: np.ndarray
    codes: np.ndarray
    weight: np.ndarray
    edge: np.ndarray
    titles: list[str]
    colour: np.ndarray
    names: list[str]


def arrange(tree: Tree) -> _Drawn:
    """Return the tree in drawing order. The six commonest categories have a colour, the rest are grey."""
    codes = np.asarray(tree.codes)[:, : tree.levels]
    weight = np.ones(len(codes)) if tree.weight is None else np.asarray(tree.weight, dtype=float)
    order = tree_order(codes, weight)
    shown = weight[order] if weight.sum() > 0 else np.ones(len(codes))
    edge = np.concatenate([[0.0], np.cumsum(shown)]) / max(shown.sum(), 1e-300)
    names: list[str] = []
    colour = np.zeros(len(codes), dtype=int)
    if tree.category is not None:
        tally = Counter(c for c in tree.category if c)
        names = sorted(tally, key=lambda c: (-tally[c], c))[: SLOTS - 1]
        slot = {name: k for k, name in enumerate(names)}
        colour = np.array([slot.get(tree.category[row], SLOTS - 1) for row in order], dtype=int)
    return _Drawn(order, codes[order], weight[order], edge, [tree.titles[row] for row in order], colour, names)


def mostly(drawn: _Drawn, cell: Cell) -> str:
    """Return the commonest category of a cell and its share of the items (`62 % Skin Care`); empty without categories."""
    if not drawn.names:
        return ""
    colours = drawn.colour[cell.begin : cell.end]
    slot = int(np.bincount(colours).argmax())
    return f"{percent((colours == slot).mean())} {drawn.names[slot] if slot < len(drawn.names) else 'other categories'}"


def heaviest(drawn: _Drawn, cell: Cell, most: int = 5) -> list[str]:
    """Return the titles of the heaviest items of a cell, cut to 60 characters."""
    best = cell.begin + np.argsort(-drawn.weight[cell.begin : cell.end], kind="stable")[:most]
    return [shorten(drawn.titles[k], 60) for k in best]


def said(drawn: _Drawn, cell: Cell) -> str:
    """Return the hover text of a cell: its prefix, how many items, up to five of their titles (heaviest first)."""
    size = cell.end - cell.begin
    path = [str(c) for c in drawn.codes[cell.begin, : cell.level + 1]]
    if cell.merged > 1:
        path = [*path[:-1], f"+{count(cell.merged)} more codes"]
    head = [" ".join(path), f"{count(size)} item{'' if size == 1 else 's'}", mostly(drawn, cell)]
    lines = [" · ".join(filter(None, head)), *heaviest(drawn, cell)]
    return "\n".join([*lines, f"+{count(size - 5)} more"] if size > 5 else lines)


def icicle(drawn: _Drawn, *, narrow: float = NARROW, attributes: Callable[[Cell], str] = lambda cell: "") -> str:
    """Return the picture. Cells say their code where it fits; merged cells reach down to the last level, in grey.

    narrow: share of the width below which cells are merged. attributes: markup that a cell's element carries besides its own.
    """
    depth = drawn.codes.shape[1]
    out = []
    for cell in cells(drawn.codes, drawn.edge, narrow):
        left, width = drawn.edge[cell.begin], drawn.edge[cell.end] - drawn.edge[cell.begin]
        y = cell.level * ROW
        high = (depth - cell.level) * ROW if cell.merged > 1 else ROW
        slot = int(np.bincount(drawn.colour[cell.begin : cell.end]).argmax())
        look = "merged" if cell.merged > 1 else f"f{slot} level{min(cell.level, 3)}"
        text = f"+{cell.merged}" if cell.merged > 1 else str(drawn.codes[cell.begin, cell.level])
        fits = width > 0.012 * len(text)
        box = f'x="{pct(left)}" y="{y}" width="{pct(width)}" height="{high - 1}"'
        look_of_text = "code tight" if width < 0.034 * len(text) else "code"  # tight: left out on a phone
        name = f'<svg {box}><text class="{look_of_text}" x="50%" y="{high / 2 + 4:g}">{text}</text></svg>' if fits else ""
        out.append(f'<g class="cell" data-cell="{cell.level},{cell.begin},{cell.end},{cell.merged}"{attributes(cell)}>'
                   f'<title>{escape(said(drawn, cell))}</title><rect class="{look}" {box}/>{name}</g>')
    label = f"Code tree of {len(drawn.titles)} items, {depth} levels; the table below it lists the largest codes"
    return svg("".join(out), height=depth * ROW, label=label, extra=" icicle")


def tree_data(drawn: _Drawn) -> str:
    """Return what `report.js` needs to open a cell: JSON that cannot end its <script>; empty for a large catalogue."""
    if len(drawn.titles) > MOST_OPENED:
        return ""
    data = {
        "row": ROW,
        "narrow": NARROW,
        "names": [clean(n) for n in drawn.names],
        "codes": drawn.codes.T.tolist(),
        "weight": [round(w, 3) for w in drawn.weight.tolist()] if (drawn.weight != 1).any() else [],
        "colour": drawn.colour.tolist() if drawn.names else [],
        "titles": [shorten(clean(t), 48) for t in drawn.titles],
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def top_codes(drawn: _Drawn, most: int = 40) -> list[tuple[int, int, str, list[str]]]:
    """Return (code, items, commonest category, up to five titles) of the heaviest first-level codes."""
    first = cells(drawn.codes[:, :1], drawn.edge, 0.0)[:most]
    return [(int(drawn.codes[c.begin, 0]), c.end - c.begin, mostly(drawn, c), heaviest(drawn, c)) for c in first]
