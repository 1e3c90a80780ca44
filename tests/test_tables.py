"""The tables of README.md and docs/results.md are those of results/."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_printed_tables_are_generated_from_results():
    assert tables().main(["--check"]) == 0


def test_every_result_names_what_it_was_measured_on():
    for path in (ROOT / "results" / "runs").glob("*.json"):
        record = json.loads(path.read_text())
        assert {"system", "config", "seed", "machine", "seconds", "protocol_hash", "versions"} <= set(record), path.name
        assert len(record["data"]["fingerprint"]) == 16
        assert record["test"]["keep"]["protocol_hash"] != record["test"]["remove"]["protocol_hash"]
