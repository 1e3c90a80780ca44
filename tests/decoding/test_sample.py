"""Draws have the probabilities that exhaustive scores say, and repeat themselves where beams don't."""

from __future__ import annotations

import torch

from semid.decoding.beam import beam_search
from semid.decoding.exhaustive import exhaustive
from semid.decoding.sample import sample
from semid.tree import CodeTree
from semid.types import SemanticIds
from tests.objectives.generators import generator, one_target_each


def test_items_are_drawn_with_their_probability_among_real_ones():
    """Normalised over children the path probabilities of all items sum to 1, and are what draws must follow."""
    model, batch = generator("causal"), one_target_each(2)
    tree = CodeTree.build(SemanticIds(model.codes[:-1].short().numpy(), (4, 5, 6)))
    wanted = exhaustive(model, batch, tree, normalise="children").exp().detach()
    torch.testing.assert_close(wanted.sum(1), torch.ones(2))
    torch.manual_seed(0)
    drawn = sample(model, batch, tree, draws=20_000)
    share = torch.stack([torch.bincount(row, minlength=len(tree)) for row in drawn]) / 20_000
    assert (share - wanted).abs().max() < 5 * (wanted.max() / 20_000).sqrt()


def test_seen_items_are_never_drawn_and_draws_repeat_where_beams_do_not():
    model, batch = generator("causal"), one_target_each(4)
    tree = CodeTree.build(SemanticIds(model.codes[:-1].short().numpy(), (4, 5, 6)))
    torch.manual_seed(0)
    drawn = sample(model, batch, tree, draws=16, seen=batch.item)
    assert not (drawn[:, :, None] == batch.item[:, None]).any()
    distinct = lambda items: sum(len(row.unique()) for row in items) / items.numel()
    assert distinct(drawn) < 1
    assert distinct(beam_search(model, batch, tree, beams=16).item) == 1


def test_rows_that_have_seen_every_item_get_none_and_the_others_their_draws():
    model, batch = generator("causal"), one_target_each(2)
    tree = CodeTree.build(SemanticIds(model.codes[:-1].short().numpy(), (4, 5, 6)))
    seen = torch.arange(len(tree)).repeat(2, 1)
    seen[1, 1:] = -1
    drawn = sample(model, batch, tree, draws=8, seen=seen)
    assert (drawn[0] == -1).all()
    assert (drawn[1] > 0).all()


def test_items_that_share_a_code_share_its_probability():
    model, batch = generator("causal"), one_target_each(2)
    codes = model.codes[:-1].short().numpy().copy()
    codes[1] = codes[2] = codes[0]
    tree, alone = CodeTree.build(SemanticIds(codes, (4, 5, 6))), CodeTree.build(SemanticIds(codes[2:], (4, 5, 6)))
    wanted = exhaustive(model, batch, alone, normalise="children").exp().detach()
    torch.manual_seed(0)
    drawn = (sample(model, batch, tree, draws=20_000) - 2).clamp_min(0)
    share = torch.stack([torch.bincount(row, minlength=len(alone)) for row in drawn]) / 20_000
    assert (share - wanted).abs().max() < 5 * (wanted.max() / 20_000).sqrt()
