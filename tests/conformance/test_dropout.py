"""Dropout acts where a model has it, in training alone. A new model adds a line to `MODELS`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from semid.generators.parallel import Parallel
from semid.generators.session import SessionGenerator
from semid.generators.setrec import SETRec
from semid.generators.two_level import TwoLevel
from semid.nn.dropout import Dropout
from semid.nn.hstu import HSTU
from semid.objectives.next_codes import NextCodes
from semid.objectives.session import NextSession
from semid.scorers.sasrec import SASRec
from semid.types import Batch
from tests.conformance.test_generators import BATCH, GENERATORS, IDS, ITEMS

SHAPE = {"width": 16, "heads": 2, "feedforward": 24, "dropout": 0.5, "max_length": 10}


def codes(model: nn.Module) -> Tensor:
    return NextCodes()(model, BATCH).total


def states(model: nn.Module) -> Tensor:
    return model.states(BATCH)


def session(model: nn.Module) -> Tensor:
    batch = Batch(BATCH.item, BATCH.time, BATCH.length, BATCH.target, BATCH.user, extra={"session": torch.tensor([[1, 2], [3, 4], [5, 6]])})
    return NextSession()(model, batch).total


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    **{name: (make, codes) for name, make in GENERATORS.items()},
    "two_level": (lambda: TwoLevel(IDS, start=torch.randn(ITEMS, 16), content=torch.randn(ITEMS, 9), **SHAPE), codes),
    "two_level over HSTU": (lambda: TwoLevel(IDS, content=torch.randn(ITEMS, 9), **SHAPE, temporal=hstu()), codes),
    "parallel": (lambda: Parallel(IDS, start=torch.randn(ITEMS, 16), content=torch.randn(ITEMS, 9), **SHAPE), states),
    "session": (lambda: SessionGenerator(IDS, width=16, heads=2, head_width=8, encoder_layers=1, decoder_layers=1, feedforward=12,
                                         dropout=0.5, experts=3, active=2), session),
    "setrec": (lambda: SETRec(torch.randn(ITEMS, 5), torch.randn(ITEMS, 9), semantic=3, hidden=(12,), width=16, heads=2, head_width=8,
                              layers=2, feedforward=32, dropout=0.5), lambda model: model.after(BATCH, model.item_vectors())),
    "sasrec": (lambda: SASRec(ITEMS, **SHAPE), states),
    "hstu": (lambda: SASRec(ITEMS, width=16, temporal=hstu(), is_cosine=True), states),
}


def hstu() -> HSTU:
    return HSTU(16, layers=2, heads=2, head_width=8, dropout=0.5, max_length=10)


@pytest.mark.parametrize("name", MODELS)
def test_all_of_it_acts_in_training_and_none_in_use(name: str):
    torch.manual_seed(0)
    make, answer = MODELS[name]
    model, used = make().train(), set()
    for part in (found := [module for module in model.modules() if isinstance(module, Dropout)]):
        part.register_forward_hook(lambda module, inputs, output: used.add(id(module)))
    once, again = answer(model), answer(model)
    assert found
    assert used == {id(part) for part in found}
    assert not torch.equal(once, again)
    model.eval()
    torch.testing.assert_close(answer(model), answer(model), rtol=0, atol=0)
