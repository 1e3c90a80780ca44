"""For whom does it work? The same targets, counted apart by what is known of them before the answer.

A slicing is an ordered {label: bool [T]} over the targets of a `Truth`; slices do not overlap, and empty ones are left out.
Where a case has several targets, each slice asks for its own targets only (`Truth.where`).

Axes: B cases, T targets, N items.
"""

from __future__ import annotations

import numpy as np

from semid.evaluation.metrics import Truth
from semid.types import DAY, Cases, Split

HISTORY_BANDS = (0, 1, 3, 6, 11, 21, 51, 201)
"""Where the bands of history length begin; the last has no end."""



def slicings(split: Split, cases: Cases, truth: Truth, time: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Return all slicings of the targets. time: int64 [T] of each target, in the unit of the events."""
    popularity = split.train.counts
    length = (cases.history_end - cases.history_begin)[truth.row]
    found = {
        "popularity": by_popularity(popularity, truth.item),
        "history": by_bands(length, HISTORY_BANDS),
        "target": {"cold": popularity[truth.item] == 0, "warm": popularity[truth.item] > 0},
    }
    if split.events.time_unit == "seconds" and (length > 0).any():
        last = split.events.time[np.maximum(cases.history_end - 1, 0)][truth.row]
        same = time // DAY == last // DAY
        found["day"] = {"same day": same & (length > 0), "another day": ~same & (length > 0)}
    return {name: {label: mask for label, mask in slicing.items() if mask.any()} for name, slicing in found.items()}


def by_popularity(popularity: np.ndarray, target: np.ndarray, parts: int = 10) -> dict[str, np.ndarray]:
    """Cut the catalogue into `parts` of equal numbers of items, most popular first, and return the targets [T] of each.

    popularity: int64 [N] training events; ties go to the lower row. Part 1 holds the head.
    """
    order = np.argsort(-popularity, kind="stable")
    part = np.empty(len(popularity), dtype=np.int64)
    part[order] = np.arange(len(popularity)) * parts // max(1, len(popularity))
    return {f"{p + 1}": part[target] == p for p in range(parts)}


def by_bands(value: np.ndarray, begins: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the bands of int64 [T] values that begin at `begins` (ascending), labelled "3-5", "51+" or "0".

    >>> {label: mask.tolist() for label, mask in by_bands(np.array([0, 2, 9]), (0, 1, 5)).items()}
    {'0': [True, False, False], '1-4': [False, True, False], '5+': [False, False, True]}
    """
    band = np.searchsorted(begins, value, side="right") - 1
    ends = [e - 1 for e in begins[1:]]
    labels = [f"{b}" if b == e else f"{b}-{e}" for b, e in zip(begins, ends)] + [f"{begins[-1]}+"]
    return {label: band == i for i, label in enumerate(labels)}
