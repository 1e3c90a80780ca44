import pytest
import torch
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.nn.rotary import RotaryBlock, RotaryTransformer, rotate, rotation


def test_rotary_scores_depend_on_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(8), torch.randn(8)
    score = lambda i, j: rotate(query, rotation(torch.tensor(i), 8)) @ rotate(key, rotation(torch.tensor(j), 8))
    torch.testing.assert_close(score(3, 1), score(103, 101), rtol=1e-4, atol=1e-5)
    assert not torch.isclose(score(3, 1), score(3, 2))
    torch.testing.assert_close(score(5, 5), query @ key)


def test_rotation_is_multiplication_by_a_unit_complex_number():
    x = torch.randn(5, 6)
    angle = torch.arange(5)[:, None] * torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])
    turned = torch.complex(x[:, :3], x[:, 3:]) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(rotate(x, rotation(torch.arange(5), 6)), torch.cat([turned.real, turned.imag], 1))


def test_block_equals_its_formula():
    torch.manual_seed(0)
    block = RotaryBlock(8, heads=2, feedforward=12, dropout=0.0)
    x, turn = torch.randn(2, 5, 8), rotation(torch.arange(5), 4)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    q, k, v = (normed @ block.qkv.weight.T).chunk(3, dim=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = rotate(q[..., head], turn) @ rotate(k[..., head], turn).transpose(1, 2) / 2
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., head])
    middle = x + torch.cat(heads, -1) @ block.out.weight.T
    normed = middle / (middle.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    gate, value = (normed @ block.feedforward.gate_value.weight.T).chunk(2, dim=-1)
    expected = middle + (F.silu(gate) * value) @ block.feedforward.out.weight.T
    torch.testing.assert_close(block(x, turn)[0], expected, rtol=1e-5, atol=1e-5)


def test_extending_kept_keys_equals_reading_everything_again():
    torch.manual_seed(0)
    model = RotaryTransformer(16, layers=2, heads=2, feedforward=24, dropout=0.0)
    x = torch.randn(2, 7, 16)
    whole, _ = model(x)
    _, history = model(x[:, :4])
    past = tuple(kept[:, :, :, :0] for kept in history)
    for position in range(4, 7):
        state, past = model.extend(x[:, position, None], torch.tensor([position] * 2), history, torch.zeros(2, 1, 1, 4), past)
        torch.testing.assert_close(state[:, 0], whole[:, position], rtol=1e-5, atol=1e-5)


def test_odd_head_widths_are_refused():
    with pytest.raises(ConfigError, match="multiple of 2 x 2 heads"):
        RotaryBlock(6, heads=2, feedforward=8, dropout=0.0)


def test_a_dropout_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"want a rate in \[0, .998\], got 1.0"):
        RotaryBlock(8, heads=2, feedforward=8, dropout=1.0)
