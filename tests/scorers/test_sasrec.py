"""SASRec sees only the past, padding changes nothing, and its losses equal their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semid.config import override
from semid.data.batch import history_batch
from semid.nn.dropout import drop
from semid.nn.losses import gbce, linear_cross_entropy, sampled_softmax
from semid.nn.transformer import last_state
from semid.recipes import hstu, sasrec
from semid.scorers.sasrec import SASRec


@pytest.fixture
def model() -> SASRec:
    torch.manual_seed(0)
    return SASRec(20, width=16, heads=2, feedforward=32, max_length=10).eval()


def test_states_see_only_the_past(model):
    one = history_batch([np.array([1, 2, 3, 4])], max_history=10)
    other = history_batch([np.array([1, 2, 9, 8])], max_history=10)
    assert torch.allclose(model.states(one)[:, :2], model.states(other)[:, :2], atol=1e-6)
    assert not torch.allclose(model.states(one)[:, 2:], model.states(other)[:, 2:])


def test_padding_changes_nothing(model):
    alone = model.score(history_batch([np.array([1, 2])], max_history=10))
    padded = model.score(history_batch([np.array([1, 2]), np.arange(8)], max_history=10))
    assert torch.allclose(alone[0], padded[0], atol=1e-5)


def test_items_are_read_times_the_root_of_the_width(model):
    read = []
    model.temporal.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    model.states(history_batch([np.array([3, 1])], max_history=10))
    torch.testing.assert_close(read[0][0, :2], model.item.weight[[3, 1]] * model.item.embedding_dim**0.5)


@torch.no_grad()
def test_an_empty_history_has_read_no_item(model):
    nobody = history_batch([np.array([], np.int64)], max_history=10)
    before = model.states(nobody)
    model.item.weight[0] += 1
    assert torch.equal(model.states(nobody), before)


@pytest.mark.parametrize("chunk", [3, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_linear_cross_entropy_equals_torch_in_value_and_gradient(chunk, smoothing):
    torch.manual_seed(0)
    hidden, table = torch.randn(17, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    target = torch.randint(30, (17,))
    ours = linear_cross_entropy(hidden, table, target, smoothing=smoothing, chunk=chunk)
    grads = torch.autograd.grad(ours * 3, (hidden, table))
    theirs = F.cross_entropy(hidden @ table.T, target, label_smoothing=smoothing)
    wanted = torch.autograd.grad(theirs * 3, (hidden, table))
    assert torch.allclose(ours, theirs, atol=1e-6)
    for a, b in zip(grads, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_gbce_without_calibration_is_bce_over_the_negatives():
    positive, negative = torch.randn(50), torch.randn(50, 7)
    wanted = -(F.logsigmoid(positive) + F.logsigmoid(-negative).sum(1)) / 8
    assert torch.allclose(gbce(positive, negative, num_items=100, calibration=0.0), wanted.mean(), atol=1e-6)


@pytest.mark.parametrize("calibration", [0.0, 0.5, 0.75, 1.0])
def test_gbce_equals_bce_on_the_transformed_positive_logit(calibration):
    """The paper trains with s' = -log(sigma(s)^-beta - 1); both forms agree, and a <= beta <= 1."""
    positive, negative = torch.randn(40, dtype=torch.float64), torch.randn(40, 16, dtype=torch.float64)
    rate = 16 / 99
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    assert rate <= beta <= 1
    moved = -torch.log(torch.sigmoid(positive) ** -beta - 1)
    wanted = -(F.logsigmoid(moved) + F.logsigmoid(-negative).sum(1)) / 17
    assert abs(gbce(positive, negative, num_items=100, calibration=calibration).item() - wanted.mean().item()) < 1e-6


def test_gbce_stays_finite_where_the_transform_overflows():
    """1 / sigma(-2000) is beyond float64 too. Fully calibrated beta is a = 4 / 99, and a sure mistake costs (2000 beta + 4 x 2000) / 5."""
    positive, negative = torch.full((3,), -2000.0), torch.full((3, 4), 2000.0)
    loss = gbce(positive, negative, num_items=100, calibration=1.0)
    assert loss.item() == pytest.approx((4 / 99 * 2000 + 8000) / 5, rel=1e-6)


def test_sampled_softmax_over_all_items_is_full_softmax():
    torch.manual_seed(0)
    hidden, table, target = torch.randn(9, 4), torch.randn(15, 4), torch.randint(15, (9,))
    ours = sampled_softmax(hidden, table, target, torch.arange(15))
    assert torch.allclose(ours, F.cross_entropy(hidden @ table.T, target), atol=1e-5)


def test_dropout_keeps_the_mean_and_the_rate():
    torch.manual_seed(0)
    x = drop(torch.ones(400_003), 0.4)
    assert abs((x == 0).float().mean().item() - 102 / 256) < 0.005
    assert abs(x.mean().item() - 1) < 0.01
    assert drop(torch.ones(7), 0.0).eq(1).all()


def test_negatives_of_each_position_are_its_own_softmax():
    torch.manual_seed(0)
    hidden, table, target = torch.randn(6, 8), torch.randn(30, 8), torch.randint(30, (6,))
    negatives = torch.randint(30, (6, 5))
    ours = sampled_softmax(hidden, table, target, negatives, temperature=0.05, cosine=True)
    alone = [sampled_softmax(hidden[m : m + 1], table, target[m : m + 1], negatives[m], temperature=0.05, cosine=True) for m in range(6)]
    assert torch.allclose(ours, torch.stack(alone).mean(), atol=1e-5)


def test_cosine_scores_ignore_the_length_of_item_vectors():
    torch.manual_seed(0)
    model = SASRec(20, width=16, heads=2, feedforward=32, max_length=10, is_cosine=True, is_tied=False).eval()
    batch = history_batch([np.array([1, 2, 3])], max_history=10)
    before = model.score(batch)
    model.output.data[7] *= 5
    assert torch.allclose(model.score(batch), before, atol=1e-6)
    assert before.abs().max() <= 1


def test_an_offset_starts_as_one_table_and_moves_slower_than_it():
    """Adam's first step has one size for every number: what scores then moves 1.1 times as far as what reads."""
    torch.manual_seed(0)
    model = SASRec(20, width=16, heads=2, feedforward=32, dropout=0.0, max_length=10, offset=0.1)
    batch = history_batch([np.array([1, 2, 3])], max_history=10)
    read, scored = model.item.weight.clone(), model.item_vectors().clone()
    assert torch.equal(read, scored)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    (-model.score(batch).log_softmax(1)[0, 7]).backward()
    optimizer.step()
    unread = 7  # not in the history: one gradient alone, that of the score
    moved, away = model.item.weight[unread] - read[unread], model.item_vectors()[unread] - scored[unread]
    assert torch.allclose(moved.abs(), torch.full((16,), 1e-3), rtol=1e-2)
    assert torch.allclose(away, 1.1 * moved, rtol=1e-3, atol=1e-7)
    with torch.no_grad():
        wanted = last_state(model.states(batch), batch.length) @ model.item_vectors().T
        assert torch.allclose(model.score(batch), wanted, atol=1e-6)


def test_as_hstu_differs_from_hstu_by_its_layers_alone():
    alike = override(sasrec.Config(), sasrec.VARIANTS["as_hstu"])
    for name in ("width", "layers", "heads", "dropout", "negatives", "shares_negatives", "tokens", "epochs", "patience", "optimization"):
        assert getattr(alike, name) == getattr(hstu.Config(), name), name
    assert alike.feedforward == alike.width
