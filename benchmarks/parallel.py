"""What does a request cost when all digits are predicted at once? Parallel digits against the two-level generator, one user, top 50.

    python benchmarks/parallel.py --out results/benchmarks/parallel.json

Synthetic codes and random weights; both read 50 items by the same model (width 128, 2 layers, an id vector an item). `two_level`: 4 x 256
codes, 50 beams. `all`: 16 x 256 digits, every item is scored. `graph`: the same digits, 20 beams, 200 edges, 3 steps; its neighbours are
drawn at random, which costs what real ones cost (a search visits no more) and says nothing about what it finds. Requests take turns:
`cpu` is the thread's own time, `wall` counts the neighbours too. kilobytes_a_user: growth of the process's largest size from one user to
64 at once, over 63. bytes_an_item: of what answering needs beside the network's weights: tree or digits, and the graph.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import engine
from semid.decoding.graph import ItemGraph
from semid.generators.parallel import Parallel
from semid.recommenders import CodeRecommender, ParallelRecommender
from semid.types import SemanticIds

DIGITS, SIZE, WIDTH, LENGTH, K, USERS = 16, 256, 128, 50, 50, 64


def build(items: int, seed: int) -> dict[str, CodeRecommender | ParallelRecommender]:
    rng = np.random.default_rng(seed)
    two_level = engine.build(items, seed)
    torch.manual_seed(seed)
    ids = SemanticIds(rng.integers(SIZE, size=(items, DIGITS)).astype(np.int16), (SIZE,) * DIGITS, "set")
    model = Parallel(ids, width=WIDTH, layers=2, heads=2, feedforward=2 * WIDTH, max_length=LENGTH, start=torch.randn(items, WIDTH) * 0.05)
    every = ParallelRecommender(model.eval(), "log probability", ids=ids)
    neighbour = torch.from_numpy(rng.integers(items, size=(items, 200), dtype=np.int32))
    graph = ItemGraph(neighbour, torch.from_numpy(np.sort(rng.permutation(items)[:20])), beams=20, steps=3)
    return {"two_level": two_level, "all": every, "graph": replace(every, graph=graph)}


def kilobytes_a_user(recommender: CodeRecommender | ParallelRecommender, items: int, seed: int) -> float:
    """Measured in a forked process, so that ways don't see each other's peaks."""
    def serve(results: multiprocessing.SimpleQueue) -> None:
        torch.set_num_threads(1)
        one, many = engine.requests(items, 1, 1, seed)[0], engine.requests(items, 1, USERS, seed)[0]
        peak = []
        for batch in (one, many):
            recommender.recommend(batch, k=K)
            peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        results.put((peak[1] - peak[0]) / (USERS - 1))

    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=serve, args=(results,))
    process.start()
    process.join()
    return round(results.get(), 1)


def bytes_an_item(recommender: CodeRecommender | ParallelRecommender) -> float:
    if isinstance(recommender, CodeRecommender):
        tree = recommender.tree
        held = [tree.order, *tree.code, *tree.first, *tree.begin]
    else:
        held = [torch.from_numpy(recommender.ids.codes)] + ([] if recommender.graph is None else [recommender.graph.neighbour])
    return round(sum(tensor.nbytes for tensor in held) / len(recommender.ids), 1)


def measure(items: int, count: int, seed: int) -> dict[str, dict[str, float]]:
    ways = build(items, seed)
    asked = {name: (lambda batch, way=way: way.recommend(batch, k=K, seen="remove")) for name, way in ways.items()}
    taken = engine.in_turns(asked, engine.requests(items, count, 1, seed))
    return {name: {**{f"{clock}_{name_of}_ms": round(float(np.percentile(values, at)), 3) for clock, values in taken[name].items()
                      for name_of, at in (("p50", 50), ("p99", 99))},
                   "kilobytes_a_user": kilobytes_a_user(way, items, seed), "bytes_an_item": bytes_an_item(way)}
            for name, way in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 200_000])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "requests": args.requests,
             "items": {str(items): measure(items, args.requests, 0) for items in args.items}}
    text = json.dumps(found, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
