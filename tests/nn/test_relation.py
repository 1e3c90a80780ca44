"""Relation-aware attention equals its equation in numpy, knows no positions, and the user weighs the relation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.nn.relation import RelationAttention, RelationBlock, RelationEncoder
from semid.nn.t5 import hide

B, S, D, H, W, F = 3, 5, 12, 2, 8, 6


@pytest.fixture
def attention() -> RelationAttention:
    torch.manual_seed(0)
    return RelationAttention(D, H, W, F).eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    length = torch.tensor([5, 3, 1])
    return torch.randn(B, S, D), torch.randn(B, F), (torch.arange(S) < length[:, None])[:, None, None]


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def by_hand(attention: RelationAttention, x: np.ndarray, user: np.ndarray, length: int) -> np.ndarray:
    """One row, heads one after another."""
    parts = numpy_of(attention.qkv.weight).reshape(3, H, W, D)
    maps = numpy_of(attention.relation.weight).reshape(3, W, D)
    scale = []
    for network in attention.scale:
        w1, b1, w2, b2 = (numpy_of(p) for p in network.parameters())
        scale.append((np.maximum(user @ w1.T + b1, 0) @ w2.T + b2).item())
    uq, uk, uv = (s * (x @ m.T) for s, m in zip(scale, maps, strict=True))
    heads = []
    for head in range(H):
        q, k, v = (x @ parts[i, head].T for i in range(3))
        score = ((q @ k.T + uq @ uk.T) / np.sqrt(W))[:, :length]
        weight = np.exp(score) / np.exp(score).sum(1, keepdims=True)
        heads.append(weight @ (v + uv)[:length])
    return np.concatenate(heads, axis=1) @ numpy_of(attention.out.weight).T


def test_attention_equals_its_equation(attention):
    x, user, visible = inputs()
    ours = numpy_of(attention(x, user, hide(visible)))
    for row, length in enumerate(visible.sum((1, 2, 3)).tolist()):
        np.testing.assert_allclose(ours[row], by_hand(attention, numpy_of(x)[row], numpy_of(user)[row], length), atol=1e-5)


def test_a_block_normalises_behind_each_of_its_two_sums():
    torch.manual_seed(0)
    block = RelationBlock(D, H, W, F, 16, 0.0, is_relational=True).eval()
    for norm in (block.norm, block.feed_norm):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    x, user, visible = inputs()

    def norm(values: np.ndarray, layer: torch.nn.LayerNorm) -> np.ndarray:
        centred = values - values.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * numpy_of(layer.weight) + numpy_of(layer.bias)

    into, out = (numpy_of(block.feedforward[place].weight) for place in (0, 2))
    found = numpy_of(block(x, user, hide(visible)))
    for row, length in enumerate(visible.sum((1, 2, 3)).tolist()):
        mixed = norm(numpy_of(x)[row] + by_hand(block.attention, numpy_of(x)[row], numpy_of(user)[row], length), block.norm)
        np.testing.assert_allclose(found[row], norm(mixed + np.maximum(mixed @ into.T, 0) @ out.T, block.feed_norm), atol=1e-5)


def test_without_the_user_s_numbers_it_is_ordinary_attention(attention):
    x, user, visible = inputs()
    plain = RelationAttention(D, H, W, F, is_relational=False)
    assert not {name for name, _ in plain.named_parameters()} - {"qkv.weight", "out.weight"}
    plain.load_state_dict({name: value for name, value in attention.state_dict().items() if name in ("qkv.weight", "out.weight")})
    assert not torch.allclose(attention(x, user, hide(visible)), plain(x, user, hide(visible)), atol=1e-3)
    with torch.no_grad():
        for network in attention.scale:
            network[2].weight.zero_()
            network[2].bias.zero_()
    torch.testing.assert_close(attention(x, user, hide(visible)), plain(x, user, hide(visible)))


def test_gradients_reach_every_number_that_the_user_decides_by(attention):
    x, user, visible = inputs()
    attention(x, user, hide(visible)).square().sum().backward()
    for network in attention.scale:
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    assert all(part.abs().sum() > 0 for part in attention.relation.weight.grad.chunk(3))


def test_permuting_the_items_permutes_the_states():
    torch.manual_seed(0)
    encoder = RelationEncoder(2, width=D, heads=H, head_width=W, user_width=F, feedforward=16, dropout=0.0).eval()
    x, user, _ = inputs()
    visible, order = torch.ones(B, 1, 1, S, dtype=torch.bool), torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(encoder(x[:, order], user, visible), encoder(x, user, visible)[:, order])
