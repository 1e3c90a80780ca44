"""Charts as SVG text: small pure functions from numbers to markup, no library and no state.

Every chart is as wide as its place on the page: x is given in per cent and y in pixels, so text keeps its size on a
phone and on a desk. Shapes that per cent cannot express sit in a nested <svg> that stretches. Colours are the classes
f0..f6 (fill) and k0..k6 (stroke) of `report.css`; 0 is the system under report. <title> elements are the hover texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from semid.evaluation.wording import THIN, count, escape, fraction, plain, shorten, tick_text

SLOTS = 7
"""How many colours there are; the last is a grey that all further series share."""

LEFT = 0.1
"""Share of a chart's width kept free for the numbers of its vertical axis."""


@dataclass(frozen=True)
class Score:
    """A mean and its 95 % interval.

    mean: NaN where nothing was measured; low, high: None without an interval; p: of the paired test against the system
    under report, corrected for the number of tests, None where there was none.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Line:
    """One curve: x and y of one length, finite; `slot` is its colour."""

    name: str
    x: np.ndarray
    y: np.ndarray
    slot: int = 0


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers (steps of 1, 2, 2.5 or 5 times a power of ten) that cover [low, high], ends included.

    A range too narrow to tell its ends apart is widened by half of its value.

    >>> ticks(0, 0.075)
    [0.0, 0.02, 0.04, 0.06, 0.08]
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 2 - math.floor(math.log10(step))
    return [round(k * step, digits) for k in range(first, last + 1)]


def pct(share: float) -> str:
    """Return a share of the chart's width as an SVG length."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def svg(body: str, *, height: float, label: str, extra: str = "") -> str:
    """Return a chart as wide as its place and `height` pixels high; `label` is read aloud instead of it."""
    return f'<svg class="chart{extra}" role="img" aria-label="{escape(label)}" width="100%" height="{height:g}">{body}</svg>'


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart until neighbours are `gap` apart inside [low, high], in the order given by `wanted`."""
    order = np.argsort(wanted, kind="stable")
    placed = np.asarray(wanted, dtype=float)[order]
    for k in range(len(placed)):
        placed[k] = max(placed[k], placed[k - 1] + gap if k else low)
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], placed[k + 1] - gap if k + 1 < len(placed) else high)
    out = np.empty(len(placed))
    out[order] = placed
    return out.tolist()


def thin(x: np.ndarray, y: np.ndarray, most: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `most` points: means of equal runs of the curve. Finite points only."""
    good = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, dtype=float)[good], np.asarray(y, dtype=float)[good]
    if len(x) <= most:
        return x, y
    runs = np.linspace(0, len(x), most + 1).astype(int)[:-1]
    size = np.diff(np.append(runs, len(x)))
    return np.add.reduceat(x, runs) / size, np.add.reduceat(y, runs) / size


def _text(look: str, x: str, y: float, text: str, anchor: str = "start") -> str:
    """A text; `text` is escaped already."""
    return f'<text class="{look}" text-anchor="{anchor}" x="{x}" y="{y:.1f}">{text}</text>'


def _stretched(shapes: str, height: float) -> str:
    """Shapes on a grid 1000 wide, stretched over the whole chart."""
    return f'<svg width="100%" height="{height}" viewBox="0 0 1000 {height}" preserveAspectRatio="none">{shapes}</svg>'


def _rules(marks: Sequence[float], place, right: float = 1.0) -> str:
    """Horizontal grid lines with their numbers at the left."""
    return "".join(
        f'<line class="grid" x1="{pct(LEFT)}" x2="{pct(right)}" y1="{place(m):.1f}" y2="{place(m):.1f}"/>'
        + _text("tick", "0", place(m) + 4, tick_text(m, marks[1] - marks[0]))
        for m in marks
    )


def line_chart(lines: Sequence[Line], *, label: str, x_name: str, height: int = 210) -> str:
    """Return curves over one x axis; several are named at their right ends. Hover reads all of them at a step."""
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return ""
    named = len(lines) > 1
    right = 0.8 if named else 0.98
    top, bottom = 10, height - 24
    xs, ys = np.concatenate([line.x for line in lines]), np.concatenate([line.y for line in lines])
    low, high = float(xs.min()), float(xs.max())
    marks = ticks(float(ys.min()), float(ys.max()))
    across = lambda x: LEFT + (x - low) / ((high - low) or 1.0) * (right - LEFT)
    down = lambda y: bottom - (y - marks[0]) / (marks[-1] - marks[0]) * (bottom - top)
    out = [_rules(marks, down, right)]
    for x in (x for x in ticks(low, high, 4) if x == int(x)):  # steps are whole
        if low <= x <= high:
            anchor = "end" if across(x) > 0.94 else "middle"
            out.append(_text("tick", pct(across(x)), height - 7, tick_text(x, max(1.0, (high - low) / 4)), anchor))
    paths = ""
    for line in reversed(lines):  # the first line is drawn last, on top
        if len(line.x) == 1:
            out.append(f'<circle class="f{line.slot}" cx="{pct(across(line.x[0]))}" cy="{down(line.y[0]):.1f}" r="3.5"/>')
        else:
            points = " ".join(f"{1000 * across(x):.1f},{down(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
            paths += f'<polyline class="line k{line.slot}" points="{points}"/>'
    out.append(_stretched(paths, height))
    if named:
        heights = spread([down(line.y[-1]) for line in lines], 14, top, bottom)
        out += [_text(f"name f{line.slot}", pct(right + 0.015), y + 4, escape(shorten(line.name, 14)))
                for line, y in zip(lines, heights, strict=True)]
    return svg("".join([*out, _readings(lines, x_name, bottom, right)]), height=height, label=label)


def _readings(lines: Sequence[Line], x_name: str, height: float, right: float) -> str:
    """Unseen bands over a line chart, each with what all its lines say there."""
    steps = lines[0].x
    stops = min(60, len(steps))
    wide = (right - LEFT) / stops
    out = []
    for k in range(stops):
        at = float(steps[0] + (steps[-1] - steps[0]) * (k + 0.5) / stops)
        near = [int(np.abs(line.x - at).argmin()) for line in lines]
        said = [f"{x_name} {count(float(steps[near[0]]))}"]
        said += [f"{line.name}: {plain(float(line.y[row]), 4)}" for line, row in zip(lines, near, strict=True)]
        out.append(f'<rect class="hit" x="{pct(LEFT + wide * k)}" width="{pct(wide)}" y="0" height="{height}">'
                   f"<title>{escape(chr(10).join(said))}</title></rect>")
    return "".join(out)


def _said(name: str, score: Score) -> str:
    text = f"{name} {fraction(score.mean)}"
    return text if score.low is None or score.high is None else f"{text} ({fraction(score.low)} to {fraction(score.high)})"


def highest(scores: Sequence[Score]) -> float:
    """The largest number a chart of these scores has to show; 0 when there is none."""
    ends = [s.mean if s.high is None else s.high for s in scores]
    return max((e for e in ends if math.isfinite(e)), default=0.0)


def column_chart(groups: Sequence[str], counts: Sequence[int] | None, systems: dict[str, Sequence[Score]], *, label: str,
                 height: int = 230) -> str:
    """Return one column per group and system with its interval; zero is on the axis. Colours follow the order of `systems`."""
    top, bottom = 10, height - 26
    marks = ticks(0.0, highest([s for row in systems.values() for s in row]) or 1.0)
    down = lambda y: bottom - max(0.0, y) / marks[-1] * (bottom - top)
    out = [_rules(marks, down)]
    band = (1 - LEFT) / len(groups)
    bar = band * (0.76 if len(systems) > 1 else 0.6) / len(systems)
    for g, group in enumerate(groups):
        centre = LEFT + (g + 0.5) * band
        cases = "" if counts is None else f" · {count(counts[g])} cases"
        for k, (name, row) in enumerate(systems.items()):
            if math.isfinite(row[g].mean):
                x = centre + (k - len(systems) / 2) * bar
                title = escape(f"{group}{cases}\n{_said(name, row[g])}")
                out.append(f"<g><title>{title}</title>{_column(row[g], x, bar, down, min(k, SLOTS - 1))}</g>")
        out.append(_text("tick", pct(centre), height - 9, escape(group), "middle"))
    return svg("".join(out), height=height, label=label)


def _column(score: Score, x: float, width: float, down, slot: int) -> str:
    y, zero = down(score.mean), down(0.0)
    box = f'x="{pct(x + width * 0.06)}" width="{pct(width * 0.88)}" y="{y:.1f}" height="{zero - y:.1f}"'
    out = f'<rect class="f{slot} bar" {box}/>'
    if score.low is not None and score.high is not None:
        middle = pct(x + width / 2)
        out += f'<line class="whisker" x1="{middle}" x2="{middle}" y1="{down(score.high):.1f}" y2="{down(score.low):.1f}"/>'
    return out


def bar_cell(score: Score, peak: float, slot: int) -> str:
    """Return one horizontal bar with its interval, on the scale [0, peak]."""
    share = lambda v: min(1.0, max(0.0, v / peak)) if peak > 0 else 0.0
    if not math.isfinite(score.mean):
        return svg("", height=16, label="none")
    body = f'<rect class="f{slot} bar" x="0" y="2" height="12" width="{pct(share(score.mean))}"/>'
    if score.low is not None and score.high is not None:
        body += f'<line class="whisker" y1="8" y2="8" x1="{pct(share(score.low))}" x2="{pct(share(score.high))}"/>'
    return svg(body, height=16, label=_said("", score).strip())


def dot_cell(score: Score, domain: tuple[float, float], reference: float, *, is_subject: bool) -> str:
    """Return a dot with its interval on the scale `domain`, and a dashed line at `reference`. Fills its table cell."""
    low, high = domain
    place = lambda v: pct(0.03 + 0.94 * (v - low) / (high - low))
    slot = 0 if is_subject else SLOTS - 1
    body = ""
    if math.isfinite(reference):
        body += f'<line class="reference" x1="{place(reference)}" x2="{place(reference)}" y1="0" y2="100%"/>'
    if score.low is not None and score.high is not None:
        body += f'<line class="span k{slot}" x1="{place(score.low)}" x2="{place(score.high)}" y1="50%" y2="50%"/>'
    body += f'<circle class="f{slot}" cx="{place(score.mean)}" cy="50%" r="{5 if is_subject else 4}"/>'
    return f'<svg class="dots" role="img" aria-label="{_said("", score).strip()}" width="100%" height="100%">{body}</svg>'


def dot_axis(marks: Sequence[float]) -> str:
    """Return the scale above a column of `dot_cell`s whose domain is from the first mark to the last."""
    shown = marks if len(marks) <= 5 else marks[::2]
    at = lambda v: 0.03 + 0.94 * (v - marks[0]) / (marks[-1] - marks[0])
    body = "".join(_text("tick", pct(at(m)), 11, tick_text(m, marks[1] - marks[0]), "middle") for m in shown)
    return f'<svg class="chart" aria-hidden="true" width="100%" height="14">{body}</svg>'


def use_chart(counts: np.ndarray, *, label: str, height: int = 150) -> str:
    """Return how often each code is used, most used first, against even use (dashed). counts: int [size]."""
    top, bottom = 10, height - 24
    ordered = np.sort(np.asarray(counts))[::-1].astype(float)
    size, even = len(ordered), float(np.mean(counts))
    marks = ticks(0.0, float(ordered[0]) or 1.0, 3)
    down = lambda y: bottom - y / marks[-1] * (bottom - top)
    across = lambda k: 1000 * (LEFT + (1 - LEFT) * k / size)
    runs = np.unique(np.linspace(0, size, min(size, 256) + 1).astype(int)).tolist()  # means over neighbours past 256
    steps = []
    for begin, end in pairwise(runs):
        y = down(ordered[begin:end].mean())
        steps += [f"{across(begin):.1f},{y:.1f}", f"{across(end):.1f},{y:.1f}"]
    area = f'<polygon class="f0 area" points="{across(0):.1f},{bottom} {" ".join(steps)} 1000,{bottom}"/>'
    line = f'<line class="reference" x1="{pct(LEFT)}" x2="100%" y1="{down(even):.1f}" y2="{down(even):.1f}"/>'
    body = [_rules(marks, down), _stretched(area, height), line,
            _text("note", "100%", down(even) - 5, f"even use: {plain(even)}", "end"),
            _text("tick", pct(LEFT), height - 7, "most used"), _text("tick", "100%", height - 7, f"{count(size)} codes", "end")]
    return svg("".join(body), height=height, label=label)


def time_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5 times powers of ten inside [low, high]; powers alone where there would be more than ten."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**e for e in exponents for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    coarse = [m for m in fine if f"{m:e}".startswith("1.0")]
    return coarse if len(fine) > 10 else fine


def histogram_cell(samples: np.ndarray, domain: tuple[float, float], *, label: str, bins: int = 48) -> str:
    """Return the distribution of positive numbers on a logarithmic scale `domain`, median and 99th percentile marked."""
    low, high = math.log10(domain[0]), math.log10(domain[1])
    place = lambda v: min(1.0, max(0.0, (math.log10(max(v, 1e-12)) - low) / (high - low)))
    heights, _ = np.histogram(np.log10(np.maximum(samples, domain[0])), bins=bins, range=(low, high))
    peak = max(1, int(heights.max()))
    body = "".join(f'<rect class="f0 bar" x="{pct(k / bins)}" width="{pct(0.9 / bins)}" y="{32 - h:.1f}" height="{h:.1f}"/>'
                   for k, h in enumerate((28 * heights / peak).tolist()) if h)
    for q, name in ((50, "median"), (99, "p99")):
        value = float(np.percentile(samples, q))
        body += (f'<line class="mark" x1="{pct(place(value))}" x2="{pct(place(value))}" y1="2" y2="34">'
                 f"<title>{name} {plain(value)}{THIN}ms</title></line>")
    return svg(body, height=36, label=label)


def time_axis(domain: tuple[float, float]) -> str:
    """Return the scale under a column of `histogram_cell`s, in milliseconds."""
    low, high = math.log10(domain[0]), math.log10(domain[1])
    body = ""
    for value in time_ticks(*domain):
        at = (math.log10(value) - low) / (high - low)
        anchor = "start" if at < 0.04 else "end" if at > 0.96 else "middle"
        body += _text("tick", pct(at), 12, plain(value), anchor)
    return f'<svg class="chart" aria-hidden="true" width="100%" height="16">{body}</svg>'
