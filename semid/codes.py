"""What `semid codes` and the report say about the semantic ids of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from semid.errors import RunError
from semid.evaluation.code_values import Group
from semid.recommenders import CodeRecommender, Fusion, ParallelRecommender
from semid.tokenizers.groups import groups
from semid.tokenizers.health import health
from semid.types import SemanticIds

if TYPE_CHECKING:
    from semid.run import Run

TITLES = 5
"""Titles shown of a prefix, the most popular first."""


def ids_of(run: Run) -> SemanticIds | None:
    """Return the semantic ids a run generates, None where it ranks items directly."""
    recommender = run.recommender.first if isinstance(run.recommender, Fusion) else run.recommender
    return recommender.ids if isinstance(recommender, CodeRecommender | ParallelRecommender) else None


def wanted_ids(run: Run) -> SemanticIds:
    """Return the semantic ids a run generates. Raises `RunError` for a run without codes."""
    ids = ids_of(run)
    if ids is None:
        raise RunError(f"{run.folder}: recipe {run.recipe!r} ranks items directly and has no codes; "
                       "want a run of a recipe that generates semantic ids, such as: semid train semid")
    return ids


def describe(run: Run, examples: int) -> dict:
    """Return `health` of the codes, their source, and the `examples` largest prefixes with titles of their best known items.

    Prefixes are the first level's codes, or pairs of the first two where one code holds more than 100 items.
    Raises `RunError` for a run without codes.
    """
    ids = wanted_ids(run)
    first = np.bincount(ids.codes[:, 0])
    depth = 1 if ids.levels == 1 or first.max(initial=0) <= 100 else 2
    largest = largest_groups(ids.codes[:, :depth], run.catalog.titles, run.split.train.counts, examples)
    return {"source": ids.source, **health(ids), "prefixes": [asdict(group) for group in largest]}


def largest_groups(codes: np.ndarray, titles: list[str], popularity: np.ndarray, most: int, *, least: int = 1) -> list[Group]:
    """Return the `most` largest groups of items with equal codes [N, l] that have at least `least` items, the largest first.

    Titles are those of the best known items, popularity int64 [N]; ties go to the lower codes, then to the lower row.
    """
    group, size = groups(codes)
    order = np.lexsort((-popularity, group))  # by group, the best known first
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    shown = []
    for place in np.argsort(-size, kind="stable")[:most]:
        members = order[first[place] : first[place] + size[place]]
        if len(members) >= least:
            shown.append(Group([int(code) for code in codes[members[0]] if code >= 0], len(members),
                               [titles[item] for item in members[:TITLES]]))
    return shown
