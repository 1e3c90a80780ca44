"""Losses of prior heads: with one head they are the backbone's; a head learns from its own futures alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from semid.nn.losses import sampled_softmax
from semid.nn.prior_heads import FreeHeads, PriorHeads, discounts, future_contrast
from semid.objectives.prior_futures import PriorFutures, RoutedFutures
from semid.scorers.prior_heads import PriorHeadScorer
from semid.scorers.sasrec import SASRec
from semid.types import Batch

ITEMS, WIDTH = 20, 8


def scorer(heads, tags, **settings) -> PriorHeadScorer:
    torch.manual_seed(0)
    body = SASRec(len(tags), width=WIDTH, layers=1, heads=1, feedforward=8, dropout=0.0, max_length=8)
    torch.nn.init.normal_(body.item.weight)
    return PriorHeadScorer(body, heads, tags, **settings)


def batch_of(targets) -> Batch:
    """Histories whose position s is followed by targets[:, s]; what came first is item 0."""
    target = torch.tensor(targets)
    item = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], dim=1)
    item[:, 1:][target[:, :-1] < 0] = -1
    return Batch(item, torch.zeros_like(item), (item >= 0).sum(1), target, torch.arange(len(item)))


def two_tags() -> torch.Tensor:
    """Items 0..9 carry prior 0, the others prior 1; item 19 both."""
    tags = torch.zeros(ITEMS, 2, dtype=torch.bool)
    tags[:10, 0] = tags[10:, 1] = tags[19, 0] = True
    return tags


def test_one_head_one_segment_and_the_identity_is_the_loss_of_the_backbone():
    model = scorer(PriorHeads(WIDTH, 1, composition="multiplicative"), torch.ones(ITEMS, 1, dtype=torch.bool))
    batch = batch_of([[1, 2, 3], [4, 5, -1]])
    loss = PriorFutures(torch.ones(1), horizon=1, negatives=ITEMS)(model, batch).total
    hidden = model.states(batch).flatten(0, 1)[batch.target.flatten() >= 0]
    wanted = sampled_softmax(hidden, model.body.item_vectors(), torch.tensor([1, 2, 3, 4, 5]), torch.arange(ITEMS), temperature=0.05,
                             cosine=True)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("composition", ["hierarchical", "multiplicative", "additive"])
def test_the_loss_equals_loops_over_heads_offsets_and_positions(composition):
    """Two segments of two offsets. In the first row the items after position 0 carry the priors 0, 1, 0, 0: the short head of prior 0
    learns offset 0 there, that of prior 1 offset 1, the long one of prior 0 offsets 2 and 3, that of prior 1 nothing."""
    heads, share = PriorHeads(WIDTH, 2, 2, composition=composition), [0.7, 0.3]
    model = scorer(heads, two_tags())
    batch = batch_of([[1, 11, 2, 3, 19], [12, 4, -1, -1, -1]])
    weight, every, states = discounts(4, 0.9), torch.arange(ITEMS), model.states(batch)
    wanted = 0.0
    for head, (prior, segment) in enumerate(zip(heads.prior.tolist(), heads.segment.tolist(), strict=True)):
        z = normalize(heads(states)[head], dim=-1)
        for offset in range(4):
            costs = []
            for row in range(2):
                for position in range(5 - offset):
                    item = batch.target[row, position + offset]
                    if item >= 0 and segment in (-1, offset // 2) and (prior < 0 or two_tags()[item, prior]):
                        costs.append(future_contrast(z[row, position][None], model.item_vectors(), torch.tensor([0]), item[None], every,
                                                     model.scale()).item())
            if costs:
                half, part = (0.5 if -1 in (prior, segment) else 1), (share[prior] if prior >= 0 else 1)
                wanted += weight[offset].item() * np.mean(costs) * part * half
    got = PriorFutures(torch.tensor(share), horizon=4, decay=0.9, negatives=ITEMS)(model, batch).total
    assert got.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("composition", ["hierarchical", "multiplicative", "additive"])
def test_a_head_has_no_gradient_from_futures_without_its_prior(composition):
    heads = PriorHeads(WIDTH, 2, 2, composition=composition)
    model = scorer(heads, two_tags())
    PriorFutures(torch.tensor([0.5, 0.5]), horizon=2, negatives=8)(model, batch_of([[1, 2, 3, 4], [5, 6, -1, -1]])).total.backward()
    for head, prior in enumerate(heads.prior.tolist()):
        grad = heads.last[head].map.weight.grad
        assert grad is not None, "the graph holds every head"
        assert bool(grad.any()) == (prior != 1)
    if composition == "hierarchical":
        assert heads.first[0][0].map.weight.grad.any()
        assert not heads.first[1][0].map.weight.grad.any()


def test_additive_futures_train_two_heads_at_half_the_weight():
    tags = torch.ones(ITEMS, 1, dtype=torch.bool)
    batch = batch_of([[1, 2, 3, 4], [5, 6, 7, -1]])
    flat = scorer(PriorHeads(WIDTH, 1, 1, composition="multiplicative"), tags)
    sums = scorer(PriorHeads(WIDTH, 1, 1, composition="additive"), tags)
    loss = PriorFutures(torch.ones(1), horizon=3, negatives=ITEMS)
    assert loss(sums, batch).total.item() == pytest.approx(loss(flat, batch).total.item(), rel=1e-6)  # both heads are the identity


def test_negatives_within_a_prior_are_those_that_carry_it():
    model = scorer(PriorHeads(WIDTH, 2, 1, composition="multiplicative"), two_tags())
    batch = batch_of([[1, 2, 3]])
    got = PriorFutures(torch.ones(2), horizon=1, negatives=ITEMS, is_within=True)(model, batch).total
    hidden = model.states(batch)[0]
    own = torch.nonzero(two_tags()[:, 0]).squeeze(1)
    wanted = sampled_softmax(hidden, model.body.item_vectors(), torch.tensor([1, 2, 3]), own, temperature=0.05, cosine=True)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_routed_futures_train_the_head_that_fits_best():
    heads = FreeHeads(WIDTH, 3)
    model = scorer(heads, two_tags())
    batch = batch_of([[1]])
    z = torch.stack([normalize(h, dim=-1)[0, 0] for h in heads(model.states(batch))])
    best = int((z @ model.item_vectors()[1]).argmax())
    loss = RoutedFutures(horizon=1, negatives=ITEMS)(model, batch)
    loss.total.backward()
    assert [bool(head.map.weight.grad.any()) for head in heads.last] == [head == best for head in range(3)]
    assert loss.signals["largest_route"] == 1


def test_routed_futures_equal_loops_over_offsets_and_positions():
    heads = FreeHeads(WIDTH, 3)
    model = scorer(heads, two_tags())
    for head in heads.last:
        torch.nn.init.normal_(head.map.weight)
    batch = batch_of([[1, 11, 2, 3], [12, 4, -1, -1]])
    every, weight, table = torch.arange(ITEMS), discounts(3, 0.9), model.item_vectors()
    units = [normalize(z, dim=-1) for z in heads(model.states(batch))]
    wanted, routes = 0.0, []
    for offset in range(3):
        costs = []
        for row in range(2):
            for position in range(4 - offset):
                item = batch.target[row, position + offset]
                if item >= 0:
                    best = int(torch.stack([z[row, position] @ table[item] for z in units]).argmax())
                    routes.append(best)
                    costs.append(future_contrast(units[best][row, position][None], table, torch.tensor([0]), item[None], every,
                                                 model.scale()).item())
        wanted += weight[offset].item() * np.mean(costs)
    loss = RoutedFutures(horizon=3, decay=0.9, negatives=ITEMS)(model, batch)
    assert len(set(routes)) > 1
    assert loss.total.item() == pytest.approx(wanted, rel=1e-5)
    assert loss.signals["largest_route"].item() == pytest.approx(np.bincount(routes).max() / len(routes))


def test_the_gate_learns_which_priors_come_and_leaves_the_body_alone():
    model = scorer(PriorHeads(WIDTH, 2, 1), two_tags(), gate=0.5)
    batch = batch_of([[1, 11, 2, 19], [12, 13, 14, 15]])
    loss = PriorFutures(torch.zeros(2), horizon=2, negatives=ITEMS)(model, batch)
    future = np.array([[[1, 11], [11, 2], [2, 19], [19, -1]], [[12, 13], [13, 14], [14, 15], [15, -1]]]).reshape(-1, 2)
    tags = np.vstack([two_tags().numpy(), [False, False]])
    comes = tags[future].any(1).astype(float)
    rate = comes.mean(0).clip(1e-3, 1 - 1e-3)
    likely = 1 / (1 + np.exp(-model.gate(model.states(batch).flatten(0, 1)).detach().double().numpy()))
    wanted = -((1 - rate) / rate * comes * np.log(likely) + (1 - comes) * np.log(1 - likely)).mean()
    assert loss.parts["gate"].item() == pytest.approx(wanted, rel=1e-5)
    loss.total.backward()
    assert model.gate.weight.grad.any()
    assert not model.body.item.weight.grad.any()
