"""May a list hold what the user already had? The training rows say: where nothing is taken twice, no."""

from __future__ import annotations

from typing import Literal

import numpy as np

from semid.errors import ConfigError, did_you_mean
from semid.types import Interactions

RARE = 0.01
"""Below this share of repeated events, `auto` removes the items of the history."""


def repeat_rate(train: Interactions) -> float:
    """Return the share of the training events whose user had taken the same item before."""
    if not len(train):
        return 0.0
    pairs = np.unique(train.user.astype(np.int64) * len(train.items) + train.item)
    return 1 - len(pairs) / len(train)


def resolve_seen(seen: str, train: Interactions) -> Literal["keep", "remove"]:
    """Return "keep" or "remove"; "auto" removes where training events hardly repeat (`RARE`)."""
    if seen == "auto":
        return "remove" if repeat_rate(train) < RARE else "keep"
    if seen == "keep" or seen == "remove":
        return seen
    raise ConfigError(f"seen: want auto, keep or remove, got {seen!r}{did_you_mean(seen, ('auto', 'keep', 'remove'))}")
