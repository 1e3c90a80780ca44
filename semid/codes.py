"""What `semid codes` and the report say about the semantic ids of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from semid.errors import RunError
from semid.recommenders import CodeRecommender, Fusion
from semid.tokenizers.health import health
from semid.types import SemanticIds

if TYPE_CHECKING:
    from semid.run import Run

TITLES = 5
"""Titles shown of a prefix, the most popular first."""


def ids_of(run: Run) -> SemanticIds | None:
    """Return the semantic ids a run generates, None where it ranks items directly."""
    recommender = run.recommender.first if isinstance(run.recommender, Fusion) else run.recommender
    return recommender.ids if isinstance(recommender, CodeRecommender) else None


def describe(run: Run, examples: int) -> dict:
    """Return `health` of the codes, their source, and the `examples` largest prefixes with titles of their best known items.

    Prefixes are the first level's codes, or pairs of the first two where one code holds more than 100 items.
    Raises `RunError` for a run without codes.
    """
    ids = ids_of(run)
    if ids is None:
        raise RunError(f"{run.folder}: recipe {run.recipe!r} ranks items directly and has no codes; "
                       "want a run of a recipe that generates semantic ids, such as: semid train semid")
    popularity = run.split.train.counts
    first = np.bincount(ids.codes[:, 0])
    depth = 1 if ids.levels == 1 or first.max(initial=0) <= 100 else 2
    prefix, where, size = np.unique(ids.codes[:, :depth], axis=0, return_inverse=True, return_counts=True)
    where = where.reshape(-1)
    shown = []
    for place in np.argsort(-size, kind="stable")[:examples]:
        members = np.flatnonzero(where == place)
        best = members[np.argsort(-popularity[members], kind="stable")[:TITLES]]
        shown.append({"codes": [int(code) for code in prefix[place] if code >= 0], "items": int(size[place]),
                      "titles": [run.catalog.titles[item] for item in best]})
    return {"source": ids.source, **health(ids), "prefixes": shown}
