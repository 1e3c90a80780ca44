"""Mixed load on `semid serve`, for minutes: latency and memory over time, as numbers and as a picture.

    python benchmarks/serve_load.py --minutes 10

70 % recommendations for users (some under a rule), 20 % events, 6 % similar items, 3 % recommendations with their reasons, 1 % new
items, sent at a fixed rate whatever the server does; the model is read again every 20 seconds meanwhile. Writes
results/benchmarks/serve_load.json and serve_load.svg beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from serve_process import ROOT, Answered, Connection, Server, example_ids, milliseconds, open_loop, request, server, small_run, write

from semid.evaluation.charts import Line, line_chart
from semid.run import machine


def mixed(users: list[str], items: list[str], count: int, seed: int) -> list[tuple[str, bytes]]:
    """Return `count` requests of the mixture, each event and each new item with a name of its own."""
    rng = random.Random(seed)
    made = []
    for n in range(count):
        user, item, chance = rng.choice(users), rng.choice(items), rng.random()
        if chance < 0.6:
            made.append(("recommend", request("POST", "/recommend", {"user": user, "k": 10})))
        elif chance < 0.7:
            rule = {"user": user, "k": 10, "where": f"year > {rng.randint(1950, 2000)}", "rules": {"diversity": 0.2}}
            made.append(("recommend under a rule", request("POST", "/recommend", rule)))
        elif chance < 0.9:
            made.append(("event", request("POST", "/events", {"events": [{"key": f"load-{n}", "user": user, "item_id": item}]})))
        elif chance < 0.96:
            made.append(("similar", request("GET", f"/items/{item}/similar?k=10")))
        elif chance < 0.99:
            made.append(("explain", request("POST", "/recommend", {"history": rng.choices(items, k=5), "k": 2, "explain": True})))
        else:
            made.append(("add", request("POST", "/items", {"items": [{"item_id": f"new-{n}", "title": f"A new film {n}"}]})))
    return made


async def load(target: Server, messages: list[tuple[str, bytes]], rate: float, seconds: float) -> tuple[list[Answered], int, list, list]:
    """Return the answers, what could not be sent, memory over time [(second, bytes)], and the reloads [(second, status)]."""
    loop = asyncio.get_running_loop()
    start, memory, reloads = loop.time(), [], []

    async def watch() -> None:
        while True:
            memory.append((loop.time() - start, target.resident))
            await asyncio.sleep(1)

    async def reload() -> None:
        connection = Connection(target.port)
        while True:
            await asyncio.sleep(20)
            status, _ = await connection.ask(request("POST", "/reload"))
            reloads.append((round(loop.time() - start, 1), status))

    beside = [asyncio.create_task(watch()), asyncio.create_task(reload())]
    answers, unsent = await open_loop(target.port, messages, rate, seconds, most=64)
    for task in beside:
        task.cancel()
    return answers, unsent, memory, reloads


def windows(answers: Sequence[Answered], seconds: float, width: float) -> list[dict]:
    """Return p50 and p99 of what was due in each window."""
    return [{"second": round(begin + width / 2, 1), **milliseconds([a for a in answers if begin <= a.due < begin + width])}
            for begin in np.arange(0, seconds, width).tolist()]


def picture(over_time: list[dict], memory: list[tuple[float, int]]) -> str:
    """Return one SVG file of two charts, drawn as those of the report."""
    seconds = np.array([window["second"] for window in over_time])
    latency = line_chart([Line("p99", seconds, np.array([w["p99"] for w in over_time]), 1),
                          Line("p50", seconds, np.array([w["p50"] for w in over_time]), 0)], label="Latency", x_name="second")
    resident = line_chart([Line("resident", np.array([at for at, _ in memory]), np.array([size / 1e6 for _, size in memory]), 2)],
                          label="Memory", x_name="second")
    css = (files("semid.evaluation") / "report.css").read_text(encoding="utf-8")
    title = '<text x="20" y="{}" class="note">{}</text>'
    placed = [chart.replace('width="100%"', f'x="20" y="{y}" width="760"', 1) for chart, y in ((latency, 40), (resident, 300))]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="530" font-family="system-ui, sans-serif" font-size="13">'
            f'<style>{css}</style><rect width="800" height="530" fill="var(--paper)"/>'
            f'{title.format(25, "Latency of mixed requests, milliseconds, by second")}{placed[0]}'
            f'{title.format(285, "Resident memory, megabytes, by second")}{placed[1]}</svg>\n')


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=40, help="requests a second")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "serve", help="trained there if missing")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "serve_load.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "results" / "benchmarks" / "serve_load.svg")
    args = parser.parse_args(argv)
    seconds = 60 * args.minutes
    run = small_run(args.run, args.epochs)
    users, items = example_ids(run)
    messages = mixed(users, items, int(args.rate * seconds) + 1, seed=0)
    with tempfile.TemporaryDirectory() as folder, server(run, Path(folder) / "h.sqlite", "--max-rate", "0") as target:
        answers, unsent, memory, reloads = asyncio.run(load(target, messages, args.rate, seconds))
    over_time = windows(answers, seconds, max(1.0, seconds / 120))
    kinds = sorted({answer.kind for answer in answers})
    third = len(memory) // 3
    write(args.out, {
        "benchmark": "serve_load", "machine": machine(), "load_average": os.getloadavg()[0],
        "items": len(items), "minutes": args.minutes, "rate": args.rate, "requests": len(answers),
        "unsent": unsent, "statuses": {str(status): count for status, count in sorted(Counter(a.status for a in answers).items())},
        "ms": {"all": milliseconds(answers), **{kind: milliseconds([a for a in answers if a.kind == kind]) for kind in kinds}},
        "reloads": reloads, "resident_mb": {"first_third": round(float(np.mean([size for _, size in memory[:third]])) / 1e6, 1),
                                            "last_third": round(float(np.mean([size for _, size in memory[-third:]])) / 1e6, 1)},
        "over_time": over_time, "resident_over_time": [[round(at, 1), round(size / 1e6, 1)] for at, size in memory]})
    args.picture.write_text(picture(over_time, memory), encoding="utf-8")
    print(args.out.read_text(encoding="utf-8")[:1500])


if __name__ == "__main__":
    main()
