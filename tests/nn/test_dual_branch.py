"""What the layer of DiscRec keeps apart: items, levels, and the two branches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.nn.dual_branch import DualBranch, gated


def layer(**changes) -> DualBranch:
    torch.manual_seed(0)
    branch = DualBranch(8, positions=4, heads=2, feedforward=12, **changes).eval()
    if branch.gate is not None:
        torch.nn.init.normal_(branch.gate)
    return branch


S = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("has_gate", [True, False])
@pytest.mark.parametrize("is_causal", [False, True])
def test_it_equals_numpy(is_causal, has_gate):
    branch = layer(has_gate=has_gate)
    weights = {name: value.detach().double().numpy() for name, value in branch.named_parameters()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    for item, found in zip(S.double().numpy(), branch(S, is_causal=is_causal), strict=True):
        c = norm(item + weights["position.weight"], "norm")
        q, k, v = np.split(c @ weights["qkv.weight"].T + weights["qkv.bias"], 3, axis=1)
        mixed = np.zeros((4, 8))
        for head in (slice(0, 4), slice(4, 8)):
            score = q[:, head] @ k[:, head].T / 2
            score += np.triu(np.full((4, 4), -np.inf), 1) if is_causal else 0
            mixed[:, head] = softmax(score) @ v[:, head]
        c = c + mixed
        wide = np.maximum(norm(c, "feed_norm") @ weights["feedforward.0.weight"].T + weights["feedforward.0.bias"], 0)
        c = c + wide @ weights["feedforward.3.weight"].T + weights["feedforward.3.bias"]
        share = softmax(np.stack([item @ weights["gate"][0], c @ weights["gate"][1]], axis=1)) if has_gate else np.ones((4, 2))
        np.testing.assert_allclose(found.detach().numpy(), share[:, :1] * item + share[:, 1:] * c, rtol=1e-5, atol=1e-5)


def test_another_item_changes_nothing():
    branch, other = layer(), S.clone()
    other[0, 2] *= -1
    before, after = branch(S, is_causal=False), branch(other, is_causal=False)
    assert torch.equal(before[1:], after[1:])
    assert not torch.allclose(before[0, 0], after[0, 0])  # but the codes of its own item hear of it


def test_levels_are_told_apart_by_their_positions_alone():
    swapped = S[:, [1, 0, 2, 3]]
    back = lambda branch: branch(swapped, is_causal=False)[:, [1, 0, 2, 3]]
    torch.testing.assert_close(back(layer(has_positions=False)), layer(has_positions=False)(S, is_causal=False))
    assert not torch.allclose(back(layer()), layer()(S, is_causal=False), atol=1e-3)


def test_without_local_attention_codes_hear_nothing_of_each_other():
    branch, other = layer(has_attention=False), S.clone()
    other[:, 0] *= -1
    assert torch.equal(branch(S, is_causal=False)[:, 1:], branch(other, is_causal=False)[:, 1:])


def test_the_gate_weighs_to_one_and_equal_branches_are_what_they_were():
    gate = torch.randn(2, 8)
    c = torch.randn_like(S)
    ones = gated(torch.ones(3, 8), torch.ones(3, 8), gate)
    torch.testing.assert_close(ones, torch.ones(3, 8))
    torch.testing.assert_close(gated(S, S, gate[:1].expand(2, 8)), S)
    torch.testing.assert_close(gated(S, c, torch.zeros(2, 8)), (S + c) / 2)


@pytest.mark.parametrize("changes", [{}, {"has_attention": False}, {"has_positions": False}, {"has_gate": False}])
def test_both_branches_and_every_part_get_gradients(changes):
    branch, s = layer(**changes), S.clone().requires_grad_()
    branch(s, is_causal=False).square().sum().backward()
    assert s.grad is not None
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in branch.parameters())


@pytest.mark.parametrize("changes", [{}, {"has_attention": False}, {"has_gate": False}])
def test_one_by_one_equals_all_at_once(changes):
    branch = layer(**changes)
    past, expected = branch.empty(5), branch(S, is_causal=True)
    for place in range(4):
        found, past = branch.extend(S[:, place], past)
        torch.testing.assert_close(found, expected[:, place], rtol=1e-5, atol=1e-5)
