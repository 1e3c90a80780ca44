"""Sections of a page about codes: how evenly they are used, and the tree they make, with titles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from semid.evaluation import charts, page
from semid.evaluation.report_values import CodeUse
from semid.evaluation.tree_chart import Tree, arrange, icicle, top_codes, tree_data
from semid.evaluation.wording import count, escape, percent, plain


def use(codes: CodeUse) -> str:
    """How often each code of each level is used."""
    out = []
    for level, counts in enumerate(codes.counts):
        counts = np.asarray(counts)
        share = counts[counts > 0] / max(counts.sum(), 1)
        bits = float(-(share * np.log2(share)).sum()) + 0.0
        used, size = int((counts > 0).sum()), len(counts)
        facts = {"Used": f"{count(used)} of {count(size)}", "Perplexity": plain(2**bits),
                 "Entropy": f"{plain(bits)} of {plain(math.log2(size))} bits",
                 "Largest": f"{count(int(counts.max(initial=0)))} items"}
        list_ = "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        label = f"Level {level + 1}: items per code, most used first; {used} of {size} codes used, perplexity {plain(2**bits)}"
        picture = charts.use_chart(counts, label=label)
        below = f'<dl class="tiny">{list_}</dl>'
        out.append(page.figure(f"Level {level + 1}", f"{percent(used / size)} of codes used", picture, below))
    repeats = codes.num_items - codes.num_distinct
    shared = "every item has its own."
    if repeats:
        shared = f"{count(repeats)} ({percent(repeats / codes.num_items)}) repeat another item's."
    text = f"{count(codes.num_items)} items have {count(codes.num_distinct)} distinct codes: {shared}"
    return f'<p>{escape(text)}</p><div class="grid three">{"".join(out)}</div>'


def tree(tree: Tree, *, opens: bool = True) -> str:
    """The icicle of the code tree and its largest codes with titles. Only one of a page opens: the script finds it by its id."""
    drawn = arrange(tree)
    data = tree_data(drawn) if opens else ""
    has_other = bool(drawn.names) and int(drawn.colour.max(initial=0)) >= len(drawn.names)
    key = page.key([*drawn.names, *(["other"] if has_other else [])], last=has_other) if drawn.names else ""
    text = (f"Each row is a level of the code, each cell a prefix, as wide as its share of the {tree.weight_name}, largest "
            "first. Grey cells stand for several prefixes too narrow to draw. Point at a cell to see what lies in it; ")
    text += ("select it to open it." if data else "there are too many items here to open cells: `semid codes` lists them." if opens
             else "the table lists the largest.")
    rows = []
    for code, size, most, titles in top_codes(drawn):
        known = f'<td>{escape(most)}</td><td class="titles">{titled(titles, size)}</td>'
        rows.append(f'<tr><th scope="row">{code}</th>{page.cell(count(size))}{known}</tr>')
    head = [page.head("Code"), page.head("Items"), page.head("Mostly", numeric=False), page.head("Best known items", numeric=False)]
    table = page.table(head, rows, caption=f"The largest codes of the first level, by {tree.weight_name}")
    script = f'<script type="application/json" id="tree-data">{data}</script>' if data else ""
    picture = f'<div id="icicle"><p class="crumbs" aria-live="polite"></p>{icicle(drawn)}</div>' if opens else icicle(drawn)
    return f"<p>{escape(text)}</p>{key}{picture}{script}{page.folded(table)}"


def titled(titles: Sequence[str], size: int) -> str:
    """A few titles of `size` items."""
    more = f' <span class="none">+{count(size - len(titles))} more</span>' if size > len(titles) else ""
    return "; ".join(f"<bdi>{escape(t)}</bdi>" for t in titles) + more
