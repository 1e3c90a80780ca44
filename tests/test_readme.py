"""Every command and every line of Python in the README runs, in a folder with two small tables."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.toyworld.world import walk

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def block(after: str, language: str = "") -> str:
    """Return the first fenced block of a language behind a heading."""
    return re.search(rf"{re.escape(after)}.*?```{language}\n(.*?)```", README, re.DOTALL)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """events and items, as CSV and as Parquet; user 42 is among them."""
    folder = tmp_path_factory.mktemp("readme")
    world = walk(users=60)
    events = pa.table({"user_id": [str(u) for u in world.events.user.tolist()],
                       "item_id": world.events.items.ids[world.events.item].tolist(),
                       "timestamp": (world.events.time + 1_600_000_000).tolist()})
    items = world.catalog.table.append_column("item_id", pa.array(world.catalog.items.ids.tolist()))
    for name, table in (("events", events), ("items", items)):
        pa.csv.write_csv(table, folder / f"{name}.csv")
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


@pytest.mark.slow
def test_the_commands_run(folder):
    for line in block("## Your own data").splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "semid"
        done = subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (folder / "runs" / "first" / "report.html").exists()


@pytest.mark.slow
def test_the_python_runs(folder):
    code = block("The same from Python", "python").replace("runs/first", "runs/python")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
