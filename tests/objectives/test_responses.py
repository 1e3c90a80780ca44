from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semid.objectives.responses import Responses


def test_loss_is_the_mean_over_tokens_of_minus_log_p():
    scores = np.random.default_rng(0).normal(size=(5, 7))
    token = np.array([0, 6, 2, 2, 3])
    model = SimpleNamespace(responses=lambda batch: (torch.from_numpy(scores).float(), torch.from_numpy(token)))
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    loss = Responses()(model, None)
    assert loss.total.item() == pytest.approx(-np.log(share[np.arange(5), token]).mean(), rel=1e-5)
    assert loss.signals["accuracy"].item() == pytest.approx((scores.argmax(1) == token).mean())
