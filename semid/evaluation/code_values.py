"""What was measured of one way of making codes, and of several, as plain values: JSON, the advice and the page read the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semid.evaluation.report_values import CodeUse
from semid.evaluation.tree_chart import Tree


@dataclass(frozen=True)
class Probe:
    """Validation NDCG@10 of a small generator on the codes, mean and 95 % interval over users, and the seconds it took. p: of the
    paired permutation test against the best probe, Holm-corrected; None for the best itself, and where there was nothing to test."""

    mean: float
    low: float
    high: float
    seconds: float
    p: float | None = None


@dataclass(frozen=True)
class Measured:
    """One way of making codes. Lists have one entry a level (the first 1, 2, ... codes); None = not measured, or nothing to measure.

    source: who made the codes, for people; seconds: fitting, codes for all items and collision policy, None for codes that were there;
    cpu_seconds: of the same, on all cores together, which a busy machine changes less.
    items, levels: of `health` after the policy; collisions: `collision_report`. error: {kind: share of variance left}; purity;
    agreement: {kind: shares of nearest neighbours}, chance: of any two items; kind: "content" or "behaviour". churn: share of items with
    other first codes after a refit; head_room: of `prefixes.head_room`.
    """

    name: str
    source: str
    seconds: float | None
    items: int
    levels: list[dict]
    collisions: dict[str, float] | None
    error: dict[str, float | None]
    purity: list[float | None] | None
    agreement: dict[str, list[float | None]]
    chance: list[float | None]
    churn: list[float] | None
    head_room: dict[str, float]
    probe: Probe | None = None
    cpu_seconds: float | None = None

    @property
    def depth(self) -> int:
        """Codes of an item."""
        return len(self.levels)


@dataclass(frozen=True)
class Group:
    """Items under the same codes: how many, and the titles of the best known."""

    codes: Sequence[int]
    items: int
    titles: Sequence[str]


@dataclass(frozen=True)
class Ground:
    """What the ways were measured against.

    items; twins: {kind: items whose vector is another's too}; neighbours: how many nearest ones count; category: the column, None
    without; chance_purity: of any two items; earlier: (share of the training events, items among them), None where not refitted.
    """

    items: int
    twins: dict[str, int]
    neighbours: int
    category: str | None
    chance_purity: float | None
    earlier: tuple[float, int] | None


@dataclass(frozen=True)
class CodesReport:
    """Everything that the page about codes shows. facts: lines of the header; trees, uses, colliding: one a way, in their order, the
    last of codes before the policy, None where nobody knows; advice: sentences; commands: (what to type, what it does)."""

    data: str
    version: str
    facts: dict[str, str]
    ground: Ground
    ways: Sequence[Measured]
    uses: Sequence[CodeUse]
    trees: Sequence[Tree]
    colliding: Sequence[Sequence[Group] | None]
    advice: Sequence[str]
    commands: Sequence[tuple[str, str]]
