"""The parallel generator: digits are independent, an item's score is their sum, and reading in compiled loops changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.data.batch import SequenceBatches, history_batch
from semid.errors import ConfigError
from semid.generators.parallel import Parallel
from semid.nn.digit_sum import digit_sum_plain
from semid.objectives.next_codes import NextCodes
from semid.objectives.next_digits import NextDigits, NextItemOfDigits
from semid.protocols import ParallelGenerator, Scorer
from semid.types import SemanticIds
from tests.toyworld.world import walk

N, SIZES = 64, (5, 7, 6, 5)


def some_ids() -> SemanticIds:
    return SemanticIds(np.random.default_rng(0).integers(SIZES, size=(N, 4)).astype(np.int16), SIZES, "set")


def build(**changes) -> Parallel:
    torch.manual_seed(0)
    model = Parallel(some_ids(), **{"width": 16, "heads": 2, "feedforward": 32, "max_length": 20, "start": torch.randn(N, 16),
                                    "content": torch.randn(N, 9), **changes}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def some_batch():
    return SequenceBatches(walk(users=8).train, max_length=20, tokens=1000, seed=0).at(0)


@pytest.mark.parametrize("is_tied", [True, False])
@torch.no_grad()
def test_scores_and_loss_equal_a_numpy_reference(is_tied):
    model, batch = build(is_tied=is_tied, temperature=0.2), some_batch()
    where = batch.target >= 0
    user, target = model.states(batch)[where].numpy().astype(np.float64), batch.target[where].numpy()
    weight, bias = model.head.weight.numpy().astype(np.float64), model.head.bias.numpy().astype(np.float64)
    table = (model.input.code.weight if is_tied else model.output).numpy().astype(np.float64)
    codes, offset = some_ids().codes, np.concatenate([[0], np.cumsum(SIZES)])
    loss, score = [], np.zeros((len(user), N))
    for digit, size in enumerate(SIZES):
        inner = user @ weight[digit * 16 : digit * 16 + 16].T + bias[digit * 16 : digit * 16 + 16]
        query = user + inner / (1 + np.exp(-inner))
        key = table[offset[digit] : offset[digit + 1]]
        logits = query @ key.T / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(key, axis=1) / 0.2
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        aim = np.full((len(user), size), 0.1 / size)
        aim[np.arange(len(user)), codes[target, digit]] += 0.9
        loss.append(-(aim * logp).sum(1).mean())
        score += logp[:, codes[:, digit]]
    assert abs(float(NextDigits(0.1)(model, batch).total) - np.mean(loss)) < 1e-5
    last = np.flatnonzero(np.diff(np.append(np.nonzero(where.numpy())[0], -1)))  # each row's last position
    np.testing.assert_allclose(model.score(batch).numpy(), score[last], atol=2e-4)


def test_the_loss_and_its_gradients_are_those_of_the_loss_over_all_logits():
    model, batch = build(), some_batch()
    found = []
    for objective, scale in ((NextDigits(0.1), 1.0), (NextCodes(0.1), 1 / len(SIZES))):
        model.zero_grad()
        total = objective(model, batch).total * scale
        total.backward()
        found.append((total.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("negatives", [20, N])
@torch.no_grad()
def test_the_loss_over_items_equals_a_numpy_reference(negatives):
    model, batch = build(temperature=0.5), some_batch()
    codes, target = some_ids().codes, batch.target[batch.target >= 0].numpy()
    values = model.logits(batch).numpy().astype(np.float64)
    torch.manual_seed(7)
    others = torch.randint(N, (negatives,)).numpy() if negatives < N else np.arange(N)
    expected = []
    for value, true in zip(values, target, strict=True):
        logit = lambda item, value=value: sum(value[digit, code] for digit, code in enumerate(codes[item]))
        shift = np.log((N - 1) / negatives) if negatives < N else 0.0
        all_logits = [logit(true), *(logit(item) + shift for item in others if item != true)]
        expected.append(np.log(np.exp(all_logits).sum()) - logit(true))
    torch.manual_seed(7)
    assert abs(float(NextItemOfDigits(negatives)(model, batch).total) - np.mean(expected)) < 1e-5


def test_all_items_as_negatives_give_the_gradients_of_a_softmax_over_plain_sums():
    model, batch = build(temperature=0.5), some_batch()
    found = []
    for way in ("compiled", "plain"):
        model.zero_grad()
        if way == "compiled":
            NextItemOfDigits(N)(model, batch).total.backward()
        else:
            scores = digit_sum_plain(model.logits(batch), model.codes)
            torch.nn.functional.cross_entropy(scores, batch.target[batch.target >= 0]).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-5, rtol=1e-4, msg=name)


@torch.no_grad()
def test_level_logits_are_normalised_over_each_digits_own_codes():
    model = build()
    assert isinstance(model, ParallelGenerator)
    assert isinstance(model, Scorer)
    batch = some_batch()
    logits = model.level_logits(batch)
    assert logits.shape == (len(batch), 4, 7)
    assert torch.equal(torch.isfinite(logits)[0], torch.arange(7) < torch.tensor(SIZES)[:, None])
    torch.testing.assert_close(model.log_probabilities(batch).exp().sum(2), torch.ones(len(batch), 4))


@torch.no_grad()
def test_fresh_heads_pass_the_user_on():
    torch.manual_seed(0)
    model = Parallel(some_ids(), width=16, heads=2, feedforward=32, max_length=20).eval()
    user = torch.randn(3, 16)
    expected = torch.nn.functional.normalize(user, dim=1)[:, None].expand(-1, 4, -1) / model.temperature
    torch.testing.assert_close(model.queries(user), expected)


@pytest.mark.parametrize("changes", [{}, {"start": None}, {"content": None}, {"has_time_gaps": False}])
def test_compiled_loops_read_as_tensor_operations_do_and_padding_changes_nothing(changes):
    model = build(**changes)
    items, times = [np.array([4, 9]), np.arange(15)], [np.array([0, 400_000]), np.arange(15) * 90_000]
    both, alone = history_batch(items, times, max_history=20), history_batch(items[:1], times[:1], max_history=20)
    with torch.no_grad():
        quick, single = model.score(both), model.score(alone)
    torch.testing.assert_close(model.score(both).detach(), quick, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(single[0], quick[0], atol=2e-4, rtol=1e-4)


def test_padded_codes_are_refused():
    codes = some_ids().codes.copy()
    codes[3, 3] = -1
    with pytest.raises(ConfigError, match="codes of one length"):
        Parallel(SemanticIds(codes, SIZES))
