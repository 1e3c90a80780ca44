"""What pages share: tables, figures, keys, and the document around sections. Texts are escaped here, markup is passed as it is.

A page stands alone (style, script and pictures inside), asks the network for nothing, and a content security policy says so.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from importlib.resources import files

from semid.evaluation.charts import SLOTS
from semid.evaluation.wording import escape


def table(head: Sequence[str], rows: Sequence[str], *, caption: str, style: str = "") -> str:
    return (f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="{style}">'
            f"<caption>{escape(caption)}</caption><thead><tr>{''.join(head)}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>")


def folded(inside: str, summary: str = "As a table", *, is_open: bool = False) -> str:
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>{inside}</details>"


def head(text: str, *, numeric: bool = True, under: str = "", sortable: bool = False) -> str:
    look = " ".join(filter(None, ["n" if numeric else "", "sort" if sortable else ""]))
    return f'<th scope="col" class="{look}">{escape(text)}{under}</th>'


def cell(text: str, *, value: float | None = None, style: str = "n") -> str:
    """A table cell; `value` is what sorting compares."""
    key = "" if value is None or not math.isfinite(value) else f' data-value="{float(value)!r}"'
    return f'<td class="{style}"{key}>{text}</td>'


def key(names: Sequence[str], *, last: bool = False) -> str:
    """Names in their colours; with `last` the last of them is the grey one."""
    slots = [SLOTS - 1 if last and k == len(names) - 1 else min(k, SLOTS - 1) for k in range(len(names))]
    spans = "".join(f'<span class="of{slot}">{escape(name)}</span>' for slot, name in zip(slots, names, strict=True))
    return f'<p class="key">{spans}</p>'


def figure(title: str, said: str, picture: str, under: str = "") -> str:
    return f"<figure><figcaption><b>{escape(title)}</b> <span>{escape(said)}</span></figcaption>{picture}{under}</figure>"


def commands(listed: Sequence[tuple[str, str]]) -> str:
    """What to type next: (command, what it does)."""
    return '<dl class="commands">' + "".join(
        f"<div><dt><code>{escape(c)}</code></dt><dd>{escape(what)}</dd></div>" for c, what in listed) + "</dl>"


def document(title: str, header: str, sections: Sequence[tuple[str, str, str]], version: str) -> str:
    """Return the page as one HTML text. header: markup above the sections; sections: (anchor, title, markup); version: of semid."""
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{escape(title)}</h2>{inner}</section>'
                   for name, title, inner in sections)
    here = files("semid.evaluation")
    style, script = (here.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} · semid</title><style>{style}</style></head><body>"
        f'<header class="top">{header}</header>'
        f'<nav aria-label="Sections">{links}</nav><main>{body}</main>'
        f"<footer>{escape(f'Made by semid {version}'.strip())}. This page needs no network.</footer>"
        f"<script>{script}</script></body></html>\n")
