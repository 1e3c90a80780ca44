"""The two-level generator's compiled loops: the same numbers as its tensor operations, of the weights as they are now."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.generators import compiled
from semid.generators.two_level import TwoLevel
from semid.types import Batch
from tests.generators.test_two_level import N, some_ids

NONE = np.empty(0, np.float32)


def build(**changes) -> TwoLevel:
    torch.manual_seed(0)
    settings = {"width": 20, "heads": 2, "feedforward": 30, "max_length": 20, "start": torch.randn(N, 20), "content": torch.randn(N, 9)}
    model = TwoLevel(some_ids(), **{**settings, **changes}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def histories(*lengths: int) -> Batch:
    rng = np.random.default_rng(0)
    return history_batch([rng.integers(0, N, n) for n in lengths], [np.cumsum(rng.integers(0, 400_000, n)) for n in lengths],
                         max_history=20)


def walk(model: TwoLevel, batch: Batch) -> list[torch.Tensor]:
    """The users and the logits of each level, five beams a user."""
    state = model.start(batch)
    found, codes = [state.user.detach()], None
    for level in range(3):
        logits, state = model.step(state, codes)
        found.append(logits.detach())
        if level == 0:
            state = state.select(torch.arange(len(batch)).repeat_interleave(5))
        node = state.node if level else torch.zeros(5 * len(batch), dtype=torch.int64)
        lo, hi = model.tree.children(level, node)
        codes = model.tree.code[level][lo + torch.arange(len(node)) % (hi - lo)].long()
    return found


VARIANTS = [{}, {"start": None}, {"content": None}, {"has_time_gaps": False}, {"has_request_gap": True}, {"has_node_vectors": False},
            {"heads": 1, "feedforward": 33}]


@pytest.mark.parametrize("changes", VARIANTS)
def test_compiled_loops_equal_tensor_operations(changes):
    model = build(**changes)
    for batch in (histories(7), histories(3, 20, 0, 1)):
        with torch.no_grad():
            assert model._is_compiled()
            quick = walk(model, batch)
        assert not model._is_compiled()
        for ours, plain in zip(quick, walk(model, batch), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_changed_and_moved_weights_are_seen():
    model, batch = build(), histories(5)
    before = model.start(batch).user
    model.input.code.weight.mul_(2)
    changed = model.start(batch).user
    assert not torch.allclose(before, changed)
    twin = copy.deepcopy(model)
    twin.input.code.weight.mul_(0.5)
    torch.testing.assert_close(twin.start(batch).user, before)
    assert torch.equal(model.start(batch).user, changed)
    model.double().float()
    torch.testing.assert_close(model.start(batch).user, changed)


@pytest.mark.parametrize(("rows", "width", "columns"), [(1, 3, 1), (5, 16, 7), (8, 20, 12), (67, 5, 9)])
def test_products_of_any_shape_equal_numpy(rows, width, columns):
    rng = np.random.default_rng(rows)
    x, weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, width), (columns, width), (columns,)))
    out = np.empty((rows, columns), np.float32)
    for b, want in ((bias, x @ weight.T + bias), (NONE, x @ weight.T)):
        compiled.product(x, weight, b, out)
        np.testing.assert_allclose(out, want, atol=1e-5)


def test_gelu_equals_torch():
    x = np.concatenate([np.linspace(-12, 12, 4001), [-1e4, 1e4, 0]]).astype(np.float32)[None]
    want = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    compiled.gelu(x)
    np.testing.assert_allclose(x, want, atol=1e-6, rtol=1e-5)
