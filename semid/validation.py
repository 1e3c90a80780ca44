"""Choosing on validation: the numbers that pick checkpoints, settings and fusion weights. Test is never read here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from semid.data.batch import LISTED, case_batches
from semid.evaluation.evaluate import Seen, collect, truth_of
from semid.evaluation.metrics import Truth, ndcg, recall
from semid.protocols import Recommender
from semid.recommenders import CodeRecommender
from semid.types import Cases, Recommendations, Split

HEALTH = 256
"""Cases of a look whose beams are searched freely."""

LOOK = 6_000
"""Cases of a look: its standard error on recall .08 is .0035, and it costs seconds."""

CHOICE = 2_000
"""Cases that choose among settings, each of which costs a fit or a look."""


def sample(cases: Cases, limit: int = LOOK) -> Cases:
    """Return at most `limit` cases in their order, the same ones each time."""
    return cases.take(np.sort(np.random.default_rng(0).permutation(len(cases))[:limit]))


def measure(recommender: Recommender, split: Split, *, seen: Seen, limit: int = LOOK, k: int = 10) -> dict[str, float]:
    """Return {"recall@10", "ndcg@10"} on a sample of the validation cases, nothing where there are none; before them, for a model that
    writes codes, its health:

    "codes_used": share of the catalogue's first codes that any list holds (a model that collapsed has few);
    "valid_beams": share of the k best paths that would be items if the code tree didn't guide the search (`valid_share`).
    """
    cases = sample(split.valid, limit)
    if not len(cases):
        return {}
    answer, truth = _answers(recommender, split, cases, seen, 2 * k)
    health = {}
    if isinstance(recommender, CodeRecommender):
        first = recommender.ids.codes[:, 0]
        health["codes_used"] = len(np.unique(first[answer.item[answer.item >= 0]])) / len(np.unique(first))
        _, batch = next(case_batches(split, sample(cases, HEALTH)))
        health["valid_beams"] = recommender.valid_share(batch, k=k)
    return health | {f"recall@{k}": float(recall(answer, truth, k).mean()), f"ndcg@{k}": float(ndcg(answer, truth, k).mean())}


def ndcg_by_case(recommender: Recommender, split: Split, *, seen: Seen, limit: int = LOOK, k: int = 10) -> np.ndarray:
    """Return float64 [B]: NDCG@k of each case that `measure` would average, in the same order each time."""
    answer, truth = _answers(recommender, split, sample(split.valid, limit), seen, 2 * k)
    return ndcg(answer, truth, k)


def _answers(recommender: Recommender, split: Split, cases: Cases, seen: Seen, depth: int) -> tuple[Recommendations, Truth]:
    answer, _ = collect(recommender, cases, case_batches(split, cases, most=LISTED), num_items=len(split.catalog), depth=depth, seen=seen)
    return answer, truth_of(cases)[0]


def best_of(candidates: Iterable, build, split: Split, *, seen: Seen, limit: int = CHOICE) -> tuple:
    """Return (candidate, recommender, ndcg@10) of the best `build(candidate)` on validation; ties go to the earlier one, as all
    do where there is no validation case."""
    best = None
    for candidate in candidates:
        recommender = build(candidate)
        value = measure(recommender, split, seen=seen, limit=limit).get("ndcg@10", 0.0)
        if best is None or value > best[2]:
            best = (candidate, recommender, value)
    if best is None:
        raise ValueError("best_of: want at least one candidate")
    return best
