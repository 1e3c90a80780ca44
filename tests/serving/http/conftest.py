"""A small trained run, and `semid serve` over it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serving.processes import said

HOME = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the default recipe on the bundled data, small: 600 films, a few seconds of training."""
    import semid
    from semid.data.bundled import FOLDER

    folder = tmp_path_factory.mktemp("service") / "run"
    data = semid.read(FOLDER, item_core=40)
    semid.train("semid", data, out=folder, device="cpu", settings={
        "text": "hashed", "epochs": 1, "epoch_steps": 0, "size": 32, "width": 32, "layers": 1, "cf_dim": 16, "beams": 20})
    return folder


@contextmanager
def serving(run: Path, store: Path) -> Iterator[str]:
    """Serve `run`; the value is the address."""
    process = subprocess.Popen([sys.executable, "-m", "semid", "serve", str(run), "--port", "0", "--json", "--drain", "0",
                                "--max-rate", "0", "--max-seconds", "60", "--store", str(store)],
                               cwd=HOME, env={**os.environ, "PYTHONPATH": str(HOME)}, stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(said(process))["address"]
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def served(trained: Path) -> Iterator[str]:
    """The address of `semid serve` over that run; its tests add items and events."""
    with serving(trained, trained.with_name("h.sqlite")) as address:
        yield address
