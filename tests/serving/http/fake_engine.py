"""An engine that is quick and misbehaves on demand: what batching, limits and faults are tried with."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pyarrow as pa

from semid.errors import DataError
from semid.serving.contract import Answer, Change, Explanation, History, Neighbour, Request
from semid.types import IdMap


@dataclass(frozen=True)
class FakeCatalog:
    items: IdMap
    table = pa.table({"item_id": pa.array([], pa.string())})
    text: ClassVar[dict] = {}


@dataclass(frozen=True)
class FakeSnapshot:
    catalog: FakeCatalog
    version: int
    known: frozenset[str] = frozenset()
    content = None
    takes_items = False
    run = SimpleNamespace(split=SimpleNamespace(source=SimpleNamespace(users=IdMap(["ann"]))))

    @property
    def num_alive(self) -> int:
        return len(self.catalog.items)

    def remembered(self, where: str | None, only: tuple[str, ...] | None) -> bool | None:
        return where in self.known or None

    @property
    def alive(self) -> np.ndarray:
        return np.ones(self.num_alive, bool)


class FakeEngine:
    """Recommends the items after the last of the history. A history with "poison" breaks its whole batch, "bad" is refused by
    itself, "slow" waits for `gate`. All three are in the catalogue."""

    def __init__(self, items: int = 50, seconds: float = 0.0):
        self.snapshot = FakeSnapshot(FakeCatalog(IdMap([*(f"i{n}" for n in range(items - 3)), "poison", "bad", "slow"])), 1)
        self.seconds, self.gate, self.sizes = seconds, threading.Event(), []

    def recommend(self, requests: list[Request]) -> list[Answer]:
        self.sizes.append(len(requests))
        time.sleep(self.seconds)
        if any("poison" in request.history for request in requests):
            raise RuntimeError("a defect")
        if any("slow" in request.history for request in requests):
            self.gate.wait(30)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        if "bad" in request.history:
            return Answer(error=DataError("bad: want another item"))
        ids = self.snapshot.catalog.items
        after = ids.row(request.history[-1]) + 1 if request.history and request.history[-1] in ids else 0
        shown = tuple(ids.ids[(after + n) % len(ids)] for n in range(min(request.k, len(ids))))
        return Answer(shown, shown, tuple(-float(n) for n in range(len(shown))), "log probability", len(ids), version=self.snapshot.version,
                      model="m")

    def history(self, user: str) -> History:
        return History(("i1", "i2"), (100, 200))

    def item(self, item_id: str) -> dict:
        return {"item_id": item_id, "title": item_id, "attributes": {"item_id": item_id}}

    def similar(self, item_id: str, k: int, by: str) -> list[Neighbour]:
        return [Neighbour(id_, id_, 0.5) for id_ in self.snapshot.catalog.items.ids[:k]]

    def explain(self, request: Request, item_id: str) -> Explanation:
        return Explanation(item_id, item_id, -1.0, "log probability", 1, (), (), (), ())

    def explain_all(self, request: Request, item_ids: list[str]) -> list[Explanation]:
        return [self.explain(request, item_id) for item_id in item_ids]

    def prepare(self) -> None:
        pass

    def add(self, table) -> Change:
        ids = [*self.snapshot.catalog.items.ids, *table["item_id"].to_pylist()]
        self.snapshot = FakeSnapshot(FakeCatalog(IdMap(ids)), self.snapshot.version + 1)
        return Change("add", table.num_rows, len(ids), self.snapshot.version)

    def swap(self, run_folder: Path) -> None:
        (run_folder / "manifest.json").read_bytes()
        self.snapshot = FakeSnapshot(self.snapshot.catalog, self.snapshot.version + 1)
