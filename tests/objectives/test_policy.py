"""GRPO equals its formula in numpy (and TRL's: tests/parity); a group without differences only pulls back to the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.errors import DataError
from semid.objectives.paths import frozen, paths
from semid.objectives.policy import GRPO, group_advantages, grpo_loss
from tests.objectives.generators import KINDS, generator, one_target_each


def some(seed: int = 0):
    """(logp, reference [3, 4, 3], advantage [3, 4], is_code): the last code of some items is padding."""
    torch.manual_seed(seed)
    is_code = torch.ones(3, 4, 3, dtype=torch.bool)
    is_code[:, 1::2, 2] = False
    logp, reference = (-torch.rand(3, 4, 3) * 3 * is_code for _ in range(2))
    return logp, reference, group_advantages(torch.randn(3, 4)), is_code


def rollout(group: int = 4):
    batch = one_target_each()
    target = batch.target.amax(1)
    items = torch.stack([(target + 5 * (g + 1)) % 64 for g in range(group)], dim=1)
    items[:5, 2] = target[:5]
    return replace(batch, extra={"candidates": items, "reward": (items == target[:, None]).float()})


def test_advantages_of_the_papers_example():
    """A group of four with the hit at place 2, rule and rank rewards."""
    found = group_advantages(torch.tensor([[-0.3904, -0.2463, 1.0, -0.1681]]))
    np.testing.assert_allclose(found[0].numpy(), [-0.6853, -0.4605, 1.4842, -0.3385], atol=1e-3)
    assert abs(found.mean()) < 1e-6
    assert found.std().item() == pytest.approx(1, abs=1e-3)
    assert (group_advantages(torch.full((2, 4), 0.3)).abs() < 1e-3).all()


def test_the_loss_equals_its_formula_in_numpy():
    logp, reference, advantage, is_code = some()
    total = []
    for b in range(3):
        for g in range(4):
            tokens = [-(1.0 * advantage[b, g].item() - 0.04 * (np.exp(r - p) - (r - p) - 1))
                      for p, r, real in zip(logp[b, g].tolist(), reference[b, g].tolist(), is_code[b, g].tolist(), strict=True) if real]
            total.append(np.mean(tokens))
    assert grpo_loss(logp, reference, advantage, is_code, 0.04).item() == pytest.approx(np.mean(total), abs=1e-6)



@pytest.mark.parametrize("kind", list(KINDS))
def test_a_step_lifts_what_was_rewarded(kind):
    model, batch = generator(kind).train(), rollout()
    GRPO(frozen(model))(model, batch).total.backward()
    assert model.training
    items, has_hit = batch.extra["candidates"], torch.arange(7) < 5
    with torch.no_grad():
        before = paths(model.eval(), batch, items).logp.sum(2)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.02 * parameter.grad / parameter.grad.norm().clamp_min(1e-6)
        moved = (paths(model, batch, items).logp.sum(2) - before)[has_hit].mean(0)
    assert moved[2] > moved[[0, 1, 3]].max()


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_policy_is_read_without_dropout(kind):
    """Else it would differ from the reference, which it is."""
    model, batch = generator(kind).train(), rollout()
    once, again = (paths(model, batch, batch.extra["candidates"]).logp for _ in range(2))
    assert not torch.equal(once, again)
    assert GRPO(frozen(model))(model, batch).signals["kl"].item() == pytest.approx(0, abs=1e-6)


def test_signals_name_the_signs_of_reward_hacking():
    model, batch = generator("encoder_decoder"), rollout()
    signals = GRPO(frozen(model))(model, batch).signals
    assert signals["no_hit"].item() == pytest.approx(2 / 7)
    assert signals["flat"].item() == pytest.approx(2 / 7)
    assert signals["reward"].item() == pytest.approx(5 / 28)
    assert signals["kl"].item() == pytest.approx(0, abs=1e-6)
    assert signals["distinct"].item() == pytest.approx(np.mean([len(set(row)) for row in batch.extra["candidates"].tolist()])
                                                     / batch.extra["candidates"].shape[1])
    assert signals["coverage"].item() == pytest.approx(len(batch.extra["candidates"].unique()) / 64)
    assert 0 < signals["entropy"].item() < np.log(6)


def test_a_group_without_differences_has_no_gradient_but_that_of_the_divergence():
    model, batch = generator("two_level"), rollout()
    reference = frozen(model)
    batch.extra["reward"] = torch.zeros(7, 4)
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(GRPO(reference)(model, batch).total, parameters, allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-7 for g in grads)
    with torch.no_grad():
        model.code[0].add_(torch.randn_like(model.code[0]))
    grads = torch.autograd.grad(GRPO(reference, beta=1.0)(model, batch).total, parameters, allow_unused=True)
    assert max(g.abs().max() for g in grads if g is not None) > 1e-4


def test_groups_of_one_are_refused():
    model, batch = generator("two_level"), rollout(4)
    batch.extra["candidates"], batch.extra["reward"] = batch.extra["candidates"][:, :1], batch.extra["reward"][:, :1]
    with pytest.raises(DataError, match="groups of two items"):
        GRPO(frozen(model))(model, batch)
