"""Cold items: hold out a share of the items with all their events, train without them, add them, ask for them.

    python benchmarks/cold_items.py --data FOLDER [--epochs 6] [--held-out 0.1] [--out results/benchmarks/cold_items.json]

Every test case asks for one event of a held-out item after the user's earlier events of known items (protocol `cold_items`). Two
questions: is the cold item found among all items, and among the cold ones alone. Exposure: the share of cold items in the lists; their
share of the events in the data is beside it. Items without text can't be added and count as never found. Rivals: popularity (knows no
cold item: they come last, in row order) and content-kNN (cosine to the mean content vector of the last 5 items).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import semid
from semid.data.read import Dataset
from semid.data.split import split as split_events
from semid.encoders.text import item_texts
from semid.run import machine
from semid.serving.contract import Request
from semid.serving.engine import Engine
from semid.types import Catalog, IdMap, Protocol, Split

KS = (10, 50)
LAST = 5
BATCH = 128


def with_words(folder: Path, column: str) -> Dataset:
    """Return the data with this column as the items' text, and no other."""
    items = pq.read_table(folder / "items.parquet", columns=["item_id", column])
    return semid.read(folder / "interactions.parquet", items.rename_columns(["item_id", "words"]))


def without(split: Split, cold: np.ndarray) -> Split:
    """Return the split over the warm items alone: the same training rows, and its last events as validation."""
    keep = np.ones(len(split.catalog), bool)
    keep[cold] = False
    row = np.cumsum(keep, dtype=np.int32) - 1
    rows = np.flatnonzero(keep)
    ids = IdMap(split.catalog.items.ids[rows])
    catalog = Catalog(ids, split.catalog.table.take(rows), {name: [text[r] for r in rows] for name, text in split.catalog.text.items()},
                      {name: view[rows] for name, view in split.catalog.views.items()})
    events = replace(split.train, item=row[split.train.item], items=ids, split=None)
    return split_events(events, catalog, Protocol(seen="remove"), split.fingerprint)


def content_knn(vectors: np.ndarray, histories: list[np.ndarray]) -> np.ndarray:
    """Return float32 [B, N]: cosine of every item to the mean of the last items of each history."""
    profile = np.stack([vectors[h[-LAST:]].mean(0) for h in histories])
    return profile @ vectors.T


def ranked(scores: np.ndarray, histories: list[np.ndarray], allowed: np.ndarray, k: int) -> np.ndarray:
    """Return int64 [B, k]: the best allowed items that the history doesn't hold."""
    scores = np.where(allowed, scores, -np.inf)
    for row, history in enumerate(histories):
        scores[row, history] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="semid:no_id")
    parser.add_argument("--text", default="auto")
    parser.add_argument("--words", help="the only column of the items to read as text, though its name be that of an id")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)

    data = semid.read(arguments.data) if arguments.words is None else with_words(arguments.data, arguments.words)
    split = data.split(Protocol(split="cold_items", held_out=arguments.held_out, seed=arguments.seed))
    is_cold = (data.interactions.counts > 0) & (split.train.counts == 0)
    cold = np.flatnonzero(is_cold)
    warm = without(split, cold)
    texts = item_texts(split.catalog)
    added = np.array([row for row in cold if texts[row]])
    rng = np.random.default_rng(arguments.seed)
    answerable = np.flatnonzero(split.test.history_end > split.test.history_begin)
    cases = split.test.take(np.sort(rng.permutation(answerable)[: arguments.cases]))
    histories = [split.events.item[b:e].astype(np.int64) for b, e in zip(cases.history_begin, cases.history_end, strict=True)]
    times = [split.events.time[b:e] for b, e in zip(cases.history_begin, cases.history_end, strict=True)]
    ids = split.catalog.items.ids

    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        semid.train(arguments.recipe, warm, out=Path(folder) / "run", seed=arguments.seed,
                    settings={"epochs": arguments.epochs, "text": arguments.text})
        trained = time.perf_counter() - begin
        engine = Engine.open(Path(folder) / "run")
        table = split.catalog.table.take(added)
        assert engine.snapshot.newcomers is not None
        _ = engine.snapshot.newcomers.encode  # weights are loaded once, not for each table
        begin = time.perf_counter()
        engine.add(table.slice(0, 1))
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        engine.add(table.slice(1))
        rest = time.perf_counter() - begin
        order = [str(ids[row]) for row in np.flatnonzero(~is_cold)] + [str(ids[row]) for row in added]
        assert engine.snapshot.catalog.items.ids.tolist() == order
        place = split.catalog.items.rows(order)  # row of the data for each row of the engine
        content = engine.snapshot.content
        assert content is not None
        vectors = np.zeros((len(ids), content.shape[1]), np.float32)
        vectors[place] = content.numpy()

        lists: dict[str, dict[str, np.ndarray]] = {"among all": {}, "among cold": {}}
        only = tuple(str(ids[row]) for row in added)
        for question, allowed in (("among all", np.ones(len(ids), bool)), ("among cold", is_cold)):
            asked = [Request(tuple(ids[h].tolist()), tuple(t.tolist()), k=max(KS), seen="remove",
                             include_only=None if question == "among all" else only) for h, t in zip(histories, times, strict=True)]
            answers = [answer for b in range(0, len(asked), BATCH) for answer in engine.recommend(asked[b : b + BATCH])]
            assert all(answer.error is None for answer in answers)
            lists[question][arguments.recipe] = np.stack([split.catalog.items.rows(answer.item_ids) for answer in answers])
            for name, scores in (("popularity", np.tile(split.train.counts.astype(np.float32), (len(histories), 1))),
                                 ("content-kNN", content_knn(vectors, histories))):
                lists[question][name] = ranked(scores, histories, allowed, max(KS))

    target = cases.target[:, None]
    result = {"benchmark": "cold_items", "command": "python benchmarks/cold_items.py " + " ".join(argv or sys.argv[1:]),
              "machine": machine(), "data": arguments.data.name, "fingerprint": data.fingerprint, "protocol": split.protocol.hash,
              "seed": arguments.seed, "epochs": arguments.epochs, "items": len(ids), "cold": len(cold),
              "cold_without_text": len(cold) - len(added), "cases": len(cases),
              "share_of_events": float(is_cold[data.interactions.item].mean()), "train_seconds": round(trained, 1),
              "add_seconds": {"first item": round(first, 3), f"{len(added) - 1} items": round(rest, 3)},
              "systems": {}}
    for question, systems in lists.items():
        for name, found in systems.items():
            row = {f"recall@{k}": round(float((found[:, :k] == target).any(1).mean()), 4) for k in KS}
            if question == "among all":
                row |= {f"exposure@{k}": round(float(is_cold[found[:, :k]].mean()), 4) for k in KS}
            result["systems"].setdefault(name, {})[question] = row
            print(f"{question}, {name}: {row}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
