"""DiscRec's layer in its place: its parameters as counted, its gradients, and codes of unequal length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.config import override
from semid.errors import ConfigError
from semid.generators.discrec import DiscRec
from semid.objectives.next_codes import NextCodes
from semid.recipes import discrec
from semid.types import Batch, SemanticIds


def a_batch() -> Batch:
    item = torch.tensor([[1, 2, 3], [4, 5, -1]])
    return Batch(item, torch.zeros_like(item), torch.tensor([3, 2]), torch.tensor([[-1, -1, 4], [-1, 6, -1]]), torch.tensor([0, 1]))


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    ids = SemanticIds(np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=1).astype(np.int32), (2, 2, 2))
    model = DiscRec(ids, width=16, heads=2, head_width=8, layers=2, feedforward=32, dropout=0.0)
    NextCodes()(model, a_batch()).total.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


def test_the_layer_has_the_parameters_counted_by_hand_and_the_base_as_many():
    ids = SemanticIds(np.zeros((1, 4), np.int32), (256,) * 4)
    count = lambda variant: sum(p.numel() for p in discrec.build(override(discrec.Config(), variant), ids).parameters())
    plain, full = count({"has_branches": False}), count({})
    width, wide = 128, 1024
    norms, qkv, feedforward, gate, positions = 4 * width, 3 * width * (width + 1), 2 * width * wide + wide + width, 2 * width, 4 * width
    assert full - plain == 2 * (norms + qkv + feedforward + gate + positions)
    assert abs(count(discrec.VARIANTS["base"]) / full - 1) < 1e-3
    assert count(discrec.VARIANTS["no_positions"]) == full - 2 * positions
    assert count(discrec.VARIANTS["no_local_attention"]) == full - 2 * qkv
    assert count(discrec.VARIANTS["no_gate"]) == full - 2 * gate


def test_settings_that_do_not_fit_are_told_so():
    with pytest.raises(ConfigError, match="want T5 over the codes of items alone, got letter.is_two_level"):
        override(discrec.Config(), {"letter.is_two_level": True})
    with pytest.raises(ConfigError, match="want branch_heads that divide letter.tiger.width, got 3 and 128"):
        override(discrec.Config(), {"branch_heads": 3})
