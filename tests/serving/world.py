"""A small shop with text, dates and lists, and runs trained on it: what tests of serving share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

import semid
from semid.run import Run

KINDS = ("garden hose", "oak table", "wool scarf", "steel kettle", "paper lamp", "glass vase")
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "grey", "brown", "pink", "violet")
ITEMS = 60
SMALL = {"text": "hashed", "size": 8, "width": 16, "layers": 2, "feedforward": 32, "cf_dim": 8, "epochs": 3, "epoch_steps": 20,
         "tokens": 256, "beams": 20}


def items(rows: range = range(ITEMS)) -> pa.Table:
    """Rows of an endless catalogue: item i is of kind i % 6."""
    return pa.table({
        "item_id": [f"i{row}" for row in rows],
        "title": [f"{COLOURS[row // 6 % 10]} {KINDS[row % 6]}" for row in rows],
        "category": [KINDS[row % 6].split()[1] for row in rows],
        "tags": [[COLOURS[row // 6 % 10], "sale"] if row % 4 == 0 else [COLOURS[row // 6 % 10]] for row in rows],
        "price": [float(row % 9) for row in rows],
        "since": pa.array([19_000 + row for row in rows], pa.int32()).cast(pa.date32())})


def events() -> pa.Table:
    """150 users who mostly stay with a kind, one event a day or two."""
    rng = np.random.default_rng(0)
    user, item, time = [], [], []
    for u in range(150):
        kind, now = int(rng.integers(6)), 1_600_000_000
        for row in rng.permutation(10)[: int(rng.integers(4, 9))]:
            user.append(f"u{u}")
            item.append(f"i{int(row) * 6 + (kind if rng.random() < 0.9 else int(rng.integers(6)))}")
            time.append(now := now + int(rng.integers(2 * 86_400)))
    return pa.table({"user_id": user, "item_id": item, "timestamp": time})


def train(recipe: str, out: Path, settings: dict[str, object], seed: int = 0) -> Run:
    return semid.train(recipe, semid.read(events(), items()), out=out, seed=seed, settings=settings)
