"""From what was measured of codes to what to do about it: each rule is a function from the numbers to a sentence, or to none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from semid.evaluation.code_values import Ground, Measured
from semid.evaluation.wording import count, duration, fraction, percent, plain

SIGNIFICANT = 0.05
"""A corrected p-value below this is a difference."""
MANY_COLLIDE = 0.1
"""Share of items with another's codes above which the last codes of many mean nothing."""
FEW_USED = 0.5
"""Perplexity of the first level over its codes below which the codebook is too large for what it holds."""
MUCH_CHURN = 0.3
"""Share of items with another first code above which a refit breaks what a generator has learnt."""
MANY_FULL = 0.02
"""Share of items under a prefix without a free code above which new items will be refused."""
DEARER = 5.0
"""Times the seconds of another from which a way is called dear."""
FOLLOWS = 0.7
"""Rank correlation from which the probe is said to follow another number; at least `ENOUGH` ways."""
ENOUGH = 5


def best(ways: Sequence[Measured]) -> Measured | None:
    """Return the way with the highest probe, None without any; ties to the earlier one."""
    probed = [way for way in ways if way.probe is not None]
    return max(probed, key=_mean) if probed else None


def even(ways: Sequence[Measured]) -> list[Measured]:
    """Return the ways that the probe cannot tell from the best, in their order."""
    first = best(ways)
    return [way for way in ways if way is not first and way.probe is not None and (way.probe.p is None or way.probe.p >= SIGNIFICANT)]


def advise(ways: Sequence[Measured], ground: Ground) -> list[str]:
    """Return what follows from the numbers, most important first; at least one sentence."""
    rules: list[Callable[[Sequence[Measured], Ground], str | None]] = [
        _choice, _undecided, _dear, _what_pays, _twins, _collisions, _overflow, _unused, _full, _churn, _seeds]
    said = [sentence for rule in rules if (sentence := rule(ways, ground))]
    return said or ["Nothing here asks for a change: items have codes of their own, codes are used, and new items find room."]


def _choice(ways: Sequence[Measured], ground: Ground) -> str | None:
    first = best(ways)
    if first is None or first.probe is None or len(ways) < 2:
        return None
    score = f"{fraction(first.probe.mean)} ({fraction(first.probe.low)} to {fraction(first.probe.high)})"
    others, tied = sum(way.probe is not None for way in ways) - 1, len(even(ways))
    if others and tied == others:
        return (f"The probe finds no difference by more than chance; the highest validation NDCG@10 of a small generator is that on the "
                f"codes of {first.name}, {score}.")
    lower = "" if tied else "; all others are lower by more than chance"
    return f"Begin with {first.name}: a small generator on its codes reaches the highest validation NDCG@10, {score}{lower}."


def _undecided(ways: Sequence[Measured], ground: Ground) -> str | None:
    first, tied = best(ways), even(ways)
    if first is None or not tied:
        return None
    said = f"It cannot tell {_listed(way.name for way in tied)} from {first.name} (p ≥ .05)"
    timed = [way for way in [first, *tied] if way.seconds is not None]
    quick = min(timed, key=lambda way: way.seconds or 0.0) if timed else None
    if quick is None or quick is first or quick.seconds is None:
        return f"{said}; train both kinds in full before you choose."
    return f"{said}; the quickest of them to make is {quick.name}, {duration(quick.seconds)}."


def _dear(ways: Sequence[Measured], ground: Ground) -> str | None:
    first = best(ways)
    if first is None or not first.seconds:
        return None
    dear = [way for way in ways if way is not first and way.probe is not None and way.seconds is not None
            and way.seconds > DEARER * first.seconds]
    if not dear:
        return None
    return (f"{_listed(f'{way.name} ({duration(way.seconds or 0.0)})' for way in dear)} took more than {plain(DEARER)} times the "
            f"{duration(first.seconds)} of {first.name} and did not score higher: on this catalogue their cost buys nothing yet.")


def _what_pays(ways: Sequence[Measured], ground: Ground) -> str | None:
    """Which property of codes the probe goes with, over the ways measured."""
    probed = [way for way in ways if way.probe is not None]
    found: list[tuple[float, str]] = []
    for kind in ("behaviour", "content"):
        pairs = [(_mean(way), share) for way in probed if kind in way.agreement and (share := way.agreement[kind][0]) is not None]
        if len(pairs) >= ENOUGH:
            found.append((rank_correlation(*map(np.array, zip(*pairs, strict=True))), kind))
    if not found or max(found)[0] < FOLLOWS:
        return None
    value, kind = max(found)
    what = {"behaviour": "items that the same users take", "content": "items that read alike"}[kind]
    return (f"The probe rises where {what} share their first code (rank correlation {fraction(value, 2)} over {len(probed)} ways): "
            f"prefer codes that keep neighbours by {kind} together.")


def _twins(ways: Sequence[Measured], ground: Ground) -> str | None:
    """Content alone; nobody takes every item, so that many have no behaviour is no mistake."""
    number = ground.twins.get("content", 0)
    if not number:
        return None
    return (f"{count(number)} of {count(ground.items)} items have exactly the content of another: no tokenizer of content can tell them "
            "apart. Merge what is the same item, or add what tells them apart to their texts.")


def _collisions(ways: Sequence[Measured], ground: Ground) -> str | None:
    many = [(way.name, way.collisions["colliding_share_before"]) for way in ways
            if way.collisions and way.collisions["moved"] and way.collisions["colliding_share_before"] > MANY_COLLIDE]
    if not many:
        return None
    return (f"Before they were told apart, many items shared all their codes under {_listed(f'{n} ({percent(s)})' for n, s in many)}: "
            "for those that moved, the last code is a free one nearby and not their own. Take one more level, or larger codebooks.")


def _overflow(ways: Sequence[Measured], ground: Ground) -> str | None:
    # a policy that always adds a level moves nobody
    crowded = [way.name for way in ways if way.collisions and way.collisions["added_levels"] and way.collisions["moved"]]
    if not crowded:
        return None
    return (f"{_listed(crowded)} needed one more level to tell items apart, as more of them share a prefix than there are last codes; "
            "every answer takes a step more. Larger codebooks avoid it.")


def _unused(ways: Sequence[Measured], ground: Ground) -> str | None:
    uneven = [(way.name, way.levels[0]) for way in ways if way.levels[0]["perplexity"] < FEW_USED * way.levels[0]["size"]]
    if not uneven:
        return None
    said = _listed(f"{name} ({plain(level['perplexity'])} of {level['size']})" for name, level in uneven)
    return (f"The first level is used as unevenly as if only some of its codes were there: {said}. A smaller codebook costs little "
            "there; a loss for diversity (letter) spreads them.")


def _full(ways: Sequence[Measured], ground: Ground) -> str | None:
    way = best(ways) or ways[0]
    if way.head_room["full"] > MANY_FULL:
        return (f"Under {way.name}, {percent(way.head_room['full'])} of the items sit under a prefix without a free code: new items like "
                "them will be refused. Take larger codebooks if the catalogue grows.")
    return None


def _churn(ways: Sequence[Measured], ground: Ground) -> str | None:
    way = best(ways) or ways[0]
    if way.churn is None or ground.earlier is None or way.churn[0] <= MUCH_CHURN:
        return None
    return (f"Fitted again on the grown catalogue, {way.name} gives {percent(way.churn[0])} of the old items another first code, names of "
            "codes apart: let new items join the codes there are (semid add), and train the generator anew whenever you refit.")


def _seeds(ways: Sequence[Measured], ground: Ground) -> str | None:
    first, others = best(ways), sorted((way for way in ways if way.probe is not None), key=_mean, reverse=True)
    if first is None or len(others) < 2 or not even(ways):
        return None
    return (f"This was one seed and a small budget. Before it matters, train in full with three seeds: {others[0].name} and "
            f"{others[1].name} first.")


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of two float [n]; 0 where one of them is constant. Equal values share the mean of their ranks."""
    ranks = [np.unique(x, return_inverse=True, return_counts=True)[1:] for x in (a, b)]
    mean = [(np.cumsum(size) - (size - 1) / 2)[place] for place, size in ranks]
    first, second = (rank - rank.mean() for rank in mean)
    scale = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale > 0 else 0.0


def _mean(way: Measured) -> float:
    assert way.probe is not None
    return way.probe.mean


def _listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
