"""DiscRec's layer in its place: its parameters as counted, its gradients, and codes of unequal length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.config import override
from semid.errors import ConfigError
from semid.generators.discrec import DiscRec
from semid.generators.encoder_decoder import EncoderDecoder
from semid.objectives.next_codes import NextCodes
from semid.recipes import discrec
from semid.types import Batch, SemanticIds


def a_batch() -> Batch:
    item = torch.tensor([[1, 2, 3], [4, 5, -1]])
    return Batch(item, torch.zeros_like(item), torch.tensor([3, 2]), torch.tensor([[-1, -1, 4], [-1, 6, -1]]), torch.tensor([0, 1]))


IDS = SemanticIds(np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=1).astype(np.int32), (2, 2, 2))
T5 = {"width": 16, "heads": 2, "head_width": 8, "feedforward": 32, "dropout": 0.0}


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model = DiscRec(IDS, layers=2, **T5)
    NextCodes()(model, a_batch()).total.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


def test_where_both_branches_say_the_same_it_is_plain_t5():
    """Embeddings that a norm leaves as they are, no positions, attention and feed-forward networks that add nothing; any gate is right."""
    torch.manual_seed(0)
    plain, model = EncoderDecoder(IDS, encoder_layers=2, decoder_layers=2, **T5), DiscRec(IDS, layers=2, **T5)
    with torch.no_grad():
        plain.embedding.weight.copy_(torch.nn.functional.layer_norm(plain.embedding.weight, (16,)))
        model.load_state_dict(plain.state_dict(), strict=False)
        for branch in (model.encoder_branch, model.decoder_branch):
            torch.nn.init.normal_(branch.gate)
            for parameter in (branch.position.weight, *branch.qkv.parameters(), *branch.feedforward[3].parameters()):
                parameter.zero_()
    torch.testing.assert_close(model.logits(a_batch()), plain.logits(a_batch()), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.nn.init.normal_(model.decoder_branch.position.weight)
    assert not torch.allclose(model.logits(a_batch()), plain.logits(a_batch()), atol=1e-2)


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
