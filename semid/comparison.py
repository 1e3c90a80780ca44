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

from semid.data.batch import history_batch
from semid.errors import ConfigError, did_you_mean
from semid.evaluation.compare import Comparison, compare_runs
from semid.evaluation.evaluate import Evaluation
from semid.files import write_json
from semid.recommenders import Fusion
from semid.run import FUSED, Run, configure, find_recipe, split_of, train
from semid.training.log import Log
from semid.types import Protocol, Split

BASELINES = ("popularity", "item_knn", "ease", "sasrec")
METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")


@dataclass(frozen=True)
class Entry:
    """One trained system of a comparison. evaluations: {seen: Evaluation}; milliseconds: float [R], one a request.

    parameters: of this system alone, where the run holds a fused one and its generator.
    """

    name: str
    seed: int
    run: Run
    parameters: int
    evaluations: dict[str, Evaluation]
    milliseconds: np.ndarray

    @property
    def latency(self) -> dict[str, float]:
        """{"p50", "p99"} in milliseconds."""
        p50, p99 = np.percentile(self.milliseconds, [50, 99])
        return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


@dataclass(frozen=True)
class Table:
    """entries: every system and seed; comparisons: {"keep": ..., "remove": ...}, seen items kept and removed."""

    entries: tuple[Entry, ...]
    comparisons: dict[str, Comparison]


def compare(recipes: Sequence[str], data: Any, *, seeds: int = 1, out: str | Path, protocol: Protocol | None = None,
            settings: Mapping[str, Mapping[str, object]] | None = None, results: str | Path | None = None, name: str = "data",
            baselines: bool = True, against: str | None = None, device: str = "auto",
            log: Callable[[str, int], Log] | None = None) -> Table:
    """Train and measure `recipes` (and the baselines) with seeds 0..seeds-1; recipes without chance run once.

    data: a data set from `semid.read`, or a `Split`. settings: {recipe: {setting: value}}. name: the data set's, for the
    result files. against: the system that the others are tested against, by default item-kNN where it is in the table.
    """
    split = split_of(data, protocol)
    names = list(dict.fromkeys([*(BASELINES if baselines else ()), *recipes]))
    settings = settings or {}
    if unknown := [recipe for recipe in settings if recipe not in names]:
        raise ConfigError(f"compare: settings for {unknown[0]!r}, which is not compared{did_you_mean(unknown[0], names)}; "
                          f"the systems are: {', '.join(names)}")
    known = {*names, *(stem + FUSED[variant] for recipe in names for stem, _, variant in [recipe.partition(":")] if variant in FUSED)}
    if against is not None and against not in known:
        raise ConfigError(f"compare: unknown system {against!r} to test against{did_you_mean(against, known)}; want one of {names}")
    for recipe in names:
        configure(recipe, settings.get(recipe))  # a misspelt name fails before hours of training
    entries: dict[tuple[str, int], Entry] = {}
    for recipe in names:
        for seed in range(seeds if is_random(recipe) else 1):
            folder = run_folder(out, recipe, seed)
            run = train(recipe, split, out=folder, seed=seed, settings=settings.get(recipe), device=device,
                        resume=folder.exists(), log=log(recipe, seed) if log else None)
            for entry in measured(run):
                if entry.name == recipe or (entry.name, seed) not in entries:  # a system of its own stays, also beside a fused one
                    entries[entry.name, seed] = entry
                    if results is not None:
                        save_result(Path(results) / "runs", name, entry)
    subject = recipes[-1] if recipes else None
    rows = tuple(sorted(entries.values(), key=lambda entry: entry.name == subject))  # the one named last comes last
    return Table(rows, {seen: tabulate(rows, seen, against) for seen in ("keep", "remove")})


def run_folder(out: str | Path, recipe: str, seed: int) -> Path:
    """Return where `compare` keeps one run."""
    return Path(out) / f"{recipe.replace(':', '.')}-{seed}"


def is_random(recipe: str) -> bool:
    """Whether the seed matters."""
    return not getattr(find_recipe(recipe)[0], "IS_DETERMINISTIC", False)


def measured(run: Run, part: str = "test") -> list[Entry]:
    """Measure a run; a fused system is always shown beside its generator alone, the run's own system is the last."""
    return [Entry(name, run.about["seed"], run, recommender.num_parameters, run.evaluate(part, system=name),
                  time_requests(recommender, run.split)) for name, recommender in run.systems.items()]


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


def tabulate(entries: Sequence[Entry], seen: str, against: str | None = None) -> Comparison:
    """Return the comparison of all entries with `against`, by default item-kNN where present, else the first row."""
    rows: dict[str, list[Evaluation]] = {}
    for entry in entries:
        rows.setdefault(entry.name, []).append(entry.evaluations[seen])
    return compare_runs(list(rows.items()), reference=against or ("item_knn" if "item_knn" in rows else None), metrics=METRICS)


def save_result(folder: Path, data: str, entry: Entry) -> Path:
    """Write one JSON a run, from which every table is made."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {key: value for key, value in entry.run.about.items() if key != "format"}
    fused = isinstance(entry.run.recommender, Fusion) and entry.name == entry.run.recipe
    record = {"data_name": data, "system": entry.name, **about, "parameters": entry.parameters, "latency_ms": entry.latency,
              "fusion_weights": entry.run.recommender.named_weights if fused else None, "promotion": entry.run.promotion,
              "test": {seen: evaluation.to_dict() for seen, evaluation in entry.evaluations.items()}}
    path = folder / f"{data}.{entry.run.split.protocol.hash}.{re.sub('[^a-z0-9_]+', '-', entry.name)}.{entry.seed}.json"
    write_json(path, record)
    return path
