"""Numbers and texts the way a reader of a report wants them. Only `escape` makes text safe inside HTML and SVG."""

from __future__ import annotations

import html
import math
from decimal import Decimal

THIN = "\u202f"
"""Narrow no-break space: between thousands, and between a number and its unit."""


def clean(text: object) -> str:
    """Return any value as text that UTF-8 and HTML can hold: lone surrogates and control characters become `?`."""
    whole = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c in "\t\n" or (c >= " " and not "\x7f" <= c <= "\x9f") else "?" for c in whole)


def escape(text: object) -> str:
    """Return any value as text that cannot leave its element or attribute.

    >>> escape('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(clean(text), quote=True)


def shorten(text: object, width: int) -> str:
    """Return at most `width` characters of a text, not escaped, on one line; a cut one ends in an ellipsis.

    >>> shorten("a long title", 8)
    'a long…'
    """
    line = " ".join(str(text).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def fraction(value: float, digits: int = 4) -> str:
    """Return a metric between 0 and 1 as papers print it, without the leading zero; a dash for none.

    >>> fraction(0.08124), fraction(1.0), fraction(float("nan"))
    ('.0812', '1.0000', '–')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    sign = "−" if value < 0 and float(text) else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def plain(value: float, digits: int = 3) -> str:
    """Return any number with `digits` significant digits and no exponent between 1e-4 and 1e6.

    >>> plain(2.30259), plain(0.00031), plain(12.0), plain(3e-7)
    ('2.3', '0.00031', '12', '3e-7')
    """
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{places}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def count(value: float) -> str:
    """Return a whole number with thousands apart (`12 101`)."""
    return f"{round(value):,}".replace(",", THIN).replace("-", "−")


def large(value: float) -> str:
    """Return a number of parameters or bytes in three digits and a unit (`1.93 M`)."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{plain(value / size)}{THIN}{unit}"
    return plain(value)


def duration(seconds: float) -> str:
    """Return a length of time in the two units that matter (`4 min 12 s`).

    >>> duration(252).replace(THIN, " "), duration(0.31).replace(THIN, " "), duration(7300).replace(THIN, " ")
    ('4 min 12 s', '0.31 s', '2 h 2 min')
    """
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{plain(seconds, 2 if seconds < 10 else 3)}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{THIN}min" + (f" {rest}{THIN}s" if rest else "")
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{THIN}h" + (f" {minutes}{THIN}min" if minutes else "")


def percent(share: float, *, sign: bool = False) -> str:
    """Return a share as per cent with no more digits than it deserves; `sign` prints the plus too.

    >>> percent(0.1234).replace(THIN, " "), percent(-0.0123, sign=True).replace(THIN, " ")
    ('12 %', '−1.2 %')
    """
    if not math.isfinite(share):
        return "–"
    size = abs(share) * 100
    text = f"{size:.0f}" if size >= 9.95 or size == 0 else f"{size:.1f}"
    mark = "−" if share < 0 and float(text) else "+" if sign and float(text) else ""
    return f"{mark}{text}{THIN}%"


def p_value(p: float) -> str:
    """Return `p = .003`, or `p < .001` below that, not escaped, with spaces that do not break.

    >>> [p_value(p).replace(THIN, " ") for p in (0.0031, 1e-5, 1.0)]
    ['p = .003', 'p < .001', 'p = 1.0']
    """
    if p < 0.001:
        return f"p{THIN}<{THIN}.001"
    return f"p{THIN}={THIN}" + (fraction(p, 3) if p < 0.1 else "1.0" if p >= 0.995 else fraction(p, 2))


def tick_text(value: float, step: float) -> str:
    """Return the label of an axis tick with the decimals its step needs (`.05`, `0`, `12 000`, `2.5e−4`)."""
    if abs(value) < step / 1e6:
        return "0"
    if step >= 1:
        return large(value) if abs(value) >= 1e5 else count(value)
    if step < 1e-3 and abs(value) < 0.01:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "−")
    digits = max(0, -int(Decimal(f"{step:.3g}").normalize().as_tuple().exponent))
    return fraction(value, digits) if abs(value) < 1 else f"{value:.{digits}f}".replace("-", "−")
