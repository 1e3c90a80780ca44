"""What was shown and what came of it: the log that later learning reads.

The list shown is the top k without chance, so each item of it had probability 1 of being shown: that is its propensity. A policy
that explores writes its own name and probabilities into the same fields.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from semid.serving.histories import Event

TOP_K = "top_k"
"""The policy that shows the k best items."""


@dataclass(frozen=True)
class Impression:
    """One answer: item ids best first, with the scores they had and the probability that the policy showed them.

    trace: the answer's trace id, which events refer to; user: None for a history without a name; model: which model answered.
    """

    trace: str
    user: str | None
    time: int
    model: str
    policy: str
    items: tuple[str, ...]
    scores: tuple[float, ...]
    propensities: tuple[float, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Impression:
        value = json.loads(text)
        return cls(**value | {name: tuple(value[name]) for name in ("items", "scores", "propensities")})


@dataclass(frozen=True)
class Feedback:
    """An impression with the events that refer to it, oldest first. place: where to go on reading."""

    place: str
    impression: Impression
    events: tuple[Event, ...]
