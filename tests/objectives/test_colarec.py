"""ColaRec's loss equals numpy on a fixed batch, and each part reaches what its sheet says it does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.generators.colarec import ColaRec as Generator
from semid.objectives.colarec import ColaRec
from semid.types import Batch, SemanticIds

ITEMS = 20
IDS = SemanticIds(np.stack(np.unravel_index(np.arange(ITEMS), (3, 4, 2)), axis=1).astype(np.int32), (3, 4, 2))


@pytest.fixture
def model() -> Generator:
    torch.manual_seed(0)
    words = torch.arange(ITEMS * 3).view(ITEMS, 3) % 11 - 1
    return Generator(IDS, words, num_words=10, num_users=6, width=16, heads=2, head_width=8, layers=1, feedforward=32, dropout=0.0)


def a_batch() -> Batch:
    histories = [[1, 2, 3], [4], [9, 8, 7, 6]]
    batch = history_batch([np.array(h) for h in histories], users=np.array([0, 1, 2]), max_history=10)
    batch.target[torch.arange(3), batch.length - 1] = torch.tensor([10, 11, 13])
    extra = {"rejected": torch.tensor([[0], [15], [2]]), "alike": torch.tensor([11, 10, 12]),
             "takers": torch.tensor([[0, 1, 2], [1, -1, 3], [2, 4, 5]])}
    return replace(batch, extra=extra)


def cross_entropy(logits: torch.Tensor, items: list[int]) -> float:
    """Mean over items and levels of -log p(code), in plain loops."""
    said = []
    for row, item in zip(logits.double().numpy(), items, strict=True):
        for level, code in enumerate(IDS.codes[item]):
            possible = row[level][np.isfinite(row[level])]
            said.append(np.log(np.exp(possible - possible.max()).sum()) + possible.max() - row[level][code])
    return float(np.mean(said))


def ranked(anchor: np.ndarray, better: np.ndarray, worse: np.ndarray) -> float:
    margin = (anchor * better).sum(1) - (anchor * worse).sum(1)
    return float(np.mean(-np.log(1 / (1 + np.exp(-margin)))))


@pytest.mark.parametrize("loss", [ColaRec(), ColaRec(0.3, 0.5, 0.7), ColaRec(has_index_task=False), ColaRec(contrast=0.0)])
def test_the_loss_equals_numpy(model, loss):
    batch = a_batch()
    found = loss(model, batch)
    with torch.no_grad():
        user = model.read_history(batch.item)
        chosen, rejected, alike = (model.read_items(torch.tensor(items), batch.extra["takers"][:, column])
                                   for column, items in enumerate(([10, 11, 13], [0, 15, 2], [11, 10, 12])))
        parts = {"user": cross_entropy(model.write(user, torch.tensor([10, 11, 13])), [10, 11, 13]),
                 "index": cross_entropy(model.write(chosen, torch.tensor([10, 11, 13])), [10, 11, 13])
                 + cross_entropy(model.write(rejected, torch.tensor([0, 15, 2])), [0, 15, 2])}
        states = [part.summary.double().numpy() for part in (user, chosen, rejected, alike)]
        parts |= {"bpr": ranked(states[0], states[1], states[2]), "contrast": ranked(states[1], states[3], states[2])}
    wanted = {"user", "bpr"} | ({"index"} if loss.has_index_task else set()) | ({"contrast"} if loss.contrast else set())
    assert set(found.parts) == wanted
    for name in wanted:
        assert found.parts[name].item() == pytest.approx(parts[name], rel=1e-5)
    weights = {"user": loss.generation, "index": loss.generation, "bpr": loss.ranking, "contrast": loss.contrast}
    assert found.total.item() == pytest.approx(sum(weights[name] * parts[name] for name in wanted), rel=1e-5)


def reached(model: Generator, loss: ColaRec) -> set[str]:
    """Which parts of the model get a gradient."""
    model.zero_grad()
    loss(model, a_batch()).total.backward()
    return {name for name in ("encoder", "decoder", "head", "input", "user")
            for parameter in [p for n, p in model.named_parameters() if n.split(".")[0] == name]
            if parameter.grad is not None and parameter.grad.abs().sum() > 0}


def test_the_comparisons_reach_the_reader_alone_and_the_codes_all_of_it(model):
    assert reached(model, ColaRec(0.0, 1.0, 0.1)) == {"encoder", "input", "user"}
    assert reached(model, ColaRec(0.08, 0.0, 0.0)) == {"encoder", "decoder", "head", "input", "user"}
    assert reached(model, ColaRec(0.08, 0.0, 0.0, has_index_task=False)) == {"encoder", "decoder", "head", "input"}


def test_the_alike_item_moves_nothing_but_the_contrast(model):
    batch = a_batch()
    other = replace(batch, extra=batch.extra | {"alike": torch.tensor([18, 1, 5])})
    before, after = ColaRec()(model, batch).parts, ColaRec()(model, other).parts
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"contrast"}
