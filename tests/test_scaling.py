"""The scaling study measures what it says: the loss of whole items, parameters by hand, and laws that it knows."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semid.generators.two_level import TwoLevel
from semid.recommenders import CodeRecommender
from semid.types import SemanticIds
from tests.toyworld.world import ITEMS, walk


def scaling():
    spec = importlib.util.spec_from_file_location("scaling", Path(__file__).resolve().parents[1] / "benchmarks" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def untrained() -> CodeRecommender:
    codes = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int16)
    torch.manual_seed(0)
    generator = TwoLevel(SemanticIds(codes, (8, 8)), width=8, layers=1, heads=2, feedforward=16, start=torch.randn(ITEMS, 8),
                         content=torch.randn(ITEMS, 5), has_time_gaps=True).eval()
    return CodeRecommender(generator, SemanticIds(codes, (8, 8)), generator.tree, 20, normalise="children")


def test_a_law_that_is_there_is_found():
    """Hoffmann's form with known numbers, and losses without noise."""
    size, events = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e5, 1e6, 3)))
    found = scaling().power_law([size, events], 4 + 30 * size**-0.3 + 200 * events**-0.5)
    assert found["E"] == pytest.approx(4, abs=0.05)
    assert found["a0"] == pytest.approx(0.3, rel=0.1)
    assert found["a1"] == pytest.approx(0.5, rel=0.1)
    assert found["rms"] < 1e-3


def test_the_interval_holds_the_exponent_that_noise_hides():
    size, rng = np.geomspace(1e4, 1e6, 5), np.random.default_rng(0)
    losses = 4 + 30 * size**-0.3 + rng.normal(0, 0.01, (100, 5))
    cells = [{"loss": float(losses[0, c]), "resampled": losses[:, c].tolist()} for c in range(5)]
    low, high = scaling().with_intervals([size], cells)["intervals"]["a0"]
    assert low < 0.3 < high


def test_a_curve_that_turns_up_gets_no_gain_from_size():
    size = np.geomspace(1e4, 1e6, 5)
    found = scaling().power_law([size], 5 + 0.1 * np.log(size))
    assert found["A0"] == 0
    assert found["rms"] > 0.1


def test_the_loss_of_all_items_after_one_history_is_a_distribution():
    """exp(-nats) over the whole catalogue sums to one: whole items, none twice, natural logarithms."""
    world, recommender = walk(), untrained()
    one = world.valid.take(np.zeros(ITEMS, np.int64))
    every = replace(one, target=np.arange(ITEMS, dtype=np.int32))
    assert np.exp(-scaling().nats(recommender, world, every)).sum() == pytest.approx(1, abs=1e-5)


def test_parameters_are_counted_by_hand():
    block = 4 * (8 * 8 + 8) + 8 * 16 + 16 + 16 * 8 + 8 + 4 * 8  # attention with its biases, feed-forward, two norms
    depth = 2 * (16 * 16 + 16 + 16 * 8 + 8 + 2 * 8)  # per level an MLP and a norm
    projection = 5 * 8 + 8
    named = dict(untrained().generator.named_parameters())
    last = sum(p.numel() for name, p in named.items() if name.startswith("temporal.norm"))
    assert scaling().without_tables(untrained().generator) == block + depth + projection + last


def test_fewer_users_train_but_all_are_asked():
    world = walk()
    few = scaling().of_some_users(world, 0.25)
    assert len(np.unique(few.train.user)) == 60
    assert len(few.train) * 4 == len(world.train)
    assert len(few.valid) == len(world.valid) == 240
