"""Preference losses equal their formulas in numpy (and TRL's: tests/parity), start at log 2, and lift the chosen item."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semid.errors import DataError
from semid.objectives.next_codes import NextCodes
from semid.objectives.paths import frozen, paths
from semid.objectives.preference import Preference, preference_loss
from tests.objectives.generators import KINDS, generator, one_target_each


def gains(negatives: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(6) * 3, torch.randn(6, negatives) * 3


class OneCode(torch.nn.Module):
    """A generator of 64 items, each of one code of its own, that says given logits [B, 64]."""

    codes = torch.arange(64)[:, None]

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def start(self, batch):
        return self

    def step(self, state, codes):
        return self.logits, self

    def select(self, rows):
        return self


def batch_of_pairs(negatives: int = 2):
    batch = one_target_each()
    target = batch.target.amax(1)
    rejected = torch.stack([(target + 7 * (k + 1)) % 64 for k in range(negatives)], dim=1)
    return replace(batch, extra={"chosen": target, "rejected": rejected})


@pytest.mark.parametrize("beta", [0.1, 0.4])
def test_several_negatives_equal_the_formula_of_s_dpo_in_numpy(beta):
    chosen, rejected = gains(4)
    wanted = [-np.log(1 / (1 + np.exp(np.log(np.exp(beta * (r - c)).sum()))))
              for c, r in zip(chosen.numpy(), rejected.numpy(), strict=True)]
    np.testing.assert_allclose(preference_loss(chosen, rejected, beta).numpy(), wanted, rtol=1e-5)


def test_one_negative_is_dpo_and_a_missing_one_changes_nothing():
    chosen, rejected = gains(1)
    wanted = -F.logsigmoid(0.1 * (chosen - rejected[:, 0]))
    torch.testing.assert_close(preference_loss(chosen, rejected, 0.1), wanted)
    padded = torch.cat([rejected, torch.full((6, 1), -torch.inf)], dim=1)
    torch.testing.assert_close(preference_loss(chosen, padded, 0.1), wanted)


def test_with_ids_of_one_code_it_is_the_logistic_loss_of_logit_differences_with_its_gradient():
    """Both items' softmax has one sum, which cancels: y = 1 for z = beta ((z+ - z-) - (r+ - r-)), dL/dz+ = -beta sigma(-z) = -dL/dz-."""
    batch, (logits, before) = batch_of_pairs(1), torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    model, reference = OneCode(logits), OneCode(before)
    loss = Preference(reference, beta=0.4)(model, batch).total
    rows, chosen, rejected = np.arange(7), batch.extra["chosen"].numpy(), batch.extra["rejected"][:, 0].numpy()
    difference = (logits.detach() - before).double().numpy()
    z = 0.4 * (difference[rows, chosen] - difference[rows, rejected])
    assert loss.item() == pytest.approx(np.log1p(np.exp(-z)).mean(), rel=1e-5)
    loss.backward()
    wanted = np.zeros((7, 64))
    wanted[rows, chosen], wanted[rows, rejected] = -0.4 / (1 + np.exp(z)) / 7, 0.4 / (1 + np.exp(z)) / 7
    np.testing.assert_allclose(logits.grad.numpy(), wanted, atol=1e-7)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_loss_starts_at_log_2_and_its_gradient_lifts_the_chosen_item(kind):
    model, batch = generator(kind).train(), batch_of_pairs(1)
    objective = Preference(frozen(model), beta=0.4)
    loss = objective(model, batch)
    assert loss.total.item() == pytest.approx(np.log(2), abs=1e-5)  # dropout is on in the model: the objective switches it off
    assert model.training
    loss.total.backward()
    assert all(p.grad is None for p in objective.reference.parameters())
    items = torch.cat([batch.extra["chosen"][:, None], batch.extra["rejected"]], dim=1)
    with torch.no_grad():
        before = paths(model.eval(), batch, items).logp.sum(2).mean(0)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad / parameter.grad.norm().clamp_min(1e-6)
        after = paths(model, batch, items).logp.sum(2).mean(0)
    assert after[0] - before[0] > after[1] - before[1]
    assert objective(model, batch).signals["accuracy"] > 0.5


def test_parts_say_what_happens_and_the_supervised_loss_adds():
    model, batch = generator("two_level"), batch_of_pairs()
    reference = frozen(model)
    with torch.no_grad():
        model.code[0].add_(torch.randn_like(model.code[0]))
    alone, both = Preference(reference)(model, batch), Preference(reference, supervised=NextCodes(), weight=0.5)(model, batch)
    torch.testing.assert_close(both.total, NextCodes()(model, batch).total + 0.5 * alone.total)
    items = torch.cat([batch.extra["chosen"][:, None], batch.extra["rejected"]], dim=1)
    with torch.no_grad():
        gain = (paths(model, batch, items).logp - paths(reference, batch, items).logp).sum(2)
    torch.testing.assert_close(alone.signals["margin"], (gain[:, 0] - gain[:, 1:].mean(1)).mean())
    torch.testing.assert_close(alone.total, preference_loss(gain[:, 0], gain[:, 1:], 0.1).mean())
    assert alone.signals["pairs"] == 1


def test_rows_without_a_pair_are_left_out_and_none_at_all_gives_no_gradient():
    model, batch = generator("two_level"), batch_of_pairs(1)
    objective = Preference(frozen(model))
    with torch.no_grad():
        model.code[0].add_(torch.randn_like(model.code[0]))
    some = replace(batch, extra={**batch.extra, "rejected": batch.extra["rejected"].index_fill(0, torch.arange(3), -1)})
    rest = paths(model, batch, torch.cat([batch.extra["chosen"][:, None], batch.extra["rejected"]], 1)).logp.sum(2)
    base = paths(objective.reference, batch, torch.cat([batch.extra["chosen"][:, None], batch.extra["rejected"]], 1)).logp.sum(2)
    gain = (rest - base)[3:]
    torch.testing.assert_close(objective(model, some).total, preference_loss(gain[:, 0], gain[:, 1:], 0.1).mean())
    none = objective(model, replace(batch, extra={**batch.extra, "rejected": torch.full((7, 1), -1)}))
    assert none.total.item() == 0
    none.total.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_pairs_with_equal_sides_are_refused():
    model, batch = generator("two_level"), batch_of_pairs(1)
    objective = Preference(frozen(model))
    batch.extra["rejected"][2, 0] = batch.extra["chosen"][2]
    with pytest.raises(DataError, match=rf"item row {int(batch.extra['chosen'][2])} preferred to itself in row 2"):
        objective(model, batch)
    model.tree.codes[batch.extra["rejected"][3, 0]] = model.tree.codes[batch.extra["chosen"][3]]
    batch.extra["rejected"][2, 0] = -1
    with pytest.raises(DataError, match="which has the same codes, in row 3"):
        objective(model, batch)
    with pytest.raises(DataError, match="want a chosen item in every row"):
        objective(model, replace(batch, extra={**batch.extra, "chosen": torch.full((7,), -1)}))
