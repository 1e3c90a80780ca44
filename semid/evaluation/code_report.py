"""Ways of making codes side by side, as one HTML page: which to take, what they keep, how they are used, what collides, what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from semid.evaluation import charts, code_sections, page
from semid.evaluation.charts import SLOTS, Score
from semid.evaluation.code_advice import SIGNIFICANT, best
from semid.evaluation.code_values import CodesReport, Measured
from semid.evaluation.wording import count, duration, escape, fraction, p_value, percent, plain
from semid.files import write_text

KINDS = {"behaviour": "Neighbours by behaviour", "content": "Neighbours by content"}
FIRST = ("first code", "first two codes", "first three codes")
"""Lengths of prefixes that are looked at: deeper ones are hardly shared by anybody, and all codes of an item are its own."""
NO_BREAK = "\u00a0"
DASH = '<span class="none">–</span>'


def render(report: CodesReport) -> str:
    """Return the page as one HTML text. The same report gives the same text."""
    parts = [("scores", "Side by side", _scores(report)), ("keeps", "What the codes keep", _keeps(report)),
             ("neighbours", "Neighbours that share codes", _neighbours(report)), ("use", "Use of codes", _uses(report)),
             ("tree", "The code tree", _trees(report)), ("collisions", "Items that collide", _collisions(report)),
             ("advice", "What to do", _advice(report))]
    what = f"{report.ways[0].name} on {report.data}" if len(report.ways) == 1 else f"Codes of {report.data}"
    return page.document(what, _header(report, what), [part for part in parts if part[2]], report.version)


def write(report: CodesReport, path: Path) -> Path:
    """Write the page whole or not at all and return its path."""
    write_text(path, render(report))
    return path


def _header(report: CodesReport, what: str) -> str:
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in report.facts.items())
    return (f'<p class="eyebrow">Tokenizer laboratory · semid {escape(report.version)}</p><h1>{escape(what)}</h1>'
            f'<p class="verdict">{escape(report.advice[0])}</p><dl class="facts">{facts}</dl>')


def _scores(report: CodesReport) -> str:
    """What a way scores, costs and does to items with equal codes; best first."""
    first = best(report.ways)
    probes = [way.probe for way in report.ways if way.probe]
    marks = charts.ticks(min((p.low for p in probes), default=0.0), max((p.high for p in probes), default=1.0))
    scored = [page.head("NDCG@10 of the probe", numeric=False, under=charts.dot_axis(marks)), page.head("NDCG@10", sortable=True),
              page.head("Against the best", sortable=True)] if probes else []
    head = [page.head("Way of making codes", numeric=False), *scored,
            *(page.head(name, sortable=True) for name in ("Seconds", "Share codes before", "after", "Levels", "Refit: other first code",
                                                         "Free codes under a prefix"))]
    rows = []
    for way in sorted(report.ways, key=lambda way: -(way.probe.mean if way.probe else -1.0)):
        cells = [f'<th scope="row">{escape(way.name)}</th>', *(_probe_cells(way, first, (marks[0], marks[-1])) if probes else [])]
        processor = "" if way.cpu_seconds is None else f"<small>{duration(way.cpu_seconds)} of processor</small>"
        cells.append(_number(way.seconds, lambda seconds, under=processor: duration(seconds) + under))
        known = way.collisions or {}
        cells += [_number(known.get(f"colliding_share_{when}"), percent) for when in ("before", "after")]
        sizes = [str(level["size"]) for level in way.levels]
        cells.append(page.cell(f"{len(sizes)} × {sizes[0]}" if len(set(sizes)) == 1 else " × ".join(sizes), value=len(sizes)))
        cells.append(_number(way.churn[0] if way.churn else None, percent))
        free, full = way.head_room["median"], way.head_room["full"]
        cells.append(page.cell(f"{count(free)}<small>{percent(full)} of items: none</small>", value=free))
        rows.append(f'<tr class="{"subject" if way is first else ""}">{"".join(cells)}</tr>')
    ground = report.ground
    note = ("The probe is semid's two-level generator with a small budget on some of the users, the same for every way: it ranks ways, it "
            "does not say how good a full training gets. Small: 95 % interval over users; against the best: paired permutation test, "
            "Holm-corrected, grey where p ≥ .05. " if probes else "")
    note += "Share codes: items with exactly the codes of another, before and after they were told apart. "
    if ground.earlier is not None:
        note += (f"Refit: made once from the first {percent(ground.earlier[0])} of the training events and their "
                 f"{count(ground.earlier[1])} items, once from all; share of those items whose first code changed, after the best "
                 "one-to-one renaming of codes. ")
    note += "Free codes: last codes that nobody has under an item's own prefix, the median over items."
    return page.table(head, rows, caption="Score, cost and collisions", style="compare") + f'<p class="small">{escape(note)}</p>'


def _probe_cells(way: Measured, first: Measured | None, domain: tuple[float, float]) -> list[str]:
    if way.probe is None or first is None or first.probe is None:
        return [f'<td class="plot">{DASH}</td>', page.cell(DASH), page.cell(DASH)]
    probe, is_first = way.probe, way is first
    score = Score(probe.mean, probe.low, probe.high)
    gap = probe.mean / first.probe.mean - 1 if first.probe.mean else 0.0
    said = '<span class="none">the best</span>'
    if not is_first:
        look, test = ("none", "not tested") if probe.p is None else ("none" if probe.p >= SIGNIFICANT else "below", p_value(probe.p))
        said = f'<span class="{look}">{percent(gap, sign=True)}</span><small>{escape(test)}</small>'
    return [f'<td class="plot">{charts.dot_cell(score, domain, first.probe.mean, is_subject=is_first)}</td>',
            page.cell(f"{fraction(probe.mean)}<small>{fraction(probe.low)}–{fraction(probe.high)}</small>", value=probe.mean),
            page.cell(said, value=gap)]


def _number(value: float | None, show) -> str:
    return page.cell(DASH) if value is None or not math.isfinite(value) else page.cell(show(value), value=value)


def _keeps(report: CodesReport) -> str:
    """What the codes tell of the vectors and categories."""
    errors = [kind for kind in KINDS if any(kind in way.error for way in report.ways)]
    lengths = _lengths(report) if report.ground.category else 0
    deep = min(2, max(way.depth for way in report.ways))
    head = [page.head("Way of making codes", numeric=False), *(page.head(f"Left of {kind}", sortable=True) for kind in errors),
            *(page.head(f"Same category: {FIRST[k]}", sortable=True) for k in range(lengths)),
            *(page.head(f"Level {level + 1}: used as if", sortable=True) for level in range(deep))]
    rows = []
    for way in report.ways:
        cells = [_number(way.error.get(kind), lambda value: fraction(value, 2)) for kind in errors]
        pure = way.purity or []
        cells += [_number(pure[k] if k < way.depth - 1 else None, percent) for k in range(lengths)]
        cells += [page.cell(f"{plain(level['perplexity'])}<small>of {level['size']}, {plain(level['entropy'])} nats</small>",
                            value=level["perplexity"]) for level in way.levels[:deep]]
        cells += [page.cell(DASH)] * (deep - len(way.levels[:deep]))
        rows.append(f'<tr><th scope="row">{escape(way.name)}</th>{"".join(cells)}</tr>')
    note = ("Left of content, of behaviour: reconstruction error, the share of variance of the vectors of held-out items that the best sum "
            "of one vector a code does not explain; measured alike for all, 1 = nothing is known. ")
    if report.ground.category and report.ground.chance_purity is not None:
        note += (f"Same category: the chance that two items with the same first codes agree in {report.ground.category!r}; any two do with "
                 f"{percent(report.ground.chance_purity)}. ")
    note += "Used as if: the perplexity, e to the entropy, of codes used evenly."
    return page.table(head, rows, caption="Vectors, categories and use", style="compare") + f'<p class="small">{escape(note)}</p>'


def _lengths(report: CodesReport) -> int:
    """How many lengths of prefixes say something of some way."""
    return min(len(FIRST), max(way.depth for way in report.ways) - 1)


def _neighbours(report: CodesReport) -> str:
    first = best(report.ways) or report.ways[0]
    figures = []
    for kind, title in KINDS.items():
        if not any(kind in way.agreement for way in report.ways):
            continue
        out = []
        for length in range(_lengths(report)):
            shares = [(way, way.agreement[kind][length] if length < way.depth - 1 and kind in way.agreement else None)
                      for way in report.ways]
            peak = charts.ticks(0.0, max((share for _, share in shares if share), default=1.0))[-1]
            bars = [f"<span>{escape(way.name)}</span>{charts.bar_cell(Score(share), peak, 0 if way is first else SLOTS - 1)}"
                    f"<span>{percent(share)}</span>" for way, share in shares if share is not None]
            out.append(f'<h4>Share their {FIRST[length]}</h4><div class="bars">{"".join(bars)}</div>')
        figures.append(page.figure(title, f"{report.ground.neighbours} nearest of each item", "".join(out)))
    if not figures or not _lengths(report):
        return ""
    head = [page.head("Way of making codes", numeric=False), *(page.head(f"Any two: {FIRST[k]}") for k in range(_lengths(report)))]
    rows = []
    for way in report.ways:
        cells = [_number(way.chance[k] if k < way.depth - 1 else None, percent) for k in range(_lengths(report))]
        rows.append(f'<tr><th scope="row">{escape(way.name)}</th>{"".join(cells)}</tr>')
    chance = page.folded(page.table(head, rows, caption="Share of any two items with the same first codes"), "What any two items share")
    text = ("Codes are worth their name where items that are alike share them. By behaviour: items that the same users take close "
            "together, counted in training rows; by content: items whose texts or vectors are close. Codes made of a view keep the "
            "neighbours of that view by construction. Of digits without order, any one, two, ... digits count.")
    return f'<p>{escape(text)}</p><div class="grid">{"".join(figures)}</div>{chance}'


def _uses(report: CodesReport) -> str:
    return _each(report, [code_sections.use(use) for use in report.uses])


def _trees(report: CodesReport) -> str:
    first = best(report.ways) or report.ways[0]
    return _each(report, [code_sections.tree(tree, opens=way is first) for way, tree in zip(report.ways, report.trees, strict=True)])


def _collisions(report: CodesReport) -> str:
    parts = []
    for groups in report.colliding:
        if groups is None:
            parts.append("<p>Nobody kept these codes as they were before items were told apart.</p>")
            continue
        rows = [f'<tr><th scope="row"><code>{NO_BREAK.join(map(str, group.codes))}</code></th>{page.cell(count(group.items))}'
                f'<td class="titles">{code_sections.titled(group.titles, group.items)}</td></tr>' for group in groups]
        head = [page.head("Codes", numeric=False), page.head("Items"), page.head("Best known of them", numeric=False)]
        parts.append(page.table(head, rows, caption="The largest groups of items with the same codes, before they were told apart") if rows
                     else "<p>No two items have the same codes.</p>")
    return _each(report, parts)


def _each(report: CodesReport, parts: Sequence[str]) -> str:
    """One part a way: the best open, the others to be opened."""
    if len(parts) == 1:
        return parts[0]
    first = best(report.ways) or report.ways[0]
    return "".join(page.folded(part, f"{way.name}: {way.source}", is_open=way is first)
                   for way, part in sorted(zip(report.ways, parts, strict=True), key=lambda pair: pair[0] is not first))


def _advice(report: CodesReport) -> str:
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in report.advice)
    return f"{page.commands(report.commands)}<ol>{said}</ol>"
