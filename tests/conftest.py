"""What tests of the surface share: the toy world as tables on disk."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def width_of_a_pipe(monkeypatch: pytest.MonkeyPatch):
    """Workers of pytest-xdist are told the width of the terminal that started them; tables shall not depend on it."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with events.csv and items.csv: 150 users walk over 64 items, nine steps of ten to the successor 5 i + 1."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    with open(folder / "events.csv", "w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["user_id", "item_id", "timestamp"])
        for user in range(150):
            item, time = int(rng.integers(64)), 1_600_000_000 + int(rng.integers(10**7))
            for _ in range(int(rng.integers(4, 12))):
                write.writerow([f"u{user}", f"i{item}", time])
                item = (item * 5 + 1) % 64 if rng.random() < 0.9 else int(rng.integers(64))
                time += int(rng.integers(40_000))
    with open(folder / "items.csv", "w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["item_id", "title", "category", "price"])
        for item in range(64):
            write.writerow([f"i{item}", f"Thing number {item}", ["tool", "toy", "book"][item % 3], item / 2])
    return folder
