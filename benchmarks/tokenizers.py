"""How long does each way of making codes take on a whole catalogue? Seconds to fit and to encode, behaviour and text given.

    python benchmarks/tokenizers.py --data ../shared/data/amazon-beauty --out results/benchmarks/tokenizers.json

Behaviour is item-kNN's factors, as in `semid compare --codes`; the SASRec that LETTER trains for it by default isn't counted.
Must, on 12,000 items and two cores: every way within 180 s.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from semid.data.read import read
from semid.encoders.content import with_text_view
from semid.laboratory import SETTINGS, check_way
from semid.training.job import Job
from semid.training.log import Log
from semid.types import Protocol, Split

WAYS = ("semid:text_codes", "semid:cf_codes", "semid", "semid:product", "colarec", "onerec", "semid:rqvae", "cost:two_level",
        "letter:two_level")
MUST = 180


def measure(way: str, data: Split) -> dict:
    """Make the codes of a split's catalogue one way; return its seconds and how many items have codes of their own before the policy."""
    maker = check_way(way, SETTINGS.get(way.partition(":")[0]))
    began, cpu = time.perf_counter(), time.process_time()
    made, _ = maker.make(data, Job(seed=0))
    return {"way": way, "seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - cpu, 1),
            "distinct": made.before.num_distinct}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", default=WAYS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = read(args.data)
    split = data.split(Protocol())
    split = replace(split, catalog=with_text_view(split.catalog, "auto", log=Log()))
    rows = []
    for way in args.ways:
        rows.append(measure(way, split))
        print(rows[-1], flush=True)
    result = {"benchmark": "tokenizers", "data": args.data.name, "items": len(data.catalog), "threads": args.threads,
              "torch": torch.__version__, "machine": platform.machine(), "rows": rows, "must": MUST,
              "met": max(row["seconds"] for row in rows) <= MUST}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
