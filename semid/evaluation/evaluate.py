"""Ask a recommender every question of a split and measure the answers.

`collect` gets the lists, `measure` turns lists into an `Evaluation`, `evaluate` is both. The batches come from outside, so any
way of making them will do: an iterator over (rows int64 [b], Batch), where `rows` says which cases the batch holds.

Axes: B cases, T targets, N items, G categories, K list length (`depth`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from semid.errors import ConfigError, DataError, RunError, did_you_mean
from semid.evaluation import beyond_accuracy as beyond
from semid.evaluation.metrics import RANKING, Truth, ndcg, recall, tie_groups
from semid.evaluation.slices import slicings
from semid.evaluation.statistics import bootstrap
from semid.files import write_atomically
from semid.protocols import Recommender
from semid.types import Batch, Cases, Interactions, Protocol, Recommendations, SemanticIds, Split

FORMAT = 1
"""Version of the file that `Evaluation.save` writes."""

Seen = Literal["keep", "remove"]

RARE = 0.01
"""Below this share of repeated training events, `seen = auto` removes the items of the history from the lists."""


@dataclass(frozen=True)
class Measure:
    """A mean over cases and its bootstrap interval; low and high are None for one number about all lists (coverage, Gini)."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Slice:
    """A part of the targets: how many there are, how many cases ask for them, and recall and NDCG at the main k."""

    num_targets: int
    num_cases: int
    metrics: dict[str, Measure]


@dataclass(frozen=True)
class Evaluation:
    """One recommender on one part of one split.

    protocol: as evaluated, `seen` included, so its hash names these very numbers; k: the main cut-off, of the slices and of
    what lists are like apart from being right; metrics: by "name@k"; per_user: the same, float64 [B] in the order of
    `recommendations`; sid_level: means with equal scores resolved in favour of the targets, only where they differ;
    num_cut: cases where a tie group that begins above the largest k reaches the end of the list (their expected ranks know only
    the visible part of the group, which is unbiased if the order inside it is an accident); seconds: spent in `recommend`.
    """

    part: str
    protocol: Protocol
    fingerprint: str
    k: int
    metrics: dict[str, Measure]
    slices: dict[str, dict[str, Slice]]
    sid_level: dict[str, float]
    num_cut: int
    seconds: float
    per_user: dict[str, np.ndarray]
    recommendations: Recommendations

    @property
    def num_cases(self) -> int:
        return len(self.recommendations.user)

    @property
    def seconds_per_case(self) -> float:
        return self.seconds / self.num_cases

    def to_dict(self) -> dict:
        """Return all but the arrays, ready for JSON (no NaN: what is not defined is None)."""
        plain = {name: getattr(self, name) for name in ("part", "fingerprint", "k", "sid_level", "num_cut", "num_cases",
                                                        "seconds", "seconds_per_case")}
        plain["metrics"] = {name: asdict(m) for name, m in self.metrics.items()}
        plain["slices"] = {s: {label: asdict(x) for label, x in parts.items()} for s, parts in self.slices.items()}
        plain |= {"protocol": asdict(self.protocol), "protocol_hash": self.protocol.hash,
                  "depth": self.recommendations.item.shape[1]}
        return {name: _without_nan(value) for name, value in plain.items()}

    def save(self, path: Path) -> None:
        """Write everything into one Parquet file: a row per case, the rest as JSON in its metadata. Atomic."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        lists = {"item": self.recommendations.item, "score": self.recommendations.score}
        depth = self.recommendations.item.shape[1]
        columns = {"user": self.recommendations.user}
        columns |= {name: pa.FixedSizeListArray.from_arrays(pa.array(a.ravel()), depth) for name, a in lists.items()}
        columns |= self.per_user
        about = {"format": FORMAT, "scale": self.recommendations.scale, **self.to_dict()}
        table = pa.table(columns).replace_schema_metadata({"semid.evaluation": json.dumps(about)})
        write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what `save` wrote. Raises `RunError` for another file or a newer format."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise RunError(f"{path}: want an evaluation written by semid, got: {error}; evaluate the run again") from None
        metadata = (table.schema.metadata or {}).get(b"semid.evaluation")
        if metadata is None:
            raise RunError(f"{path}: want an evaluation written by semid, got another Parquet file; evaluate the run again")
        about = json.loads(metadata)
        if about["format"] > FORMAT:
            raise RunError(f"{path}: want evaluation format {FORMAT} or older, got {about['format']}; upgrade semid")
        shape = (table.num_rows, about["depth"])
        column = lambda name: table[name].combine_chunks()
        lists = {name: column(name).values.to_numpy().reshape(shape) for name in ("item", "score")}
        return cls(
            about["part"], Protocol(**about["protocol"]), about["fingerprint"], about["k"],
            {name: _measure(m) for name, m in about["metrics"].items()},
            {s: {label: Slice(x["num_targets"], x["num_cases"], {n: _measure(m) for n, m in x["metrics"].items()})
                 for label, x in parts.items()} for s, parts in about["slices"].items()},
            about["sid_level"], about["num_cut"], about["seconds"],
            {name: column(name).to_numpy() for name in table.column_names if name not in ("user", "item", "score")},
            Recommendations(column("user").to_numpy(), lists["item"], lists["score"], about["scale"]),
        )


def evaluate(recommender: Recommender, split: Split, cases: Cases, batches: Iterable[tuple[np.ndarray, Batch]], *,
             part: str = "test", ks: tuple[int, ...] = (5, 10, 20), depth: int | None = None, seen: Seen | None = None,
             ids: SemanticIds | None = None, vectors: np.ndarray | None = None, categories: np.ndarray | None = None,
             seed: int = 0) -> Evaluation:
    """Return the measured answers to `cases`, which `batches` must hold once each (`semid.data.batch.case_batches`).

    depth: list length to ask for, by default max(50, twice the largest k): ties need room below the cut. seen: overrides the
    protocol's. ids, vectors (float [N, D]), categories (float [N, G] of `beyond_accuracy.category_shares`): each adds its
    measure of the lists. seed: of the bootstrap.
    """
    depth = max(50, 2 * max(ks)) if depth is None else depth
    seen = split.protocol.seen if seen is None else seen
    recommendations, seconds = collect(recommender, cases, batches, num_items=len(split.catalog), depth=depth, seen=seen)
    return measure(recommendations, split, cases, part=part, ks=ks, seen=seen, seconds=seconds, ids=ids, vectors=vectors,
                   categories=categories, seed=seed)


def collect(recommender: Recommender, cases: Cases, batches: Iterable[tuple[np.ndarray, Batch]], *, num_items: int, depth: int,
            seen: Seen) -> tuple[Recommendations, float]:
    """Return the lists of all cases in their order, of length min(depth, N), and the seconds spent in `recommend`.

    Raises `DataError` where the recommender breaks its contract: a case left out or answered twice, an item twice in a list,
    an unknown item, a score that is no number, an item of the history where seen is "remove".
    """
    depth = min(depth, num_items)
    item = np.full((len(cases), depth), -1, dtype=np.int32)
    score = np.full((len(cases), depth), -np.inf, dtype=np.float32)
    answers, seconds, scale = np.zeros(len(cases), dtype=np.int64), 0.0, ""
    for rows, batch in batches:
        start = time.perf_counter()
        answer = recommender.recommend(batch, k=depth, seen=seen)
        seconds += time.perf_counter() - start
        _check_answer(answer, rows, num_items, depth)
        if seen == "remove":
            _check_unseen(answer, rows, batch.seen.cpu().numpy())
        width = answer.item.shape[1]
        item[rows, :width], score[rows, :width] = answer.item, np.where(answer.item >= 0, answer.score, -np.inf)
        np.add.at(answers, rows, 1)
        scale = answer.scale
    if (answers != 1).any():
        case = int(np.flatnonzero(answers != 1)[0])
        raise DataError(f"batches: want every case once, got case {case} {answers[case]} times; make them from the same cases")
    return Recommendations(cases.user, item, score, scale), seconds


def _check_answer(answer: Recommendations, rows: np.ndarray, num_items: int, depth: int) -> None:
    if len(answer.item) != len(rows) or answer.item.shape[1] > depth:
        raise DataError(f"recommendations: want {len(rows)} lists of at most {depth} items, got {answer.item.shape}")
    if answer.item.max(initial=-1) >= num_items:
        raise DataError(f"recommendations: want item rows below {num_items}, got {answer.item.max()}")
    if (bad := np.isnan(answer.score) & (answer.item >= 0)).any():
        raise DataError(f"recommendations: want numbers as scores, got NaN for case {rows[bad.any(axis=1).argmax()]}")
    ordered = np.sort(answer.item, axis=1)
    if (twice := (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        row = int(twice.any(axis=1).argmax())
        item = ordered[row, 1:][twice[row]][0]
        raise DataError(f"recommendations: want an item once in a list, got item row {item} twice for case {rows[row]}")


def _check_unseen(answer: Recommendations, rows: np.ndarray, history: np.ndarray) -> None:
    owned = ((answer.item[:, :, None] == history[:, None]) & (answer.item >= 0)[:, :, None]).any(axis=(1, 2))
    if owned.any():
        raise DataError(f"recommendations: want no item of the history (seen = remove), "
                        f"got one for case {rows[owned.argmax()]}")


def repeat_rate(train: Interactions) -> float:
    """Return the share of the training events whose user had taken the same item before."""
    pairs = np.unique(train.user.astype(np.int64) * len(train.items) + train.item)
    return 1 - len(pairs) / len(train) if len(train) else 0.0


def resolve_seen(seen: str, train: Interactions) -> Seen:
    """Return "keep" or "remove"; "auto" removes where users hardly take an item again (`RARE`)."""
    if seen == "auto":
        return "remove" if repeat_rate(train) < RARE else "keep"
    if seen == "keep" or seen == "remove":
        return seen
    raise ConfigError(f"seen: want auto, keep or remove, got {seen!r}{did_you_mean(seen, ('auto', 'keep', 'remove'))}")


def truth_of(cases: Cases) -> tuple[Truth, np.ndarray]:
    """Return the distinct targets of each case (an item taken twice is one target, at its first time) and int64 [T] times."""
    row = np.repeat(np.arange(len(cases)), np.diff(cases.target_offsets))
    _, first = np.unique(row * (cases.target.max(initial=0) + 1) + cases.target, return_index=True)
    keep = np.sort(first)
    counts = np.bincount(row[keep], minlength=len(cases))
    return Truth(cases.target[keep], np.concatenate([[0], np.cumsum(counts)])), cases.target_time[keep]


def measure(recommendations: Recommendations, split: Split, cases: Cases, *, part: str, ks: tuple[int, ...] = (5, 10, 20),
            seen: Seen, seconds: float, ids: SemanticIds | None = None, vectors: np.ndarray | None = None,
            categories: np.ndarray | None = None, seed: int = 0) -> Evaluation:
    """Return the evaluation of lists that are there already, one for each case. The arguments are those of `evaluate`."""
    ks = tuple(sorted(set(ks)))
    depth = recommendations.item.shape[1]
    if not ks or ks[0] < 1 or (depth <= ks[-1] and depth < len(split.catalog)):
        raise ConfigError(f"ks: want cut-offs from 1 to below the list length {depth}, so that ties have room, got {ks}; "
                          "ask for a larger depth")
    if not len(cases):
        raise DataError(f"{part}: want one case at least, got none; choose a lower min_history or another split")
    truth, target_time = truth_of(cases)
    k = 10 if 10 in ks else ks[-1]

    per_user = {f"{name}@{c}": metric(recommendations, truth, c) for name, metric in RANKING.items() for c in ks}
    about_lists, about_all = _beyond(recommendations, split, cases, k, ids, vectors, categories)
    per_user |= about_lists
    metrics = {name: _interval(values, cases.user, seed) for name, values in per_user.items()}
    metrics |= {name: Measure(value) for name, value in about_all.items()}
    return Evaluation(
        part=part, protocol=replace(split.protocol, seen=seen), fingerprint=split.fingerprint, k=k, metrics=metrics,
        slices=_slices(recommendations, split, cases, truth, target_time, k, seed),
        sid_level=_sid_level(recommendations, truth, ks, per_user),
        num_cut=_num_cut(recommendations, ks[-1], len(split.catalog)), seconds=seconds,
        per_user=per_user, recommendations=recommendations,
    )


def _interval(values: np.ndarray, user: np.ndarray, seed: int) -> Measure:
    defined = ~np.isnan(values)
    values, user = values[defined], user[defined]
    return Measure(float(values.mean()), *bootstrap(values, user=user, seed=seed)) if len(values) else Measure(math.nan)


def _beyond(recommendations: Recommendations, split: Split, cases: Cases, k: int, ids: SemanticIds | None,
            vectors: np.ndarray | None, categories: np.ndarray | None) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return what lists are like: {name: float64 [B]} and, about all of them together, {name: number}."""
    popularity = split.train.counts
    history = lambda value: beyond.history_mean(split.events.item, cases.history_begin, cases.history_end, value)
    per_user = {
        "novelty": beyond.novelty(recommendations, beyond.known_share(split.train), k),
        "arp": beyond.arp(recommendations, popularity, k),
        "aplt": beyond.aplt(recommendations, beyond.long_tail(popularity), k),
    }
    if ids is not None:
        per_user["code_diversity"] = beyond.code_diversity(recommendations, ids, k)
    if vectors is not None:
        per_user["diversity"] = beyond.diversity(recommendations, vectors, k)
    if categories is not None:
        per_user["category_entropy"] = beyond.category_entropy(recommendations, categories, k)
        per_user["miscalibration"] = beyond.miscalibration(recommendations, categories, history(categories), k)
    shown = beyond.exposure(recommendations, len(split.catalog), k)
    overall = {
        "coverage": beyond.coverage(shown),
        "gini": beyond.gini(shown),
        "entropy": beyond.entropy(shown),
        "popularity_lift": beyond.popularity_lift(recommendations, popularity, history(popularity), k),
    }
    return {f"{name}@{k}": v for name, v in per_user.items()}, {f"{name}@{k}": v for name, v in overall.items()}


def _slices(recommendations: Recommendations, split: Split, cases: Cases, truth: Truth, target_time: np.ndarray, k: int,
            seed: int) -> dict[str, dict[str, Slice]]:
    def one(mask: np.ndarray) -> Slice:
        own, rows = truth.where(mask)
        r = recommendations
        lists = Recommendations(r.user[rows], r.item[rows], r.score[rows], r.scale)
        return Slice(len(own.item), len(own), {f"{name}@{k}": _interval(metric(lists, own, k), lists.user, seed)
                                               for name, metric in (("recall", recall), ("ndcg", ndcg))})

    found = slicings(split, cases, truth, target_time)
    return {name: {label: one(mask) for label, mask in slicing.items()} for name, slicing in found.items()}


def _sid_level(recommendations: Recommendations, truth: Truth, ks: tuple[int, ...],
               per_user: dict[str, np.ndarray]) -> dict[str, float]:
    groups = tie_groups(recommendations, truth)
    if not ((groups.stop - groups.first > groups.targets) & (groups.first < ks[-1])).any():
        return {}
    means = {f"{name}@{k}": float(metric(recommendations, truth, k, optimistic=True).mean())
             for name, metric in RANKING.items() for k in ks}
    return {name: mean for name, mean in means.items() if abs(mean - per_user[name].mean()) > 1e-12}


def _num_cut(recommendations: Recommendations, largest_k: int, num_items: int) -> int:
    item, score = recommendations.item, recommendations.score
    if item.shape[1] >= num_items:
        return 0
    return int(((item[:, -1] >= 0) & (score[:, largest_k - 1] == score[:, -1])).sum())


def _measure(plain: dict) -> Measure:
    return Measure(math.nan if plain["mean"] is None else plain["mean"], plain["low"], plain["high"])


def _without_nan(value):
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
