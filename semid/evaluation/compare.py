"""One table of several systems: means with intervals, spread over seeds, and p-values against a reference.

Numbers of different questions are refused, not mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from semid.errors import ConfigError, DataError, did_you_mean
from semid.evaluation.evaluate import Evaluation
from semid.evaluation.statistics import across_seeds, bootstrap, holm, paired_permutation


@dataclass(frozen=True)
class Compared:
    """One metric of one system. mean: over cases and seeds; low, high: bootstrap interval over cases of the seeds' average;
    sd: over the seeds' means, None with one seed; p: paired permutation against the reference, None for the reference itself;
    p_adjusted: after Holm over the other rows."""

    mean: float
    low: float
    high: float
    sd: float | None
    p: float | None
    p_adjusted: float | None


@dataclass(frozen=True)
class Row:
    name: str
    num_seeds: int
    seconds_per_case: float
    metrics: dict[str, Compared]


@dataclass(frozen=True)
class Comparison:
    """Rows in the order given, all of one part of one data set under one protocol."""

    part: str
    protocol: dict
    protocol_hash: str
    fingerprint: str
    num_cases: int
    reference: str
    rows: tuple[Row, ...]

    def to_dict(self) -> dict:
        """Return the table ready for JSON."""
        return asdict(self)


def compare_runs(runs: Sequence[tuple[str, Sequence[Evaluation]]], *, reference: str | None = None,
                 metrics: Sequence[str] | None = None, seed: int = 0) -> Comparison:
    """Return the table of (name, one evaluation a seed) pairs.

    reference: the row that the others are tested against, by default the first. metrics: names in `per_user`, by default recall
    and NDCG at the main k.
    Raises `DataError` where two evaluations differ in part, protocol, data or cases.
    """
    if not runs or not all(evaluations for _, evaluations in runs):
        raise ConfigError("compare: want one evaluation at least for each system, got none; evaluate the runs first")
    names = [name for name, _ in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"compare: want one name a system, got {names}; give the seeds of a system as one row")
    reference = names[0] if reference is None else reference
    if reference not in names:
        raise ConfigError(f"compare: unknown reference {reference!r}{did_you_mean(reference, names)}; the rows are {names}")
    first = runs[0][1][0]
    for name, evaluations in runs:
        for evaluation in evaluations:
            _same_question(names[0], first, name, evaluation)
    metrics = (f"recall@{first.k}", f"ndcg@{first.k}") if metrics is None else metrics
    table = {metric: _compare(runs, reference, metric, seed) for metric in metrics}
    rows = tuple(
        Row(name, len(evaluations), float(np.mean([e.seconds_per_case for e in evaluations])),
            {metric: table[metric][i] for metric in metrics})
        for i, (name, evaluations) in enumerate(runs)
    )
    plain = first.to_dict()
    return Comparison(first.part, plain["protocol"], first.protocol.hash, first.fingerprint, first.num_cases, reference, rows)


def _same_question(name: str, a: Evaluation, other: str, b: Evaluation) -> None:
    questions = {
        "part": (a.part, b.part, "evaluate both on the same part"),
        "protocol": (a.protocol.hash, b.protocol.hash, "evaluate both under one protocol: " + _difference(a, b)),
        "data": (a.fingerprint, b.fingerprint, "evaluate both on the same data"),
        "number of cases": (a.num_cases, b.num_cases, "evaluate both on all cases"),
    }
    for what, (ours, theirs, fix) in questions.items():
        if ours != theirs:
            raise DataError(f"compare: want one {what} for all rows, got {ours} in {name!r} and {theirs} in {other!r}; {fix}")
    if not np.array_equal(a.recommendations.user, b.recommendations.user):
        raise DataError(f"compare: want the same users in the same order, got others in {other!r} than in {name!r}; "
                        "evaluate both on the same cases")


def _difference(a: Evaluation, b: Evaluation) -> str:
    ours, theirs = asdict(a.protocol), asdict(b.protocol)
    return ", ".join(f"{key} {ours[key]} / {theirs[key]}" for key in ours if ours[key] != theirs[key])


def _compare(runs: Sequence[tuple[str, Sequence[Evaluation]]], reference: str, metric: str, seed: int) -> list[Compared]:
    """Return one metric of every row, in order."""
    values = []
    for name, evaluations in runs:
        for evaluation in evaluations:
            if metric not in evaluation.per_user:
                raise ConfigError(f"compare: unknown metric {metric!r}{did_you_mean(metric, evaluation.per_user)} in {name!r}; "
                                  f"it has {', '.join(evaluation.per_user)}")
        values.append([e.per_user[metric] for e in evaluations])
    average = [np.mean(v, axis=0) for v in values]
    defined = ~np.isnan(average).any(axis=0)  # a list may have no diversity; compare where all rows have a value
    average = [v[defined] for v in average]
    user = runs[0][1][0].recommendations.user[defined]
    base = [name for name, _ in runs].index(reference)
    p = {i: paired_permutation(v, average[base], user=user, seed=seed) for i, v in enumerate(average) if i != base}
    adjusted = dict(zip(p, holm(list(p.values())).tolist(), strict=True))
    summary = [across_seeds([v[defined] for v in seeds]) for seeds in values]
    return [Compared(s.mean, *bootstrap(v, user=user, seed=seed), s.sd, p.get(i), adjusted.get(i))
            for i, (s, v) in enumerate(zip(summary, average, strict=True))]
