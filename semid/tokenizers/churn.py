"""How much of the codes stays when a tokenizer is fitted again, later, on a catalogue that has grown.

Axes: N items of both fits, L levels, K codes of a level.
"""

from __future__ import annotations

import numpy as np

from semid.tokenizers.collisions import assign_rows
from semid.types import SemanticIds


def churn(before: SemanticIds, after: SemanticIds) -> list[float]:
    """Return L shares of the items whose first 1, 2, ... L codes changed between two fits, names of codes apart.

    A refit numbers its codes anew, so the codes of each level are first renamed so that most items keep theirs: the best one-to-one
    assignment. Items are the same rows in both. O(L K^3).
    """
    assert len(before) == len(after)
    assert before.levels == after.levels
    kept = np.stack([_renamed(old, new) == old for old, new in zip(before.codes.T, after.codes.T, strict=True)], axis=1)  # [N, L]
    return (1 - np.logical_and.accumulate(kept, axis=1).mean(0)).tolist()


def _renamed(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return `new` [N] under the names that agree with `old` [N] most often."""
    size = int(max(old.max(initial=0), new.max(initial=0))) + 1
    both = np.zeros((size, size))
    np.add.at(both, (new, old), 1)
    return assign_rows(both.max(initial=0) - both)[new]
