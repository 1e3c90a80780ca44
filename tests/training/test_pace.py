"""How long training lasts and when it looks at validation."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from semid.training.fit import Optimization, Validation, fit, pace
from semid.training.log import Log
from semid.types import Loss


@pytest.mark.parametrize(("steps_per_epoch", "look_every", "wanted"), [
    (131, 2, (1572, 262, 3)),  # as many passes as asked for, a look every other one
    (2, 2, (1008, 42, 12)),  # a pass is two steps: epochs of 84, looks after half of one, and the same steps without a better one
    (60, 1, (1008, 60, 7)),
    (131, 1, (1572, 131, 5))])
def test_small_logs_are_read_often_enough_and_looked_at_early(steps_per_epoch: int, look_every: int, wanted: tuple[int, int, int]):
    batches = SimpleNamespace(steps_per_epoch=steps_per_epoch, at=None)
    assert pace(batches, epochs=12, least=84, look_every=look_every, patience=3 if look_every == 2 else 5) == wanted


def test_without_a_least_every_pass_is_an_epoch():
    assert pace(SimpleNamespace(steps_per_epoch=3, at=None), epochs=4, least=0, look_every=1, patience=2) == (12, 3, 2)


@dataclass
class Look:
    """What validation measures, look after look."""

    values: list[dict[str, float]]

    def __call__(self) -> dict[str, float]:
        return self.values.pop(0)


def fitted(values: list[dict[str, float]], **rest: object) -> tuple[float, list[dict]]:
    """Return the weight that is kept of a model whose weight is its step, and what the log said."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    records: list[dict] = []
    pull = lambda model, batch: Loss(-model.weight.sum())  # a constant gradient
    rows = SimpleNamespace(steps_per_epoch=1, at=lambda step: torch.zeros(1))
    fit(model, pull, rows, steps=4, optimization=Optimization(learning_rate=1.0, warmup=0, schedule="constant", weight_decay=0.0),
        validation=Validation(Look(values), every=1, **rest), log=Log(view=records.append))
    return model.weight.item(), records


def test_the_best_look_is_kept_and_none_before_since_counts():
    falling = [{"ndcg@10": value} for value in (0.4, 0.3, 0.2, 0.1)]
    assert fitted(list(falling))[0] == pytest.approx(1, abs=0.01)
    assert fitted(list(falling), since=3)[0] == pytest.approx(3, abs=0.01)


def test_patience_counts_looks_from_since_on():
    rising = [{"ndcg@10": value} for value in (0.1, 0.2, 0.3, 0.4)]
    assert fitted(list(rising), since=3, patience=1)[0] == pytest.approx(4, abs=0.01)


def test_training_ends_after_as_many_looks_without_a_better_one():
    values = [{"ndcg@10": value} for value in (0.4, 0.3, 0.2, 0.1)]
    assert fitted(values, patience=2)[0] == pytest.approx(1, abs=0.01)
    assert len(values) == 1  # the fourth look never came


@pytest.mark.parametrize(("schedule", "rates"), [
    ("constant", [0.2, 1, 1, 1]), ("linear", [0.2, 0.962, 0.525, 0.05]), ("cosine", [0.2, 0.996254, 0.525, 0.05]),
    ("inverse_sqrt", [1, 1, (5 / 51) ** 0.5, (5 / 101) ** 0.5])])
def test_the_rate_rises_and_falls_as_its_schedule_says(schedule, rates):
    optimization = Optimization(learning_rate=1.0, warmup=5, schedule=schedule, final=0.05)
    found = [optimization.rate(step, 100) for step in (0, 4, 50, 100)]
    assert found == pytest.approx(rates, abs=1e-5)


def test_without_a_validation_case_the_last_weights_are_kept_and_the_log_says_so():
    weight, records = fitted([{}] * 4, patience=1)
    assert weight == pytest.approx(4, abs=0.01)
    assert [record["note"] for record in records if "note" in record] == ["no validation case: the last weights are kept"]
