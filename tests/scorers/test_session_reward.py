"""The reward model of sessions: its equations in numpy, the loss, and that it learns whose session it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.data.batch import SessionBatches, history_batch
from semid.nn.losses import known_cross_entropy
from semid.objectives.session_feedback import SessionFeedback
from semid.scorers.session_reward import SessionReward
from semid.training.fit import Optimization, fit
from tests.toyworld.world import blocks

HISTORIES = [np.array([1, 2, 3]), np.array([4, 5]), np.array([], np.int64)]
SESSIONS = torch.tensor([[[6, 7, 8], [1, 9, -1]], [[2, 2, 0], [3, -1, -1]], [[5, 4, 3], [0, 1, -1]]])


def model(towers: int = 2) -> SessionReward:
    torch.manual_seed(0)
    made = SessionReward(10, towers=towers, width=8, heads=2, hidden=12, dropout=0.0).eval()
    torch.nn.init.normal_(made.nothing)
    return made


def test_it_equals_its_equations_in_numpy():
    made, batch = model(), history_batch(HISTORIES, max_history=5)
    w = {name: value.detach().double().numpy() for name, value in made.named_parameters()}
    norm = lambda x, gain: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain
    softmax = lambda s: np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    got = made(batch, SESSIONS).detach().numpy()
    for row, history in enumerate(HISTORIES):
        past = w["item.weight"][history]
        for place, session in enumerate(SESSIONS[row].tolist()):
            item = w["item.weight"][[i for i in session if i >= 0]]
            if len(history):
                score = (item @ w["query.weight"].T) @ (past @ w["key.weight"].T).T / np.sqrt(8)
                interest = softmax(score) @ (past @ w["value.weight"].T)
            else:
                interest = w["nothing"]
            x = item * interest
            inner = norm(x, w["together.norm.weight"])
            q = inner @ w["together.attention.query.weight"].T
            k, v = np.split(inner @ w["together.attention.key_value.weight"].T, 2, axis=1)
            mixed = [softmax(q[:, h] @ k[:, h].T) @ v[:, h] for h in (slice(0, 4), slice(4, 8))]
            x = x + np.concatenate(mixed, axis=1) @ w["together.attention.out.weight"].T
            hidden = np.maximum(norm(x, w["together.feed_norm.weight"]) @ w["together.feedforward.layers.0.weight"].T, 0)
            pooled = (x + hidden @ w["together.feedforward.layers.1.weight"].T).sum(0)
            for tower in range(2):
                inner = np.maximum(w[f"towers.{tower}.0.weight"] @ pooled + w[f"towers.{tower}.0.bias"], 0)
                wanted = w[f"towers.{tower}.2.weight"] @ inner + w[f"towers.{tower}.2.bias"]
                np.testing.assert_allclose(got[row, place, tower], wanted[0], rtol=1e-4, atol=1e-5)


def test_the_order_of_a_session_does_not_matter():
    made, batch = model(), history_batch(HISTORIES, max_history=5)
    whole = SESSIONS[:, :1]
    torch.testing.assert_close(made(batch, whole), made(batch, whole.flip(2)), atol=1e-5, rtol=1e-5)


def test_the_reward_is_the_weighted_sum_of_standardised_towers():
    made, batch = model(), history_batch(HISTORIES, max_history=5)
    sessions = torch.cat([SESSIONS, SESSIONS.flip(0)], dim=1)
    value = 1 / (1 + np.exp(-made(batch, sessions).detach().double().numpy()))
    wanted = ((value - value.mean((0, 1))) / (value.std((0, 1), ddof=1) + 1e-6)) @ np.array([2.0, 0.5])
    np.testing.assert_allclose(made.reward(batch, sessions, torch.tensor([2.0, 0.5])).numpy(), wanted, atol=1e-4)


def test_the_feedback_loss_is_the_cross_entropy_of_what_is_known():
    made, batch = model(), history_batch(HISTORIES, max_history=5)
    session, value = SESSIONS[:, 0], torch.tensor([[5.0, 5, 4], [1, 1, 2], [3, 3, 3]])
    batch = replace(batch, extra={"session": session, "reward": value})
    logits = made(batch, torch.stack([session, session.roll(1, 0)], dim=1)).detach().double().numpy()
    p = 1 / (1 + np.exp(-logits))
    taken = -(np.log(p[:, 0, 0]).sum() + np.log(1 - p[:, 1, 0]).sum()) / 6
    valued = -np.log(np.where([True, False, False], p[:, 0, 1], 1 - p[:, 0, 1])).mean()  # the median is 3: 3 is not above it
    assert SessionFeedback(median=3.0)(made, batch).total.item() == pytest.approx(taken + valued, rel=1e-5)
    assert SessionFeedback()(model(towers=1), batch).total.item() > 0


def test_a_session_that_two_took_is_no_counterexample_of_its_own():
    made = model(towers=1)
    one = history_batch(HISTORIES[:1], max_history=5)
    lone = SessionFeedback()(made, replace(one, extra={"session": SESSIONS[:1, 0]}))  # the next row is the row itself
    assert lone.total.item() == pytest.approx(-torch.log(made.probabilities(one, SESSIONS[:1, :1])).item(), rel=1e-5)


def test_a_tower_that_nobody_knows_anything_of_costs_nothing():
    logits = torch.randn(4, 2, 3)
    assert known_cross_entropy(logits, torch.ones_like(logits), torch.zeros_like(logits, dtype=torch.bool)) == 0


def test_it_learns_whose_session_it_is():
    """Communities take items of their own: a session of another community is not a user's."""
    torch.manual_seed(0)
    made = SessionReward(40, towers=1, width=16, hidden=32, dropout=0.0)
    batches = SessionBatches(blocks().train, max_length=8, items=2, batch_size=64, seed=0)
    fit(made, SessionFeedback(), batches, steps=150, optimization=Optimization(learning_rate=5e-3, warmup=10))
    rng = np.random.default_rng(0)
    taken = [rng.permutation(10)[:5] for _ in range(100)]
    sessions = torch.from_numpy(np.stack([[t[3:], t[3:] + 10, [t[3], t[4] + 20]] for t in taken]))
    own, other, mixed = made.probabilities(history_batch([t[:3] for t in taken], max_history=8), sessions)[..., 0].unbind(1)
    assert (own > other).float().mean() > 0.8
    assert own.mean() > mixed.mean() > other.mean()
