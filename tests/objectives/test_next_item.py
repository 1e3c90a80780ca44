"""Losses over items: which negatives are drawn, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semid.errors import DataError
from semid.nn.losses import gbce
from semid.objectives.next_item import GBCE, SampledSoftmax
from semid.types import Batch

ITEMS, WIDTH = 6, 4
TARGET = torch.tensor([[3, 0, -1], [5, -1, -1]])
BATCH = Batch(torch.zeros_like(TARGET), torch.zeros_like(TARGET), torch.tensor([2, 1]), TARGET, torch.tensor([0, 1]))


class Fixed:
    """Random states and item vectors."""

    def __init__(self, items: int = ITEMS):
        generator = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(2, 3, WIDTH, generator=generator)
        self.table = torch.randn(items, WIDTH, generator=generator)

    def states(self, batch: Batch) -> torch.Tensor:
        return self.hidden

    def item_vectors(self) -> torch.Tensor:
        return self.table


@pytest.mark.parametrize("calibration", [0.0, 0.75])
def test_gbce_s_negatives_are_all_items_but_the_target(monkeypatch: pytest.MonkeyPatch, calibration: float):
    every = lambda high, shape, device: torch.arange(high).expand(shape)
    monkeypatch.setattr(torch, "randint", every)
    model = Fixed()
    found = GBCE(negatives=ITEMS - 1, calibration=calibration)(model, BATCH).total
    hidden = model.hidden[TARGET >= 0]
    logits = hidden @ model.table.T
    targets = TARGET[TARGET >= 0]
    others = torch.stack([row[torch.arange(ITEMS) != target] for row, target in zip(logits, targets, strict=True)])
    wanted = gbce(logits[torch.arange(3), targets], others, num_items=ITEMS, calibration=calibration)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_gbce_refuses_one_item():
    with pytest.raises(DataError, match="gbce: want two items at least"):
        GBCE()(Fixed(1), BATCH)


def test_gbce_with_more_negatives_than_items_has_a_sampling_rate_of_one():
    """beta = a (t (1 - 1/a) + 1/a) is 1 at a = 1; at a rate of 256 of 9 it would be 21.6, and a positive would be paid for twenty times."""
    torch.manual_seed(0)
    positive, negative = torch.randn(5), torch.randn(5, 256)
    wanted = -(F.logsigmoid(positive) + F.logsigmoid(-negative).sum(1)) / 257
    assert gbce(positive, negative, num_items=10, calibration=0.75).item() == pytest.approx(wanted.mean().item(), rel=1e-5)


@pytest.mark.parametrize("is_shared", [True, False])
def test_sampled_softmax_draws_once_a_batch_or_once_a_position(monkeypatch: pytest.MonkeyPatch, is_shared: bool):
    shapes, randint = [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda high, shape, device: shapes.append(shape) or randint(high, shape, device=device))
    model = Fixed()
    torch.manual_seed(0)
    found = SampledSoftmax(negatives=4, is_shared=is_shared)(model, BATCH).total.item()
    assert shapes == [(4,) if is_shared else (3, 4)]
    torch.manual_seed(0)
    drawn = np.broadcast_to(randint(ITEMS, shapes[0]).numpy(), (3, 4))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    hidden, table = (unit(vectors.double().numpy()) for vectors in (model.hidden[TARGET >= 0], model.table))
    target = TARGET[TARGET >= 0].numpy()
    costs = []
    for h, t, negatives in zip(hidden, target, drawn, strict=True):
        logits = np.array([h @ table[t], *(h @ table[n] for n in negatives if n != t)]) / 0.05
        costs.append(np.log(np.exp(logits - logits[0]).sum()))
    assert found == pytest.approx(np.mean(costs), rel=1e-5)
