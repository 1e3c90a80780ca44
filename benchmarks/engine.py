"""How long does a request take, from history to list? A two-level generator over a million items, one user or many, top 50.

    python benchmarks/engine.py --out results/benchmarks/engine.json

Distinct synthetic codes (4 x 256), random weights: width 128, 2 layers, an id vector an item and a vector a tree node, which is
the worst case for skipping beams. Every request has another history of 50 items with days between them. `limited`: a rule that
allows a tenth of the items, prepared once (`allow_ms`), and the history's own items removed. `exact`: the same history model and
a product with all item vectors, what SASRec costs without an index. Requests take turns; figures are of one thread: `cpu` its CPU
time, which busy neighbours disturb least, and `wall`, which is what a user waits and counts the neighbours too.
Batches: `processes` processes that share the weights, one thread each.
Must: wall p50 < 2 ms, p99 < 5 ms; limits cost < 20 %; 1,000 users/s on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from semid.data.batch import history_batch
from semid.decoding.ranking import top_items
from semid.generators.two_level import TwoLevel
from semid.recommenders import CodeRecommender
from semid.types import Batch, SemanticIds

LEVELS, SIZE, LENGTH, WIDTH = 4, 256, 50, 128


def build(items: int, seed: int) -> CodeRecommender:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    number = rng.permutation(np.unique(rng.integers(0, SIZE**LEVELS, items + items // 8))[:items])
    codes = np.stack([number // SIZE**power % SIZE for power in reversed(range(LEVELS))], axis=1).astype(np.int16)
    ids = SemanticIds(codes, (SIZE,) * LEVELS)
    model = TwoLevel(ids, width=WIDTH, layers=2, heads=2, feedforward=2 * WIDTH, max_length=LENGTH,
                     start=torch.randn(items, WIDTH) * 0.05).eval()
    for table in model.node:
        torch.nn.init.normal_(table, std=0.05)
    return CodeRecommender(model, ids, model.tree, normalise="children")


def requests(items: int, count: int, users: int, seed: int) -> list[Batch]:
    rng = np.random.default_rng(seed)
    history = lambda: rng.integers(0, items, LENGTH)
    times = lambda: np.cumsum(rng.integers(0, 10 * 86_400, LENGTH))
    return [history_batch([history() for _ in range(users)], [times() for _ in range(users)], max_history=LENGTH) for _ in range(count)]


def in_turns(ways: dict[str, Callable[[Batch], object]], batches: list[Batch]) -> dict[str, dict[str, np.ndarray]]:
    """Return per way the milliseconds of each request, {"wall": [n], "cpu": [n]}."""
    taken = {name: {"wall": np.empty(len(batches)), "cpu": np.empty(len(batches))} for name in ways}
    for batch in batches[:5]:
        for way in ways.values():
            way(batch)
    for index, batch in enumerate(batches):
        for name in (list(ways), list(reversed(ways)))[index % 2]:  # who comes second finds the history in the cache
            wall, cpu = time.perf_counter(), time.thread_time()
            ways[name](batch)
            taken[name]["cpu"][index], taken[name]["wall"][index] = time.thread_time() - cpu, time.perf_counter() - wall
    return {name: {clock: values * 1e3 for clock, values in clocks.items()} for name, clocks in taken.items()}


def users_per_second(recommender: CodeRecommender, k: int, users: int, seconds: float, processes: int, seed: int) -> dict[str, float]:
    """Serve batches for some seconds in forked processes: users a second in all, and CPU milliseconds a user."""
    count = len(recommender.tree)

    def serve(process: int, results: multiprocessing.SimpleQueue) -> None:
        torch.set_num_threads(1)
        batches = requests(count, 8, users, seed + process)
        recommender.recommend(batches[0], k=k)
        begin, cpu, served = time.perf_counter(), time.thread_time(), 0
        while time.perf_counter() < begin + seconds:
            recommender.recommend(batches[served // users % len(batches)], k=k)
            served += users
        results.put((served / (time.perf_counter() - begin), (time.thread_time() - cpu) * 1e3 / served))

    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    workers = [fork.Process(target=serve, args=(process, results)) for process in range(processes)]
    for worker in workers:
        worker.start()
    rates = np.array([results.get() for _ in workers])
    for worker in workers:
        worker.join()
    cpu_ms = float(rates[:, 1].mean())
    return {"batch": users, "processes": processes, "users_per_second": float(rates[:, 0].sum()), "cpu_ms_per_user": cpu_ms,
            "users_per_cpu_second_on_two_cores": 2 * 1e3 / cpu_ms}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--top", type=int, default=50)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to serve batches")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    recommender = build(args.items, args.seed)
    model = recommender.generator
    mask = np.random.default_rng(args.seed).random(args.items) < 0.1
    recommender.tree.allow(mask)
    begin = time.thread_time()
    constraint = recommender.tree.allow(mask)
    allow_ms = (time.thread_time() - begin) * 1e3

    @torch.inference_mode()
    def exact(batch: Batch) -> object:
        return top_items(model.start(batch).user @ model.input.item.weight.T, args.top)

    ways = {"plain": lambda batch: recommender.recommend(batch, k=args.top),
            "limited": lambda batch: recommender.recommend(batch, k=args.top, constraint=constraint, seen="remove")}
    single = requests(args.items, args.requests, 1, args.seed)
    taken = in_turns(ways, single) | in_turns({"exact": exact}, single[:50])
    result = {
        "benchmark": "engine", "command": "python benchmarks/engine.py", "items": args.items, "top": args.top, "history": LENGTH,
        "width": WIDTH, "seed": args.seed, "parameters": recommender.num_parameters, "threads": 1,
        "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load_average": os.getloadavg()[0],
        "torch": torch.__version__, "tree_bytes_per_item": recommender.tree.nbytes / args.items, "allow_ms": allow_ms,
        "must": {"wall_p50_ms": 2, "wall_p99_ms": 5, "limits_cost": 0.2, "users_per_second": 1000},
        "one_user": {name: {f"{clock}_{part}_ms": float(np.percentile(values, percent)) for clock, values in clocks.items()
                            for part, percent in (("p10", 10), ("p50", 50), ("p99", 99))} for name, clocks in taken.items()},
        "limits_cost": float(np.median(taken["limited"]["cpu"] / taken["plain"]["cpu"]) - 1),
        "exact_over_plain": float(np.median(taken["exact"]["cpu"]) / np.median(taken["plain"]["cpu"])),
        "batches": users_per_second(recommender, args.top, args.batch, args.seconds, args.processes, args.seed),
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
