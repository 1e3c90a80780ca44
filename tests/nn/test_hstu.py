"""HSTU: one block equals its equations in numpy, the packed path equals the plain one, and candidates equal one by one.

Axes as in the module.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semid.errors import ConfigError
from semid.nn.hstu import HSTU, PIECE, HSTUBlock, Packed, Sliced, _time_buckets_of_torch, next_times, time_bucket

YEAR = 31_536_000


def model_of(width=16, *, layers=2, heads=2, head_width=8, max_length=40, **biases) -> HSTU:
    torch.manual_seed(0)
    model = HSTU(width, layers=layers, heads=heads, head_width=head_width, dropout=0.0, max_length=max_length, **biases)
    for block in model.blocks:  # large enough that a wrong bias shows
        for table in (block.distance, block.clock):
            if table is not None:
                torch.nn.init.normal_(table)
    return model.eval()


def histories(lengths, width=16, seed=0):
    """(x [B, S, D], time int64 [B, S] with gaps of seconds to years, length, request)."""
    rng = np.random.default_rng(seed)
    length = torch.tensor(lengths)
    shape = (len(lengths), max(lengths))
    gaps = np.exp(rng.uniform(0, math.log(YEAR), shape)).astype(np.int64) * (rng.random(shape) < 0.8)
    time = torch.from_numpy(1_000_000_000 + gaps.cumsum(1))
    x = torch.from_numpy(rng.normal(size=(*shape, width)).astype(np.float32)) * 0.3
    is_real = torch.arange(shape[1]) < length[:, None]
    last = time.gather(1, (length - 1).clamp_min(0)[:, None]).squeeze(1)
    return x * is_real[..., None], time * is_real, length, last + 7000


def in_numpy(block: HSTUBlock, x, time, asked):
    """The block's equations for one row in float64, with loops over queries and keys."""
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    norm = lambda a: (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-6)
    weights = {name: value.detach().double().numpy() for name, value in block.named_parameters()}
    s, wide = len(x), block.heads * block.head_width
    projected = norm(x) @ weights["project_in"]
    gate, value, query, key = np.split(projected * sigmoid(projected), 4, axis=1)
    mixed = np.zeros((s, wide))
    for head in range(block.heads):
        own = slice(head * block.head_width, (head + 1) * block.head_width)
        for i in range(s):
            for j in range(i + 1):
                bucket = min(128, math.floor(math.log(max(1, abs(int(asked[i]) - int(time[j])))) / 0.301))
                score = query[i, own] @ key[j, own] + weights["distance"][i - j] + weights["clock"][bucket]
                mixed[i, own] += score * sigmoid(score) / block.max_length * value[j, own]
    return x + (gate * norm(mixed)) @ weights["out.weight"].T + weights["out.bias"]


def test_one_block_equals_its_equations_in_numpy():
    model = model_of(layers=1)
    x, time, length, request = histories([9])
    ours = model(x, time, length, request)[0].detach().numpy()
    asked = np.append(time[0, 1:].numpy(), request.numpy())
    start = x[0].double().numpy() + model.position.weight[:9].detach().double().numpy()
    np.testing.assert_allclose(ours, in_numpy(model.blocks[0], start, time[0].numpy(), asked), atol=1e-5)


def test_buckets_of_time_are_the_papers():
    gaps = [0, 1, 2, 60, 86_400, 10**9]
    found = time_bucket(torch.tensor([[10**9]]), 10**9 - torch.tensor([gaps]))[0, 0].tolist()
    assert found == [0, 0, 2, 13, 37, 68]
    assert time_bucket(torch.tensor([[0]]), torch.tensor([[2**62]])).item() == 128
    gaps = np.exp(np.random.default_rng(0).uniform(0, 40, 2000)).astype(np.int64)  # in no order
    wanted = np.minimum(128, np.floor(np.log(np.maximum(gaps, 1)) / 0.301))
    np.testing.assert_array_equal(time_bucket(torch.tensor([[0]]), torch.from_numpy(gaps)[None])[0, 0].numpy(), wanted)
    edges = np.ceil(np.exp(0.301 * np.arange(1, 129))).astype(np.int64)
    gaps = np.concatenate([gaps, edges[:100], edges[:100] - 1])  # higher ones are beyond a float's whole numbers
    wanted = np.minimum(128, np.floor(np.log(np.maximum(gaps, 1)) / 0.301))
    on_other_devices = _time_buckets_of_torch(torch.tensor([[0]]), torch.from_numpy(gaps)[None], torch.from_numpy(edges))
    np.testing.assert_array_equal(on_other_devices[0, 0].numpy(), wanted)
    np.testing.assert_array_equal(time_bucket(torch.tensor([[0]]), torch.from_numpy(gaps)[None])[0, 0].numpy(), wanted)


def test_the_time_asked_is_the_next_items_and_last_the_requests():
    time, length = torch.tensor([[10, 20, 30], [5, 9, 0]]), torch.tensor([3, 2])
    assert next_times(time, length).tolist()[0] == [20, 30, 30]
    assert next_times(time, length).tolist()[1][:2] == [9, 9]
    assert next_times(time, length, torch.tensor([99, 77])).tolist()[1][:2] == [9, 77]


@pytest.mark.parametrize("biases", [{}, {"has_time_bias": False}, {"has_position_bias": False},
                                    {"has_time_bias": False, "has_position_bias": False}])
@pytest.mark.parametrize("lengths", [[7], [3, 12, 0, 12, 5], [PIECE + 30, 4, PIECE]])
@pytest.mark.parametrize("layout", [Packed, Sliced])
def test_the_paths_over_real_tokens_equal_the_plain_one_in_values_and_gradients(layout, lengths, biases):
    model = model_of(max_length=200, **biases)
    x, time, length, request = histories(lengths)
    x.requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    wanted = [x, *model.parameters()]
    fast, plain = model.over_tokens(layout, x, time, length, request), model.read(x, time, length, request)[0]
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad((fast * weight).sum(), wanted)
    theirs = torch.autograd.grad((plain * weight).sum(), wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("path", ["packed", "sliced", "plain"])
def test_later_items_leave_earlier_states_bit_identical(path):
    model = model_of()
    run = {"packed": model, "sliced": lambda *args: model.over_tokens(Sliced, *args), "plain": lambda *args: model.read(*args)[0]}[path]
    x, time, length, request = histories([12, 12])
    before = run(x, time, length, request)
    x[:, 8] += 1
    after = run(x, time, length, request)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


@torch.no_grad()
def test_padding_changes_nothing_and_has_no_state():
    model = model_of()
    x, time, length, request = histories([5, 12])
    both = model(x, time, length, request)
    alone = model(x[:1, :5], time[:1, :5], length[:1], request[:1])
    torch.testing.assert_close(both[:1, :5], alone)
    assert (both[0, 5:] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("biases", [{}, {"has_time_bias": False}])
def test_candidates_equal_one_by_one(biases):
    model = model_of(**biases)
    x, time, length, request = histories([6, 11, 1])
    candidates = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(2)) * 0.3
    _, kept = model.read(x, time, length, request)
    ours = model.candidates(candidates, kept)
    for row, n in enumerate(length.tolist()):
        for c in range(5):
            longer = torch.cat([x[row, :n], candidates[row, c][None]])[None]
            times = torch.cat([time[row, :n], request[row : row + 1]])[None]
            alone = model(longer, times, torch.tensor([n + 1]))[0, n]
            torch.testing.assert_close(ours[row, c], alone, atol=1e-5, rtol=1e-5)
    parts = torch.cat([model.candidates(part, kept) for part in candidates.split(2, dim=1)], dim=1)
    torch.testing.assert_close(ours, parts)


@pytest.mark.parametrize("layout", [Packed, Sliced])
def test_bf16_autocast_is_near_float32(layout):
    model = model_of()
    x, time, length, request = histories([12, 7])
    with torch.autocast("cpu", torch.bfloat16):
        low = model.over_tokens(layout, x, time, length, request)
    low.sum().backward()
    torch.testing.assert_close(low.float(), model(x, time, length, request), atol=0.05, rtol=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("whole", ["forward", "read"])
def test_a_history_longer_than_the_model_s_places_is_refused(whole):
    model, x = HSTU(8, layers=1, heads=1, head_width=8, dropout=0.0, max_length=5), torch.zeros(1, 6, 8)
    with pytest.raises(ConfigError, match="want at most 5 items, got 6"):
        getattr(model, whole)(x, torch.zeros(1, 6, dtype=torch.int64), torch.tensor([6]))
