"""Produce results/: train and measure the systems on the benchmark data sets. Interrupted runs go on where they stopped.

    python benchmarks/results.py --data FOLDER [--sets amazon-beauty ...] [--systems semid:fusion ...] [--seeds 3]
        [--shuffle-ties 0] [--max-history 50]

FOLDER holds one folder a data set (interactions.parquet, items.parquet). Every run leaves one JSON in results/runs; the paired
tests, of all against item_knn and of all against sasrec (or what --against names), go to results/comparisons/ once all systems of the
call are there. Then `make docs` writes the tables.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import semid
from semid.comparison import compare, tabulate
from semid.files import write_json
from semid.training.log import Log

ROOT = Path(__file__).resolve().parents[1]
SETS = ("amazon-beauty", "amazon-toys", "amazon-sports", "amazon-instruments", "ml-1m")
UNORDERED = ("tiktok", "amazon-phones")
"""Sets without times (or with some for training rows alone): the order of their rows means nothing, so histories are whole, and what a
user has is not asked of him again."""
SYSTEMS = ("popularity", "item_knn", "ease", "sasrec", "semid:fusion")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--shuffle-ties", type=int, default=None)
    parser.add_argument("--max-history", type=int, default=50, help="items read at most")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "results")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--against", nargs="+", default=None, help="systems of the call that all are tested against")
    parser.add_argument("--set", action="append", default=[], metavar="SYSTEM.SETTING=VALUE", help="change a setting of one system")
    args = parser.parse_args(argv)
    settings: dict[str, dict[str, object]] = {}
    for text in args.set:
        path, value = text.split("=", 1)
        system, setting = path.split(".", 1)
        settings.setdefault(system, {})[setting] = value
    references = args.against or [system for system in ("item_knn", "sasrec") if system in args.systems] or args.systems[:1]
    if unknown := set(references) - {part for system in args.systems for part in (system, system.partition(":")[0])}:
        parser.error(f"--against: want systems of this call, got {', '.join(sorted(unknown))}")
    for name in args.sets:
        protocol = semid.Protocol(max_history=args.max_history, shuffle_ties=args.shuffle_ties)
        if name in UNORDERED:
            protocol = semid.Protocol(max_history=1000, seen="remove")
        data = semid.read(args.data / name, order="file", time="") if name in UNORDERED else semid.read(args.data / name)
        split = data.split(protocol)
        began = time.perf_counter()

        def log(recipe: str, seed: int, name: str = name, protocol: semid.Protocol = protocol, began: float = began) -> Log:
            def view(record: dict) -> None:
                if {"valid", "note", "health"} & record.keys():
                    print(f"{time.perf_counter() - began:7.0f} s  {name} {recipe} {seed}  {json.dumps(record)[:300]}", flush=True)

            return Log(args.out / f"{name}.{protocol.hash}.{recipe}.{seed}.jsonl", view)

        table = compare(args.systems, split, seeds=args.seeds, out=args.out / f"{name}.{protocol.hash}", results=args.results, name=name,
                        baselines=False, against=references[0], settings=settings, log=log)
        for against in references:
            for seen, first in table.comparisons.items():
                path = args.results / "comparisons" / f"{name}.{protocol.hash}.{against.replace(':', '-')}.{seen}.json"
                found = first if against == first.reference else tabulate(table.entries, seen, against)
                write_json(path, found.to_dict())


if __name__ == "__main__":
    main()
