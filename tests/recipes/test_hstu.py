"""HSTU as a recipe: what only the clock can tell."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from semid.data.split import split
from semid.recipes import hstu
from semid.run import train
from semid.types import Catalog, IdMap, Protocol, Split
from semid.validation import measure
from tests.toyworld.world import events_of

ITEMS = 16


def two_ways(seed: int, users: int = 400, length: int = 12) -> Split:
    """Every item has two successors: one for who goes on after a minute, one after a day."""
    rng = np.random.default_rng(seed)
    after = np.stack([rng.permutation(ITEMS) for _ in range(2)])
    item, is_late = [rng.integers(ITEMS, size=users)], rng.integers(2, size=(users, length))
    for step in range(1, length):
        item.append(after[is_late[:, step], item[-1]])
    names = IdMap([f"i{i}" for i in range(ITEMS)])
    events = events_of(np.stack(item, axis=1), names, time=np.where(is_late, 86_400, 60).cumsum(1))
    return split(events, Catalog(names, pa.table({"item": list(range(ITEMS))})), Protocol())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_time_of_the_request_decides_is_found_by_the_bias_of_time_alone(seed):
    """Who doesn't know how long the user waited is right every second time (here at the best of forty looks)."""
    world, found = two_ways(seed), {}
    config = replace(hstu.smoke(), negatives=ITEMS, dropout=0.0, epochs=40, patience=40)
    for variant in ("hstu", "hstu:order"):
        settings = dataclasses.asdict(replace(config, has_time_bias=variant == "hstu"))
        found[variant] = measure(train(variant, world, settings=settings, seed=seed).recommender, world, seen="keep", k=1)["recall@1"]
    assert found["hstu"] > 0.95
    assert found["hstu:order"] < 0.75
