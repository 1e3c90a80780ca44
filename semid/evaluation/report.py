"""One run as one HTML page: how good, against whom, how it learnt, what its codes look like, whom it serves well.

The document around the sections is `page`'s. Everything that came from data is escaped. Without scripts the page loses sorting and the
opening of tree cells, no fact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np

from semid.evaluation import charts, code_sections, page
from semid.evaluation.charts import SLOTS, Line, Score
from semid.evaluation.report_values import Comparison, Latency, Report, Slice, Training, UserExample
from semid.evaluation.wording import THIN, count, duration, escape, fraction, large, p_value, percent, plain
from semid.files import write_text

SIGNIFICANT = 0.05
"""A p-value below this is called a difference."""


# The verdict --------------------------------------------------------------------------------------------------------


def _rivals(comparison: Comparison, protocol: str, metric: str) -> list[tuple[str, Score]]:
    """The other systems measured under a protocol, best first."""
    found = [(s.name, s.scores[protocol][metric]) for s in comparison.systems
             if s.name != comparison.subject and metric in s.scores.get(protocol, {})]
    return sorted([f for f in found if math.isfinite(f[1].mean)], key=lambda f: -f[1].mean)


def _gap(ours: float, theirs: float) -> float:
    """Ours over theirs minus one; infinite over nothing."""
    return ours / theirs - 1 if theirs else math.copysign(math.inf, ours) if ours else 0.0


def _outcome(gap: float, p: float | None) -> str:
    """win, loss or even: even means that the test finds no difference; untested gaps count as they stand."""
    if gap == 0 or (p is not None and p >= SIGNIFICANT):
        return "even"
    return "win" if gap > 0 else "loss"


def _clause(name: str, others: int, metric: str, gap: float, p: float | None) -> str:
    who = f"{name}, the strongest of {others} others," if others > 1 else name
    test = "not tested" if p is None else p_value(p)
    size = f" by {percent(abs(gap))}" if math.isfinite(gap) else ""
    outcome = _outcome(gap, p)
    if outcome == "even":
        change = f"{percent(gap, sign=True)}, " if math.isfinite(gap) else ""
        return f"cannot be told from {who} on {metric} ({change}{test})"
    return f"{'beats' if outcome == 'win' else 'loses to'} {who} on {metric}{size} ({test})"


def verdict(comparison: Comparison) -> tuple[str, str]:
    """Return (win|even|loss on the ranking metric, or mixed where protocols differ; the result in words, not escaped).

    First the ranking metric under every protocol against the strongest rival there, then other metrics with a rival ahead.
    """
    subject, clauses, behind, tones = comparison.subject, [], [], set()
    for protocol, metrics in comparison.own.scores.items():
        for metric, ours in metrics.items():
            rivals = _rivals(comparison, protocol, metric)
            if not rivals or not math.isfinite(ours.mean):
                continue
            name, theirs = rivals[0]
            gap = _gap(ours.mean, theirs.mean)
            if metric == comparison.primary:
                tones.add(_outcome(gap, theirs.p))
                clauses.append(f"{_clause(name, len(rivals), metric, gap, theirs.p)}, {protocol}")
            elif gap < 0:
                behind.append(f"{_clause(name, 1, metric, gap, theirs.p)}, {protocol}")
    if not clauses:
        protocol, scores = next(iter(comparison.own.scores.items()))
        mean = fraction(scores[comparison.primary].mean)
        return "even", f"{subject} reaches {comparison.primary} {mean}, {protocol}; nothing was measured beside it."
    text = f"{subject} {'; it '.join(clauses)}."
    if behind:
        more = f"; and trails on {len(behind) - 3} more numbers" if len(behind) > 3 else ""
        text += f" It {'; it '.join(behind[:3])}{more}."
    return tones.pop() if len(tones) == 1 else "mixed", text


# Sections: each returns the inside of one <section> ------------------------------------------------------------------


def _header(report: Report) -> str:
    h = report.header
    facts = {
        "Data": escape(h.data),
        "Protocol": f"{escape(h.protocol)} <code>{escape(h.protocol_hash)}</code>",
        "Data fingerprint": f"<code>{escape(h.fingerprint)}</code>",
        "Seeds": escape(", ".join(map(str, h.seeds))),
        "Training": duration(h.train_seconds),
        "Parameters": large(h.parameters),
        "Machine": escape(h.machine),
        "Date": escape(h.date),
        **{escape(name): escape(text) for name, text in h.facts.items()},
    }
    version = f" · semid {escape(h.version)}" if h.version else ""
    out = f'<p class="eyebrow">Evaluation report{version}</p><h1>{escape(h.recipe)} <span>on {escape(h.data)}</span></h1>'
    if report.comparison:
        tone, text = verdict(report.comparison)
        word = {"win": "Ahead", "even": "Undecided", "loss": "Behind", "mixed": "Mixed"}[tone]
        out += f'<p class="verdict {tone}"><b>{word}.</b> {escape(text)}</p>{_figures(report)}'
    notes = list(report.notes)
    if len(h.seeds) == 1:
        notes.insert(0, f"1 seed ({h.seeds[0]}): the intervals say how far users differ, not how far another training would.")
    if notes:
        out += f'<aside aria-label="Notes"><ul>{"".join(f"<li>{escape(n)}</li>" for n in notes)}</ul></aside>'
    return out + f'<dl class="facts">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items())}</dl>'


def _figures(report: Report) -> str:
    """The subject's own numbers, large: under the first protocol, with what they cost."""
    assert report.comparison
    own = report.comparison.own
    protocol, scores = next(iter(own.scores.items()))
    tens = {m: s for m, s in scores.items() if m.endswith("@10")}
    shown = {report.comparison.primary: scores[report.comparison.primary], **tens}
    tiles = [(m, fraction(s.mean), "" if s.low is None or s.high is None else f"{fraction(s.low)} – {fraction(s.high)}")
             for m, s in list(shown.items())[:3]]
    tiles.append(("Training", duration(report.header.train_seconds), "one seed, all stages"))
    if own.ms_per_user is not None:
        tiles.append(("Per user", f"{plain(own.ms_per_user)}{THIN}ms", "median"))
    body = "".join(f"<div><dt>{escape(name)}</dt><dd>{value}<small>{escape(under)}</small></dd></div>"
                   for name, value, under in tiles)
    return f'<dl class="figures" aria-label="{escape(own.name)}, {escape(protocol)}">{body}</dl>'


COSTS = ("Training", "ms / user", "Parameters")


def _comparison(comparison: Comparison) -> str:
    legend = (f"Bold: the best of its column. Small: 95 % bootstrap interval over users. Against {comparison.subject}: "
              f"how far another system's {comparison.primary} lies above (▲) or below (▼), with the p-value of a paired "
              f"permutation test, Holm-corrected; grey where p ≥ .05.")
    return "".join(_protocol_table(comparison, protocol) for protocol in comparison.protocols) + f'<p class="small">{escape(legend)}</p>'


def _protocol_table(comparison: Comparison, protocol: str) -> str:
    primary, subject = comparison.primary, comparison.subject
    systems = [s for s in comparison.systems if protocol in s.scores]
    measured = {s.name: {m: v for m, v in s.scores.get(protocol, {}).items() if math.isfinite(v.mean)} for s in systems}
    systems = sorted(systems, key=lambda s: -measured[s.name].get(primary, Score(-1.0)).mean)
    metrics = [m for m in comparison.metrics if any(m in row for row in measured.values())]
    best = {m: max((r[m].mean for r in measured.values() if m in r), default=math.nan) for m in metrics}
    ends = [e for r in measured.values() if primary in r for e in (r[primary].low, r[primary].mean, r[primary].high)
            if e is not None and math.isfinite(e)]
    marks = charts.ticks(min(ends, default=0.0), max(ends, default=1.0))
    domain = (marks[0], marks[-1])
    ours = measured.get(subject, {}).get(primary, Score(math.nan))
    head = [page.head("System", numeric=False), page.head(primary, numeric=False, under=charts.dot_axis(marks)),
            *(page.head(name, sortable=True) for name in (*metrics, f"Against {subject}", *COSTS, "Seeds"))]
    rows = []
    for system in systems:
        scores = measured[system.name]
        is_subject = system.name == subject
        cells = [f'<th scope="row">{escape(system.name)}</th>']
        dot = charts.dot_cell(scores[primary], domain, ours.mean, is_subject=is_subject) if primary in scores else ""
        cells.append(f'<td class="plot">{dot}</td>')
        cells += [_score_cell(scores.get(m), best[m]) for m in metrics]
        cells.append(_against(scores.get(primary), ours, is_subject=is_subject))
        dash = '<span class="none">–</span>'
        cells += [page.cell(dash if v is None else show(v), value=v) for v, show in (
            (system.train_seconds, duration), (system.ms_per_user, plain), (system.parameters, large))]
        cells.append(page.cell(str(system.seeds) if scores else dash, value=system.seeds))
        rows.append(f'<tr class="{"subject" if is_subject else ""}">{"".join(cells)}</tr>')
    return page.table(head, rows, caption=protocol[:1].upper() + protocol[1:], style="compare")


def _score_cell(score: Score | None, best: float) -> str:
    text, value = '<span class="none">–</span>', None
    if score is not None and math.isfinite(score.mean):
        value = score.mean
        text = f"<b>{fraction(value)}</b>" if value == best else fraction(value)
        if score.low is not None and score.high is not None:
            text += f"<small>{fraction(score.low)}–{fraction(score.high)}</small>"
    return page.cell(text, value=value)


def _against(theirs: Score | None, ours: Score, *, is_subject: bool) -> str:
    """How another system's number lies to ours: the sign is theirs."""
    if is_subject:
        return page.cell('<span class="none">reference</span>', value=0.0)
    if theirs is None or not math.isfinite(theirs.mean) or not math.isfinite(ours.mean):
        return page.cell('<span class="none">–</span>')
    gap = _gap(theirs.mean, ours.mean)
    outcome = _outcome(gap, theirs.p)
    arrow = {"win": "▲", "loss": "▼", "even": "≈"}[outcome]
    test = "not tested" if theirs.p is None else p_value(theirs.p)
    look = {"win": "ahead", "loss": "below", "even": "none"}[outcome]
    change = percent(gap, sign=True) if math.isfinite(gap) else "from 0"
    return page.cell(f'<span class="{look}">{arrow} {change}</span><small>{escape(test)}</small>', value=gap)


def _flat(record: dict, prefix: str = "") -> dict[str, float]:
    """All numbers of a nested record under dotted names."""
    out = {}
    for name, value in record.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{prefix}{name}."))
        elif isinstance(value, Real) and not isinstance(value, bool):
            out[prefix + name] = float(value)
    return out


CLOCK = {"step", "epoch", "time", "seconds", "elapsed", "eta"}
"""Fields of a record that say when, not what."""


def _training(training: Training) -> str:
    stages: dict[str, list[dict]] = {}
    for record in training.records:
        stages.setdefault(str(record.get("stage", "")), []).append(record)
    out = []
    for stage, records in stages.items():
        out.append(f"<h3>{escape(stage)}</h3>" if stage else "")
        out.append(_stage(records))
    return "".join(out)


def _stage(records: Sequence[dict]) -> str:
    points: dict[str, tuple[list[float], list[float]]] = {}
    lost = 0
    for record in records:
        flat = _flat(record)
        for name, value in flat.items():
            if name in CLOCK or "step" not in flat:
                continue
            if not math.isfinite(value):
                lost += 1
                continue
            xs, ys = points.setdefault(name, ([], []))
            xs.append(flat["step"])
            ys.append(value)
    series = {name: charts.thin(np.array(xs), np.array(ys)) for name, (xs, ys) in points.items()}
    losses = sorted((n for n in series if n == "loss" or n.startswith("parts.")), key=lambda n: n != "loss")
    losses += [n for n in series if n == "valid.loss"]
    out = []
    if losses:
        lines = [Line(LOSSES.get(name) or name.split(".", 1)[1], *series[name], slot=min(k, SLOTS - 1))
                 for k, name in enumerate(losses)]
        picture = charts.line_chart(lines, label="Loss over steps", x_name="step")
        out.append(page.figure("Loss", f"{plain(float(lines[0].y[-1]), 4)} at the end", picture))
    valid = [n for n in series if n.startswith("valid.") and "@" in n]
    out += [_signal(_metric_name(name), *series[name], is_valid=True) for name in valid]
    health = [n for n in series if n not in losses and n not in valid]
    small = "".join(_signal(_signal_name(name), *series[name]) for name in sorted(health, key=lambda n: n == "lr"))
    said = f'<p class="small">Not drawn because not finite: {count(lost)} of the values.</p>' if lost else ""
    return f'<div class="grid">{"".join(out)}</div>' + (f'<div class="grid three">{small}</div>' if small else "") + said


LOSSES = {"loss": "loss", "valid.loss": "validation"}


def _signal(title: str, x: np.ndarray, y: np.ndarray, *, is_valid: bool = False) -> str:
    best = int(y.argmax())
    said = f"{plain(float(y[-1]))} at the end"
    if is_valid:
        said = f"best {fraction(float(y[best]))} at step {count(float(x[best]))}"
    picture = charts.line_chart([Line(title, x, y)], label=f"{title} over steps: {said}", x_name="step",
                                height=210 if is_valid else 150)
    return page.figure(title, said, picture)


def _metric_name(name: str) -> str:
    """`valid.ndcg@10` as a reader knows it: `Validation NDCG@10`."""
    metric, at, k = name.removeprefix("valid.").partition("@")
    known = metric.upper() if metric.lower() in ("ndcg", "mrr", "map") else metric.replace("_", " ").capitalize()
    return f"Validation {known}{at}{k}"


def _signal_name(name: str) -> str:
    text = name.removeprefix("health.").removeprefix("valid.").replace("_", " ")
    return "Learning rate" if text == "lr" else text[:1].upper() + text[1:]


def _slices(slices: Sequence[Slice]) -> str:
    names = list(dict.fromkeys(n for s in slices for n in s.systems))
    out = []
    for part in slices:
        systems = {n: part.systems[n] for n in names if n in part.systems}
        picture = _rows(part, systems) if len(part.groups) <= 3 else charts.column_chart(
            part.groups, part.counts, systems, label=f"{part.metric} by {part.title}; the table below has the numbers")
        head = [page.head(part.title, numeric=False), page.head("Cases"), *(page.head(n) for n in systems)]
        rows = []
        for k, group in enumerate(part.groups):
            scores = "".join(_score_cell(row[k], math.nan) for row in systems.values())
            rows.append(f'<tr><th scope="row">{escape(group)}</th>{page.cell(count(part.counts[k]))}{scores}</tr>')
        table = page.folded(page.table(head, rows, caption=f"{part.metric} by {part.title}"))
        note = f'<p class="small">{escape(part.note)}</p>' if part.note else ""
        out.append(page.figure(f"By {part.title}", part.metric, picture, note + table))
    return f'{page.key(names)}<div class="grid">{"".join(out)}</div>'


def _rows(part: Slice, systems: dict[str, Sequence[Score]]) -> str:
    """Few groups: horizontal bars, each with its name and number beside it."""
    peak = charts.ticks(0, charts.highest([s for row in systems.values() for s in row]) or 1.0)[-1]
    out = []
    for g, group in enumerate(part.groups):
        out.append(f'<h4>{escape(group)} <span>{count(part.counts[g])} cases</span></h4><div class="bars">')
        for k, (name, row) in enumerate(systems.items()):
            bar = charts.bar_cell(row[g], peak, min(k, SLOTS - 1))
            out.append(f"<span>{escape(name)}</span>{bar}<span>{fraction(row[g].mean)}</span>")
        out.append("</div>")
    return "".join(out)


def _latency(latency: Latency) -> str:
    stages = {name: np.asarray(ms, dtype=float) for name, ms in latency.stages.items()}
    every = np.concatenate(list(stages.values()))
    low, high = max(float(every.min()), 1e-3), float(every.max())
    domain = (low / 1.15, max(high, low * 1.5) * 1.15)
    head = [page.head("Stage", numeric=False), page.head("Distribution, logarithmic", numeric=False, under=charts.time_axis(domain)),
            *(page.head(h) for h in ("p50", "p90", "p99", "Requests"))]
    rows = []
    for name, ms in stages.items():
        p50, p90, p99 = np.percentile(ms, [50, 90, 99]).tolist()
        picture = charts.histogram_cell(ms, domain, label=f"{name}: median {plain(p50)} ms, 99th percentile {plain(p99)} ms")
        rows.append(f'<tr><th scope="row">{escape(name)}</th><td class="plot wide">{picture}</td>'
                    f"{page.cell(f'<b>{plain(p50)}</b>')}{page.cell(plain(p90))}{page.cell(plain(p99))}{page.cell(count(len(ms)))}</tr>")
    setting = escape(f"{latency.setting} Lines mark the median and the 99th percentile.".strip())
    return f"<p>{setting}</p>" + page.table(head, rows, caption="Milliseconds per request", style="latency")


def _users(users: Sequence[UserExample]) -> str:
    out = []
    for example in users:
        past = max(example.history_length, len(example.history))
        rank = next((k for k, s in enumerate(example.suggestions, 1) if s.is_hit), None)
        result = f'<span class="hit">✓ found at {rank}</span>' if rank else '<span class="none">not found</span>'
        before = f'<li class="none">{count(past - len(example.history))} earlier</li>' if past > len(example.history) else ""
        history = before + "".join(f"<li><bdi>{escape(t)}</bdi></li>" for t in example.history)
        truth = "".join(f"<li><bdi>{escape(t)}</bdi></li>" for t in example.truth)
        shown = "".join(
            f'<li class="{"hit" if s.is_hit else ""}"><bdi>{escape(s.title)}</bdi>{" <b>✓ taken</b>" if s.is_hit else ""}'
            f"<span>{_score(s.score)}</span></li>" for s in example.suggestions)
        out.append(
            f"<article><header><h3>User <bdi>{escape(example.user)}</bdi></h3>{result}</header>"
            f"<div><h4>History <span>{count(past)} items, oldest first</span></h4><ul>{history}</ul>"
            f"<h4>Took next</h4><ul>{truth}</ul></div>"
            f'<div><h4>Recommended <span>{escape(example.scale)}</span></h4><ol class="ranked">{shown}</ol></div></article>')
    return f'<div class="users">{"".join(out)}</div>'


def _score(score: float) -> str:
    """Scores that read as a column: two decimals, more only for small ones."""
    return f"{score:.2f}".replace("-", "−") if abs(score) >= 0.1 else plain(score)


# The page -------------------------------------------------------------------------------------------------------------


def render(report: Report) -> str:
    """Return the page as one HTML text. The same report gives the same text."""
    parts = [
        ("quality", "Comparison", report.comparison, _comparison),
        ("slices", "Where it works", report.slices, _slices),
        ("training", "Training", report.training, _training),
        ("codes", "Use of codes", report.codes, code_sections.use),
        ("tree", "The code tree", report.tree, code_sections.tree),
        ("latency", "Latency", report.latency, _latency),
        ("users", f"{len(report.users or ())} users", report.users, _users),
        ("next", "What to type next", report.commands, page.commands),
    ]
    shown = [(name, title, section(value)) for name, title, value, section in parts if value is not None]
    return page.document(f"{report.header.recipe} on {report.header.data}", _header(report), shown, report.header.version)


def write(report: Report, path: str | Path) -> Path:
    """Write the page whole or not at all and return its path."""
    path = Path(path)
    write_text(path, render(report))
    return path
