"""The mixture of experts equals a dense loop, uses exactly the experts it says, and its balance loss is even at its lowest."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from semid.errors import ConfigError
from semid.nn.moe import MixtureOfExperts, Routing, said_of_load

WIDTH, HIDDEN, EXPERTS = 6, 10, 5


def layer(active: int = 2) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(WIDTH, HIDDEN, experts=EXPERTS, active=active)


def tokens(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(*shape, WIDTH)).astype(np.float32))


def dense(moe: MixtureOfExperts, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every expert of every token in float64: (out [T, D], gates [T, E])."""
    gate, inner, outer = (w.detach().double().numpy() for w in (moe.gate, moe.inner, moe.outer))
    out, gates = np.zeros_like(x), np.zeros((len(x), EXPERTS))
    for t, token in enumerate(x):
        p = np.exp(gate @ token)
        p /= p.sum()
        for i in np.argsort(-p)[: moe.active]:
            gates[t, i] = p[i]
            out[t] += p[i] * (outer[i] @ np.maximum(inner[i] @ token, 0))
    return out, gates


@pytest.mark.parametrize("active", [1, 2, 5])
def test_the_layer_equals_a_dense_loop(active):
    moe, x = layer(active), tokens(3, 7)
    wanted, gates = dense(moe, x.double().flatten(0, 1).numpy())
    np.testing.assert_allclose(moe(x).detach().flatten(0, 1).numpy(), wanted, atol=1e-5)
    assert ((gates > 0).sum(1) == active).all()


def test_gradients_equal_those_of_the_dense_formula():
    moe, x = layer(), tokens(9).requires_grad_()
    (moe(x) * tokens(9).flip(0)).sum().backward()
    sparse = [x.grad, moe.gate.grad, moe.inner.grad, moe.outer.grad]
    again, y = layer(), tokens(9).requires_grad_()
    p = torch.softmax(y @ again.gate.T, dim=1)
    gates = p * (p >= p.topk(2, dim=1).values[:, 1:])
    every = torch.einsum("edh,teh->ted", again.outer, torch.relu(torch.einsum("ehd,td->teh", again.inner, y)))
    ((gates[..., None] * every).sum(1) * tokens(9).flip(0)).sum().backward()
    for ours, theirs in zip(sparse, [y.grad, again.gate.grad, again.inner.grad, again.outer.grad], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_routing_of_a_training_batch_is_the_histogram_of_its_experts():
    moe, x = layer(), tokens(40)
    moe(x)
    _, gates = dense(moe, x.double().numpy())
    routing = moe.routing
    np.testing.assert_allclose(routing.load.numpy(), (gates > 0).sum(0) / 80, atol=1e-7)
    assert routing.load.sum().item() == pytest.approx(1)
    logits = x.double().numpy() @ moe.gate.detach().double().numpy().T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert routing.balance().item() == pytest.approx(EXPERTS * (routing.load.numpy() * p.mean(0)).sum(), rel=1e-5)
    assert copy.deepcopy(moe.eval()).routing is None


def test_balance_is_one_where_experts_are_alike_and_e_where_one_takes_all():
    even, one = torch.full((4,), 0.25), torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert Routing(even, even).balance().item() == pytest.approx(1)
    assert Routing(one, one).balance().item() == pytest.approx(4)
    assert Routing(even, even).effective().item() == pytest.approx(4)
    assert Routing(one, one).effective().item() == pytest.approx(1)


def test_the_balance_loss_spreads_a_mixture_that_collapsed():
    torch.manual_seed(0)
    moe = MixtureOfExperts(WIDTH, HIDDEN, experts=EXPERTS, active=1)
    x = tokens(200) + 3.0
    with torch.no_grad():
        moe.gate[0] = 1.0  # this expert takes every token
    optimizer = torch.optim.Adam([moe.gate], lr=0.05)
    before = None
    for _ in range(200):
        optimizer.zero_grad()
        moe(x)
        before = moe.routing.effective().item() if before is None else before
        moe.routing.balance().backward()
        optimizer.step()
    assert before == pytest.approx(1)
    assert moe.routing.effective().item() > 3


def test_a_collapsed_mixture_is_reported_with_advice():
    assert said_of_load(torch.full((4,), 0.25)) == "4.0 of 4 experts in use in effect, 0 idle, the busiest has 25% of the load"
    said = said_of_load(torch.tensor([0.97, 0.03, 0.0, 0.0]))
    assert said.startswith("1.1 of 4 experts in use in effect, 2 idle, the busiest has 97% of the load: the mixture collapsed")
    assert "raise balance" in said


@pytest.mark.parametrize("active", [0, 6])
def test_more_active_experts_than_there_are_is_refused(active):
    with pytest.raises(ConfigError, match=f"want 1 to 5 active ones of 5, got {active}"):
        layer(active)
