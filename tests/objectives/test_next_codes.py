from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semid.objectives.next_codes import NextCodes
from semid.types import Batch

CODES = torch.tensor([[0, 1, 2], [3, 0, -1], [2, 2, 0], [1, -1, -1]])
TARGET = torch.tensor([[2, -1, 0], [1, 3, -1]])  # M = 4: items 2, 0, 1, 3
SUPERVISED = CODES[[2, 0, 1, 3]]
BATCH = Batch(torch.zeros_like(TARGET), torch.zeros_like(TARGET), torch.tensor([3, 2]), TARGET, torch.tensor([0, 1]))


def some_logits(seed=0):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 3, 4)).astype(np.float32) * 3)
    logits[:, 1, 3:] = -torch.inf  # the second level has three codes
    return logits


def fake(logits):
    return SimpleNamespace(codes=CODES, logits=lambda batch: logits)


def reference(logits, *, smoothing=0.0, temperature=1.0):
    """(total, mean per level) in plain loops."""
    per_level = [[], [], []]
    for m, codes in enumerate(SUPERVISED.tolist()):
        for level, code in enumerate(codes):
            if code < 0:
                continue
            row = logits[m, level].double().numpy() / temperature
            p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            possible = np.isfinite(row)
            goal = np.where(possible, smoothing / possible.sum(), 0.0)
            goal[code] += 1 - smoothing
            per_level[level].append(-(goal[possible] * np.log(p[possible])).sum())
    return sum(map(sum, per_level)) / len(SUPERVISED), [np.mean(level) for level in per_level]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_loss_equals_plain_loops(smoothing, temperature):
    logits = some_logits()
    loss = NextCodes(smoothing=smoothing, temperature=temperature)(fake(logits), BATCH)
    total, parts = reference(logits, smoothing=smoothing, temperature=temperature)
    assert loss.total.item() == pytest.approx(total, rel=1e-5)
    assert [loss.parts[f"level_{i}"].item() for i in (1, 2, 3)] == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_only_codes_that_can_be_share_the_probability(smoothing):
    logits = some_logits()
    mask = torch.rand(4, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, 1, 3:] = False
    mask.scatter_(2, SUPERVISED.clamp_min(0)[..., None], True)

    logits = logits.masked_fill(~mask, -torch.inf)
    loss = NextCodes(smoothing=smoothing)(fake(logits), BATCH)
    assert loss.total.item() == pytest.approx(reference(logits, smoothing=smoothing)[0], rel=1e-5)


def test_gradient_is_softmax_at_the_temperature_minus_the_code():
    logits = some_logits().requires_grad_()
    NextCodes(temperature=0.7)(fake(logits), BATCH).total.backward()
    real = SUPERVISED >= 0
    expected = torch.softmax(logits.detach() / 0.7, -1)
    expected.scatter_add_(2, SUPERVISED.clamp_min(0)[..., None], torch.full((4, 3, 1), -1.0))
    torch.testing.assert_close(logits.grad, expected * real[..., None] / 0.7 / 4)


@pytest.mark.parametrize("settings", [{}, {"smoothing": 0.1}])
def test_codes_without_children_at_a_padded_level_leave_gradients_finite(settings):
    logits = some_logits().requires_grad_()
    childless = (SUPERVISED >= 0)[..., None].expand(4, 3, 4) & (torch.arange(4) < torch.tensor([4, 3, 4])[:, None])
    loss = NextCodes(**settings)(fake(logits.masked_fill(~childless, -torch.inf)), BATCH)
    loss.total.backward()
    assert loss.total.isfinite()
    assert logits.grad.isfinite().all()
