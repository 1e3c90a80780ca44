"""How long training lasts and when it looks at validation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from semid.training.fit import pace


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
