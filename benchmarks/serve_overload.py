"""Ten times more requests than `semid serve` can answer: those it accepts stay quick, the others are told to come back, memory is flat.

    python benchmarks/serve_overload.py

First what it can answer (closed loop, as many connections as fit a batch), then 80 % of that at a fixed rate, then ten times that.
Requests are recommendations of the top 10 for a user. Writes results/benchmarks/serve_overload.json.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import tempfile
from collections import Counter
from pathlib import Path

from serve_process import ROOT, Server, closed_loop, example_ids, milliseconds, open_loop, request, server, small_run, write

from semid.run import machine


async def measure(target: Server, messages: list[tuple[str, bytes]], seconds: float, connections: int) -> dict:
    asks = [message for _, message in messages]
    await closed_loop(target.port, asks, connections, 3)  # warm
    capacity = await closed_loop(target.port, asks, connections, seconds)
    rated, _ = await open_loop(target.port, messages, 0.8 * capacity, seconds, most=256)
    before = target.resident
    flooded, unsent = await open_loop(target.port, messages, 10 * capacity, seconds, most=400)
    half = target.resident
    again, unsent_again = await open_loop(target.port, messages, 10 * capacity, seconds, most=400)
    after = target.resident
    flooded = [*flooded, *again]
    accepted = [answer for answer in flooded if answer.status == 200]
    return {
        "capacity_per_second": round(capacity, 1), "rated_per_second": round(0.8 * capacity, 1),
        "rated": {"statuses": statuses(rated), "ms": milliseconds([answer for answer in rated if answer.status == 200])},
        "offered_per_second": round((len(flooded) + unsent + unsent_again) / (2 * seconds), 1), "unsent": unsent + unsent_again,
        "overload": {"statuses": statuses(flooded), "accepted_per_second": round(len(accepted) / (2 * seconds), 1),
                     "ms_accepted": milliseconds(accepted),
                     "ms_refused": milliseconds([answer for answer in flooded if answer.status == 429])},
        "resident_mb": {"before": round(before / 1e6, 1), "half": round(half / 1e6, 1), "after": round(after / 1e6, 1)}}


def statuses(answers: list) -> dict[str, int]:
    return {str(status): count for status, count in sorted(Counter(answer.status for answer in answers).items())}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15, help="of each phase")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "serve", help="trained there if missing")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks" / "serve_overload.json")
    args = parser.parse_args(argv)
    run = small_run(args.run, args.epochs)
    users, items = example_ids(run)
    rng = random.Random(0)
    messages = [("recommend", request("POST", "/recommend", {"user": rng.choice(users), "k": 10})) for _ in range(2000)]
    with tempfile.TemporaryDirectory() as folder, server(run, Path(folder) / "h.sqlite", "--max-rate", "0") as target:
        gc.disable()  # a pause of this client would look like one of the server
        result = asyncio.run(measure(target, messages, args.seconds, connections=16))
    ratio = result["overload"]["ms_accepted"]["p99"] / result["rated"]["ms"]["p99"]
    result = {"benchmark": "serve_overload", "machine": machine(), "load_average": os.getloadavg()[0],
              "items": len(items), **result, "p99_ratio": round(ratio, 2)}
    write(args.out, result)
    print(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
