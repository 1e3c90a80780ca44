"""How long and how large is it to read events? Generates Parquet with string ids, reads it in a process of its own.

    python benchmarks/ingest.py --events 20000000 --out results/benchmarks/ingest.json

Must: 20 million events in < 30 s and < 2 GB peak resident memory on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def generate(path: Path, events: int, users: int, items: int, seed: int) -> None:
    """Write user_id and item_id (14 and 10 letters), timestamp (seconds): users uniform, items by a power law, unsorted."""
    import duckdb

    with duckdb.connect(config={"memory_limit": "2GB"}) as connection:
        connection.execute(f"SELECT setseed({(seed % 1000) / 1000})")
        connection.execute(
            f"COPY (SELECT 'A' || lpad(CAST(CAST(floor(random() * {users}) AS BIGINT) AS VARCHAR), 13, '0') AS user_id, "
            f"'B' || lpad(CAST(CAST(floor({items} * pow(random(), 3)) AS BIGINT) AS VARCHAR), 9, '0') AS item_id, "
            f"CAST(1300000000 + floor(random() * 400000000) AS BIGINT) AS timestamp FROM range({events})) "
            f"TO '{path}' (FORMAT parquet)")


def measure(path: Path) -> dict[str, float | int]:
    """Read one file in this process. Returns seconds (import apart) and peak resident bytes."""
    begin = time.perf_counter()
    from semid.data.read import read

    imported, cpu = time.perf_counter(), time.process_time()
    data = read(path)
    return {"seconds": time.perf_counter() - imported, "cpu_seconds": time.process_time() - cpu,
            "import_seconds": imported - begin, "load_average": os.getloadavg()[0],
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "events": len(data.interactions),
            "users": len(data.interactions.users), "items": len(data.catalog)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", action="store_true", help="read the same events as CSV too")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    command = " ".join(["python benchmarks/ingest.py", *(sys.argv[1:] if argv is None else argv)])
    result = {"benchmark": "ingest", "command": command,
              "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
              "must": {"seconds": 30, "peak_bytes": 2_000_000_000}}
    with tempfile.TemporaryDirectory(prefix="semid-ingest-") as folder:
        path = Path(folder) / "interactions.parquet"
        generate(path, arguments.events, arguments.users, arguments.items, arguments.seed)
        files = {"parquet": path}
        if arguments.csv:
            import duckdb

            files["csv"] = Path(folder) / "interactions.csv"
            duckdb.execute(f"COPY (FROM '{path}') TO '{files['csv']}' (FORMAT csv)")
        for kind, file in files.items():
            child = [sys.executable, __file__, "--measure", str(file)]
            found = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
            result[kind] = {**found, "file_bytes": file.stat().st_size}
            print(f"{kind}: {found['events']:,} events in {found['seconds']:.1f} s ({found['cpu_seconds']:.1f} s of CPU), "
                  f"peak {found['peak_bytes'] / 1e9:.2f} GB")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
