"""A world with a known best answer: everybody walks over the same ring of items, one step at a time.

The item after row i is `successor[i]`, always. A model that learnt it puts the true item first in every list.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from semid.data.split import split
from semid.types import Catalog, IdMap, Interactions, Protocol, Split

ITEMS = 64


def walk(*, users: int = 240, length: int = 12, items: int = ITEMS, seed: int = 0, protocol: Protocol | None = None) -> Split:
    """Return the walk as a leave-one-out split; items carry a title and a price, neighbours on the ring have like vectors."""
    rng = np.random.default_rng(seed)
    ring = rng.permutation(items)  # ring[j]: the item at place j
    start = rng.integers(items, size=users)
    item = ring[(start[:, None] + np.arange(length)) % items]
    names = IdMap([f"item{i}" for i in range(items)])
    place = np.empty(items)
    place[ring] = np.arange(items)
    angle = 2 * np.pi * place / items
    vectors = np.stack([np.cos(angle), np.sin(angle), np.cos(3 * angle), np.sin(3 * angle)], axis=1)
    vectors = np.concatenate([vectors, rng.normal(0, 0.3, (items, 12))], axis=1).astype(np.float32)
    table = pa.table({"title": [f"Item number {i}" for i in range(items)], "price": [float(i % 10) for i in range(items)],
                      "category": [f"c{i % 4}" for i in range(items)]})
    catalog = Catalog(names, table, {"title": table["title"].to_pylist()}, {"text": vectors})
    time = np.tile(np.arange(length) * 86_400, (users, 1))
    return split(events_of(item, names, time=time, user="user"), catalog, protocol or Protocol(), "toyworld")


def events_of(item: np.ndarray, names: IdMap, *, time: np.ndarray | None = None, user: str = "u") -> Interactions:
    """Return the events of users who took int [U, L] rows of items, one after the other or at int [U, L] times."""
    users, length = item.shape
    at = np.tile(np.arange(length), users) if time is None else time.reshape(-1)
    return Interactions(np.repeat(np.arange(users, dtype=np.int32), length), item.reshape(-1).astype(np.int32), at.astype(np.int64),
                        IdMap([f"{user}{u}" for u in range(users)]), names)


def blocks(*, poison: bool = False) -> Split:
    """Four communities of ten items and 30 users each, who take seven items of their own at random; everything is in training but the
    last two. poison: the items asked about are other ones, of another community."""
    rng = np.random.default_rng(0)
    taken = np.stack([rng.permutation(10)[:7] + 10 * (user % 4) for user in range(120)])
    if poison:
        taken[:, 5:] = (taken[:, 5:] + 10) % 40
    names = IdMap([f"i{i}" for i in range(40)])
    text = np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)
    catalog = Catalog(names, pa.table({"block": [i // 10 for i in range(40)]}), {}, {"text": text})
    return split(events_of(taken, names), catalog, Protocol(), "blocks")


def sparse(*, taken: int = 6) -> Split:
    """Twenty communities of twenty items and 15 users each, who take a few: where they take six, an item is known from three events of
    training, its community from its words at once."""
    rng = np.random.default_rng(0)
    item = np.stack([rng.permutation(20)[:taken] + 20 * (user % 20) for user in range(300)])
    names = IdMap([f"i{i}" for i in range(400)])
    words = [f"b{i // 20}w{rng.integers(5)} b{i // 20}w{rng.integers(5)} noise{rng.integers(4)}" for i in range(400)]
    return split(events_of(item, names), Catalog(names, pa.table({"title": words}), {"title": words}), Protocol(), "sparse")
