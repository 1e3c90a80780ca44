"""Prior heads: compositions, discounts and the contrast, against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from semid.errors import ConfigError
from semid.nn.losses import sampled_softmax
from semid.nn.prior_heads import TWIN, FreeHeads, PriorHeads, discounts, future_contrast, futures

WIDTH = 6


def in_numpy(block, x):
    weight, bias = block.map.weight.detach().double().numpy(), block.map.bias.detach().double().numpy()
    inner = x @ weight.T + bias
    return x + inner / (1 + np.exp(-inner))


def heads_of(**settings) -> PriorHeads:
    torch.manual_seed(0)
    heads = PriorHeads(WIDTH, 2, 2, **settings)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    return heads


def state() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32))


def test_a_hierarchy_of_two_by_two_equals_its_equations():
    heads, x = heads_of(), state().double().numpy()
    wanted = [in_numpy(heads.last[2 * c + s], in_numpy(heads.first[c][0], x) + heads.horizon[s].detach().double().numpy())
              for c in range(2) for s in range(2)]
    for got, want in zip(heads(state()), wanted, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-5)
    assert heads.prior.tolist() == [0, 0, 1, 1]
    assert heads.segment.tolist() == [0, 1, 0, 1]


def test_tied_heads_of_a_prior_differ_by_the_segment_vector_alone():
    heads, x = heads_of(is_tied=True), state().double().numpy()
    wanted = [in_numpy(heads.last[c], in_numpy(heads.first[c][0], x) + heads.horizon[s].detach().double().numpy())
              for c in range(2) for s in range(2)]
    for got, want in zip(heads(state()), wanted, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), want, atol=1e-5)


@pytest.mark.parametrize(("settings", "blocks", "more"), [
    ({}, 2 + 4, 2 * WIDTH),
    ({"has_segment_vectors": False}, 2 + 4, 0),
    ({"is_tied": True}, 2 + 2, 2 * WIDTH),
    ({"composition": "multiplicative"}, 4, 0),
    ({"composition": "additive"}, 2 + 2, 0),
    ({"has_bottleneck": True}, 2 + 4, 2 * WIDTH + 2 * ((WIDTH + 1) * 3 + 2 * 3 + (3 + 1) * WIDTH)),
])
def test_each_composition_has_four_heads_and_the_right_number_of_parameters(settings, blocks, more):
    heads = PriorHeads(WIDTH, 2, 2, **settings)
    assert len(heads(state())) == len(heads) == 4
    assert sum(p.numel() for p in heads.parameters()) == blocks * (WIDTH + 1) * WIDTH + more


def test_additive_heads_are_first_of_a_horizon_then_of_a_prior():
    heads = PriorHeads(WIDTH, 3, 2, composition="additive")
    assert list(zip(heads.prior.tolist(), heads.segment.tolist())) == [(-1, 0), (-1, 1), (0, -1), (1, -1), (2, -1)]


@pytest.mark.parametrize("composition", ["multiplicative", "additive"])
def test_flat_heads_start_as_the_identity(composition):
    for got in PriorHeads(WIDTH, 3, 2, composition=composition)(state()):
        assert torch.equal(got, state())


def test_free_heads_stand_for_nothing_and_differ():
    heads = FreeHeads(WIDTH, 3)
    one, two, _ = heads(state())
    assert not torch.allclose(one, two)
    assert heads.prior.tolist() == heads.segment.tolist() == [-1, -1, -1]


def test_no_prior_is_refused():
    with pytest.raises(ConfigError, match="want at least one prior and one segment, got 0 and 2"):
        PriorHeads(WIDTH, 0, 2)


def test_discounts_sum_to_one_and_fall_by_the_rate():
    weight = discounts(8, 0.99)
    assert weight.sum().item() == pytest.approx(1)
    np.testing.assert_allclose(weight[1:] / weight[:-1], 0.99, rtol=1e-6)


def test_futures_are_the_items_that_follow():
    target = torch.tensor([[1, 2, 3, -1], [7, -1, -1, -1]])
    assert futures(target, 3)[0].tolist() == [[1, 2, 3], [2, 3, -1], [3, -1, -1], [-1, -1, -1]]
    assert futures(target, 3)[1, 0].tolist() == [7, -1, -1]
    assert torch.equal(futures(target, 1)[..., 0], target)


def contrast_by_loops(z, table, row, target, negatives, scale):
    loss = []
    for r, t in zip(row, target, strict=True):
        true = np.exp(scale * z[r] @ table[t])
        false = sum(np.exp(scale * z[r] @ table[n]) for n in negatives if n != t and table[n] @ table[t] <= TWIN)
        loss.append(-np.log(true / (true + false)))
    return loss


def test_the_contrast_equals_loops_with_targets_among_the_negatives_and_twins_left_out():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(4, WIDTH))
    table = rng.normal(size=(12, WIDTH))
    table[3] = table[5] * 2 + 1e-4  # twins, one of them drawn
    table[8] = table[9]  # both drawn
    z, table = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (z, table))
    row, target, negatives = [0, 0, 1, 3, 3, 2], [3, 7, 5, 9, 0, 8], [5, 7, 8, 9, 11, 1]
    tensors = [torch.from_numpy(a).float() for a in (z, table)]
    got = future_contrast(*tensors, torch.tensor(row), torch.tensor(target), torch.tensor(negatives), torch.tensor(9.0))
    np.testing.assert_allclose(got.numpy(), contrast_by_loops(z, table, row, target, negatives, 9.0), rtol=1e-5)


def test_the_gradient_of_the_contrast_is_that_of_sampled_softmax():
    rng = np.random.default_rng(2)
    negatives, target = torch.from_numpy(rng.permutation(30)[:12]), torch.from_numpy(rng.integers(30, size=8))
    grads = []
    for is_ours in (True, False):
        z = torch.from_numpy(np.random.default_rng(3).normal(size=(8, WIDTH)).astype(np.float32)).requires_grad_()
        table = torch.from_numpy(np.random.default_rng(4).normal(size=(30, WIDTH)).astype(np.float32)).requires_grad_()
        if is_ours:
            loss = future_contrast(normalize(z, dim=1), normalize(table, dim=1), torch.arange(8), target, negatives,
                                   torch.tensor(20.0)).mean()
        else:
            loss = sampled_softmax(z, table, target, negatives, temperature=0.05, cosine=True)
        loss.backward()
        grads.append((loss.item(), z.grad.numpy(), table.grad.numpy()))
    for ours, theirs in zip(*grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_no_contrast_is_below_zero_where_products_are_rounded():
    """A target that was drawn is a part of the sum it is compared with: both must be the same rounding of one product."""
    torch.manual_seed(0)
    z, table = normalize(torch.randn(64, 32), dim=1), normalize(torch.randn(40, 32), dim=1)
    z = normalize(table[torch.arange(64) % 40] + 0.1 * z, dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = future_contrast(z.bfloat16(), table, torch.arange(64), torch.arange(64) % 40, torch.randperm(40), torch.tensor(100.0))
    assert loss.min() >= 0
