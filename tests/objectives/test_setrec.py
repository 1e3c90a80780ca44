"""SETRec's loss equals numpy on a fixed batch, and reaches every part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.generators.setrec import SETRec as Generator
from semid.objectives.setrec import SETRec

ITEMS = 12


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_the_loss_equals_numpy(causal, alpha):
    torch.manual_seed(0)
    cf, text = torch.randn(ITEMS, 5), torch.randn(ITEMS, 9)
    model = Generator(cf, text, semantic=2, hidden=(12,), width=16, heads=2, head_width=8, layers=1, feedforward=32, dropout=0.0,
                      causal=causal)
    batch = history_batch([np.array([3, 7, 5]), np.array([1, 3])], max_history=10)
    batch.target[:] = torch.tensor([[7 if causal else -1, -1, 9], [-1, 4, -1]])
    found = SETRec(alpha)(model, batch)

    vectors = model.item_vectors()
    states = model.supervised(batch, vectors).double().detach().numpy()
    targets = [7, 9, 4] if causal else [9, 4]
    said = []
    for row, target in zip(states, targets, strict=True):
        for slot in range(3):
            logits = vectors[:, slot].double().detach().numpy() @ row[slot]
            said.append(np.log(np.exp(logits).sum()) - logits[target])
    assert found.parts["items"].item() == pytest.approx(np.mean(said), rel=1e-5)
    assert model.decode is not None
    errors = [((model.decode(vectors[item, 1:].flatten()) - text[item]) ** 2).mean().item() for item in (3, 7, 5, 1, 3)]
    assert found.parts["content"].item() == pytest.approx(np.mean(errors), rel=1e-5)
    assert found.total.item() == pytest.approx(np.mean(said) + alpha * np.mean(errors), rel=1e-5)

    found.total.backward()
    untouched = {name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    # a query that sees itself alone has one weight to give: what it is compared by has no gradient
    alone = {"decoder.blocks.0.attention.query.weight", "decoder.bias.table.weight"}
    assert untouched - alone == (set() if alpha else {name for name in untouched if name.startswith("decode.")})


def test_without_content_there_is_nothing_to_read_back():
    model = Generator(torch.randn(ITEMS, 5), None, width=16, heads=2, head_width=8, layers=1, feedforward=32)
    batch = history_batch([np.array([3, 7, 5])], max_history=10)
    batch.target[0, 2] = 9
    assert SETRec()(model, batch).parts["content"] == 0
