"""The packed linear layer: the same numbers as torch's, always of the current weight, and nothing kept in training."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from semid.nn import linear
from semid.nn.linear import WORTH, Linear

packs = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN never packs")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linear, "IS_WIDE", torch.backends.mkldnn.is_available())


@pytest.fixture
def layer() -> Linear:
    torch.manual_seed(0)
    return Linear(128, 512).eval()


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 128, generator=torch.Generator().manual_seed(1))


def close(layer: Linear, x: torch.Tensor) -> bool:
    return torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(64,), (8, 10), (2, 3, 200)])
def test_packed_and_plain_products_agree(layer, shape):
    x = rows(int(torch.tensor(shape).prod())).view(*shape, 128)
    assert layer(x).shape == (*shape, 512)
    assert close(layer, x)


@packs
@torch.no_grad()
def test_only_products_that_are_worth_it_are_packed(layer):
    few = WORTH // (128 * 512) - 1
    layer(rows(few))
    assert layer._packed is None
    layer(rows(few + 1))
    assert layer._packed is not None


@packs
def test_a_changed_weight_is_packed_anew(layer):
    x = rows(64)
    with torch.no_grad():
        layer(x)
        before = layer._packed
        layer.weight.mul_(2)
        assert close(layer, x)
        layer.load_state_dict({name: value + 1 for name, value in layer.state_dict().items()})
        assert close(layer, x)
    assert before is not None
    assert layer._packed is not None
    assert layer._packed[1] != before[1]


def test_training_never_packs_and_drops_what_was_packed(layer):
    with torch.no_grad():
        layer(rows(64))
    layer(rows(64)).sum().backward()
    assert torch.allclose(layer.weight.grad, rows(64).sum(0).expand(512, -1), atol=1e-4)
    layer.train()
    assert layer._packed is None
    with torch.no_grad():
        layer(rows(64))
    assert layer._packed is None


@torch.no_grad()
def test_copies_and_pickles_leave_the_packed_weight_behind(layer):
    layer(rows(64))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._packed is None
        assert torch.equal(twin(rows(64)), layer(rows(64)))
    assert set(layer.state_dict()) == {"weight", "bias"}


@torch.no_grad()
def test_autocast_is_left_to_torch(layer):
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(rows(64)).dtype == torch.bfloat16
    assert layer._packed is None
