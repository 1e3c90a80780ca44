"""How long from a new item to its first recommendation? Over HTTP and by `semid add`, the process and its imports apart.

    python benchmarks/add_item.py --data ../shared/data/amazon-beauty --out results/benchmarks/add_item.json
    python benchmarks/add_item.py --run runs/beauty

A run of the default recipe (one epoch: how well it recommends plays no part) over all items of the data, text vectors as installed.
`ready`: from starting the server until it answers, the text encoder and the check that it is the run's included; the `first` item is
sent at that moment. `http`: from sending POST /items until POST /recommend has answered with the new item. `verb`: the whole command;
`imports`: a process that only imports what the verb does. Seconds: `wall`, which counts busy neighbours too, and `cpu` of the process.
Must: every figure of `http` below one second, and that of the verb beyond its imports.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from serve_process import Connection, Server, request, server, write

import semid
from semid.run import load, machine

TITLE = "Moisturising hand cream with shea butter"
IMPORTS = "import torch, duckdb, pyarrow.dataset, numba, semid.cli, semid.serving.engine; from transformers import AutoTokenizer, BertModel"


async def over_http(process: Server, known: list[str], count: int) -> list[tuple[float, float]]:
    """Return seconds, wall and CPU, for each of `count` new items, one after the other."""
    connection, taken = Connection(process.port), []
    for number in range(count):
        new = f"new-{number}"
        begin, cpu = time.perf_counter(), process.cpu_seconds
        status, body = await connection.ask(request("POST", "/items", {"items": [{"item_id": new, "title": f"{TITLE} {number}"}]}))
        assert status == 200, body
        status, body = await connection.ask(request("POST", "/recommend", {"history": known, "include_only": [new]}))
        taken.append((time.perf_counter() - begin, process.cpu_seconds - cpu))
        assert [each["item_id"] for each in json.loads(body)["items"]] == [new], (status, body)
    connection.close()
    return taken


def seconds_of(command: list[str]) -> tuple[float, float]:
    """Return the seconds of a process, wall and CPU."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begin, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def by_verb(run: Path, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return median seconds of `semid add` of one item, and of a process that imports as much."""
    taken: dict[str, list[tuple[float, float]]] = {"verb": [], "imports": []}
    for number in range(rounds):
        copy = shutil.copytree(run, folder / f"verb-{number}")
        (folder / "new.csv").write_text(f"item_id,title\nnew,{TITLE}\n")
        taken["imports"].append(seconds_of([sys.executable, "-c", IMPORTS]))
        taken["verb"].append(seconds_of([sys.executable, "-m", "semid", "add", str(copy), "--items", str(folder / "new.csv")]))
        assert pq.read_metadata(copy / "changes" / "000001.parquet").num_rows == 1
    return {name: both(np.median(seconds, axis=0)) for name, seconds in taken.items()}


def both(seconds: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in zip(("wall", "cpu"), seconds, strict=True)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="events and items to train a run on")
    source.add_argument("--run", type=Path, help="a run that is there already; it stays as it is")
    parser.add_argument("--items", type=int, default=20, help="to add over HTTP")
    parser.add_argument("--rounds", type=int, default=3, help="of the verb")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = args.run or folder / "run"
        if args.data:
            semid.train("semid", semid.read(args.data), out=run, settings={"epochs": 1})
        loaded = load(run)
        begin = time.perf_counter()
        with server(run, folder / "h.sqlite") as process:
            ready = time.perf_counter() - begin, process.cpu_seconds
            http = asyncio.run(over_http(process, loaded.catalog.items.ids[:2].tolist(), args.items))
        result = {"benchmark": "add_item", "command": "python benchmarks/add_item.py " + " ".join(argv or sys.argv[1:]),
                  "machine": machine(), "load_average": os.getloadavg()[0], "items": len(loaded.catalog), "must_seconds": 1,
                  "ready": both(ready),
                  "http": {"first": both(http[0]), "median": both(np.median(http[1:], axis=0)), "slowest": both(np.max(http, axis=0))},
                  **by_verb(run, folder, args.rounds)}
    print(json.dumps(result, indent=1))
    if args.out:
        write(args.out, result)


if __name__ == "__main__":
    main()
