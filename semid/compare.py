"""Several recipes on one data set and one protocol: train, measure, one honest table.

Each run keeps its folder under `out`, so that an interrupted comparison goes on where it stopped, and leaves one JSON in
`results/runs` (recipe, config, protocol hash, data fingerprint, seed, machine, seconds, metrics), with the tests between
systems in `results/comparisons`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semid.data.batch import case_batches, history_batch
from semid.evaluation.compare import Comparison, compare_runs
from semid.evaluation.evaluate import Evaluation, evaluate
from semid.recommenders import Fusion
from semid.run import Run, find_recipe, train, write_json
from semid.training.log import Log
from semid.types import Protocol, Split

BASELINES = ("popularity", "item_knn", "ease", "sasrec")
METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")


@dataclass(frozen=True)
class Entry:
    """One trained system of a comparison. evaluations: {seen: Evaluation} on test; milliseconds: float [R] of single requests."""

    name: str
    seed: int
    run: Run
    evaluations: dict[str, Evaluation]
    milliseconds: np.ndarray

    @property
    def time_requests(recommender: Any, split: Split, *, requests: int = 100, k: int = 50) -> np.ndarray:
    """Return float [requests]: milliseconds of single requests for the top k, one user each, after ten to warm up."""
    cases = split.test
    pick = np.random.default_rng(0).integers(len(cases), size=requests + 10)
    took = []
    for case in pick:
        begin, end = cases.history_begin[case], cases.history_end[case]
        batch = history_batch([split.events.item[begin:end]], [split.events.time[begin:end]], max_history=split.protocol.max_history)
        start = time.perf_counter()
        recommender.recommend(batch, k=min(k, len(split.catalog)), seen="remove")
        took.append(time.perf_counter() - start)
    return np.array(took[10:]) * 1000


def tabulate(entries: Sequence[Entry], seen: str) -> Comparison:
    """Return the comparison of all entries; the reference is item-kNN where present, else the first row."""
    rows: dict[str, list[Evaluation]] = {}
    for entry in entries:
        rows.setdefault(entry.name, []).append(entry.evaluations[seen])
    return compare_runs(list(rows.items()), reference="item_knn" if "item_knn" in rows else None, metrics=METRICS)


def save_result(folder: Path, data: str, entry: Entry) -> Path:
    """Write one JSON a run, from which every table is made."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {key: value for key, value in entry.run.about.items() if key != "format"}
    fused = isinstance(entry.run.recommender, Fusion) and ":" in entry.name
    record = {"data_name": data, "system": entry.name, **about, "latency_ms": entry.latency,
              "fusion_weight": entry.run.recommender.weight if fused else None,
              "test": {seen: evaluation.to_dict() for seen, evaluation in entry.evaluations.items()}}
    path = folder / f"{data}.{entry.run.split.protocol.hash}.{re.sub('[^a-z0-9_]+', '-', entry.name)}.{entry.seed}.json"
    write_json(path, record)
    return path
