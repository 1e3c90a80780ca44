"""Losses of sessions: one item a session is the loss of single items, DPO starts at log 2 and pushes the chosen session up."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.errors import DataError
from semid.generators.session import SessionGenerator
from semid.objectives.next_codes import NextCodes
from semid.objectives.paths import frozen
from semid.objectives.session import NextSession, SessionPreference, session_log_probabilities
from semid.types import Loss
from tests.objectives.generators import one_target_each, path_codes

PAIR = torch.tensor([[[3, 9], [60, 1]], [[-1, -1], [-1, -1]], [[5, 6], [5, 8]]])


def generator(*, dropout: float = 0.0, experts: int = 3, layers: int = 1) -> SessionGenerator:
    torch.manual_seed(0)
    return SessionGenerator(path_codes(), width=16, heads=2, head_width=8, encoder_layers=1, decoder_layers=layers, feedforward=12,
                            dropout=dropout, experts=experts, active=2)


def batch_of(session, **extra):
    batch = one_target_each(len(session))
    return replace(batch, extra={"session": session, **extra})


def test_sessions_of_one_item_are_the_loss_of_single_items():
    model, batch = generator(), one_target_each(6)
    got = NextSession(balance=0.0)(model, replace(batch, extra={"session": batch.target.amax(1)[:, None]})).total
    assert got.item() == pytest.approx(NextCodes()(model, batch).total.item(), rel=1e-5)


def test_the_loss_equals_numpy_and_pads_count_nothing():
    model, session = generator(experts=0), torch.tensor([[3, 9, 12], [60, 1, -1]])
    batch = batch_of(session)
    logits = model.session_logits(batch, session[:, None])[:, 0].detach().double().numpy()
    logp = logits - np.log(np.exp(np.where(np.isfinite(logits), logits, -1e9)).sum(-1, keepdims=True))
    codes = model.codes.numpy()
    nats = [[-sum(logp[row, place, level, codes[item, level]] for level in range(3)) for place, item in enumerate(items) if item >= 0]
            for row, items in enumerate(session.tolist())]
    loss = NextSession()(model, batch)
    assert loss.total.item() == pytest.approx(sum(map(sum, nats)) / 5, rel=1e-5)
    assert loss.parts["item_1"].item() == pytest.approx((nats[0][0] + nats[1][0]) / 2, rel=1e-5)
    assert loss.parts["item_3"].item() == pytest.approx(nats[0][2], rel=1e-5)


def test_the_balance_of_the_experts_is_in_the_sum_and_told():
    model, session = generator(), torch.tensor([[3, 9], [60, 1]])
    without, loss = (NextSession(balance=weight)(model, batch_of(session)) for weight in (0.0, 0.5))
    assert loss.total.item() == pytest.approx(without.total.item() + 0.5 * loss.parts["balance"].item(), rel=1e-5)
    assert 1 <= loss.signals["experts"] <= 3
    assert 1 / 3 <= loss.signals["busiest"] <= 1 / 2  # two of three experts a token


def test_of_several_layers_the_mean_balance_counts_and_the_worst_is_told():
    model = generator(layers=3)
    loss = NextSession(balance=0.5)(model, batch_of(torch.tensor([[3, 9], [60, 1]])))
    routings = [mixture.routing for mixture in model.mixtures]
    assert len(routings) == 3
    assert loss.parts["balance"].item() == pytest.approx(np.mean([routing.balance().item() for routing in routings]), rel=1e-5)
    assert loss.signals["experts"].item() == pytest.approx(min(routing.effective().item() for routing in routings))
    assert loss.signals["busiest"].item() == pytest.approx(max(routing.load.max().item() for routing in routings))


def test_the_gradient_of_the_balance_reaches_the_routers():
    model = generator()
    loss = NextSession(balance=0.5)(model, batch_of(torch.tensor([[3, 9], [60, 1]])))
    loss.total.backward()
    assert model.mixtures[0].gate.grad.any()


def test_preference_starts_at_log_two_and_pushes_the_chosen_session_up():
    model = generator(dropout=0.1)
    batch = batch_of(torch.tensor([[1, 2], [3, 4], [5, 6]]), session_pair=PAIR)
    objective = SessionPreference(frozen(model), NextSession(), beta=0.3)
    loss = objective(model.train(), batch)
    assert loss.parts["preference"].item() == pytest.approx(math.log(2), rel=1e-5)
    assert loss.signals["pairs"].item() == pytest.approx(2 / 3)
    logp = lambda: session_log_probabilities(model.eval(), batch, PAIR).sum((2, 3)).detach()[[0, 2]]
    before = logp()
    only_pairs = replace(objective, supervised=lambda model, batch: Loss(torch.zeros(())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    only_pairs(model, batch).total.backward()
    optimizer.step()
    gain = logp() - before
    assert (gain[:, 0] > gain[:, 1]).all()


def test_preference_equals_its_formula_away_from_the_reference():
    """The pairs' losses are summed and divided by all rows, those without a pair as well."""
    model, reference = generator(), generator()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    batch = batch_of(torch.tensor([[1, 2], [3, 4], [5, 6]]), session_pair=PAIR)
    loss = SessionPreference(frozen(reference), NextSession(), beta=0.3, weight=2.0)(model.eval(), batch)
    logp = lambda m: session_log_probabilities(m.eval(), batch, PAIR).sum((2, 3)).detach().double().numpy()
    gain = (logp(model) - logp(reference))[[0, 2]]
    each = np.log1p(np.exp(-0.3 * (gain[:, 0] - gain[:, 1])))
    assert loss.parts["preference"].item() == pytest.approx(each.mean(), rel=1e-4)
    assert loss.signals["margin"].item() == pytest.approx((gain[:, 0] - gain[:, 1]).mean(), rel=1e-3)
    assert loss.total.item() == pytest.approx(loss.parts["supervised"].item() + 2 * each.sum() / 3, rel=1e-5)


def test_a_batch_without_a_pair_is_supervised_alone():
    model, session = generator(), torch.tensor([[1, 2], [3, 4]])
    batch = batch_of(session, session_pair=torch.full((2, 2, 2), -1))
    loss = SessionPreference(frozen(model), NextSession())(model, batch)
    assert loss.total.item() == pytest.approx(NextSession()(model, batch).total.item())
    assert loss.signals["pairs"] == 0


@pytest.mark.parametrize(("pair", "message"), [
    ([[[1, 2], [1, 2]], [[3, 4], [4, 3]]], r"got items \[1, 2\] preferred to \[1, 2\] in row 0 of the batch; drop such pairs"),
    ([[1, 2], [3, 4]], r"want two sessions a row, \[B, 2, P\], got \(2, 2\)"),
])
def test_pairs_of_equal_sessions_are_refused(pair, message):
    model = generator()
    batch = batch_of(torch.tensor([[1, 2], [3, 4]]), session_pair=torch.tensor(pair))
    with pytest.raises(DataError, match=message):
        SessionPreference(frozen(model), NextSession())(model, batch)
