"""Following candidates from a history that was read once equals log-softmax of `logits` with each as the target."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from semid.objectives.paths import frozen, paths
from tests.objectives.generators import KINDS, generator, one_target_each


def one_by_one(model, batch, items):
    """[B, C, L] by teacher forcing, one candidate at a time."""
    out = []
    for c in range(items.shape[1]):
        target = torch.where(batch.target >= 0, items[:, c, None], -1)
        logp = torch.log_softmax(model.logits(replace(batch, target=target)), dim=-1)
        codes = model.codes[items[:, c]].long()
        out.append(logp.gather(2, codes.clamp_min(0)[..., None]).squeeze(2).masked_fill(codes < 0, 0.0))
    return torch.stack(out, dim=1)


@pytest.mark.parametrize(("kind", "has_padding"), [*((kind, False) for kind in KINDS), ("encoder_decoder", True), ("causal", True)])
def test_paths_equal_teacher_forcing_in_values_and_gradients(kind, has_padding):
    model, batch = generator(kind, has_padding=has_padding), one_target_each()
    items = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(row))[:5] for row in range(len(batch))])
    weight = torch.randn(len(batch), 5, 3, generator=torch.Generator().manual_seed(1))
    ours = paths(model, batch, items)
    if kind == "causal":  # its targets inside a history must be the items that follow; these are asked for after it
        batch = replace(batch, target=torch.where(torch.arange(batch.item.shape[1]) == batch.length[:, None] - 1, 0, -1))
    theirs = one_by_one(model, batch, items)
    torch.testing.assert_close(ours.logp, theirs, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.is_code, model.codes[items] >= 0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = [torch.autograd.grad((logp * weight).sum(), parameters, allow_unused=True) for logp in (ours.logp, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(torch.zeros(1) if a is None else a, torch.zeros(1) if b is None else b, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_entropy_is_that_of_each_level_and_pads_have_none():
    model, batch = generator("encoder_decoder"), one_target_each(2)
    found = paths(model, batch, torch.tensor([[3, -1], [5, 9]]))
    share = torch.softmax(model.logits(replace(batch, target=torch.where(batch.target >= 0, 5, -1)))[1], dim=-1)
    wanted = -(share * share.clamp_min(1e-30).log()).sum(-1)
    torch.testing.assert_close(found.entropy[1, 0], wanted, atol=1e-4, rtol=1e-4)
    assert (found.logp[0, 1] == 0).all()
    assert (found.entropy[0, 1] == 0).all()
    assert not found.is_code[0, 1].any()


def test_a_frozen_copy_stays():
    model = generator("two_level")
    reference = frozen(model.train())
    with torch.no_grad():
        model.code[0].add_(1)
    assert not torch.equal(reference.code[0], model.code[0])
    assert not any(p.requires_grad for p in reference.parameters())
    assert not reference.training
    assert model.training
