"""Sessions: a search that keeps every session finds what brute force does; every item real, allowed and once."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from semid.decoding.session import session_search
from semid.errors import ConfigError
from semid.generators.session import SessionGenerator
from semid.objectives.session import session_log_probabilities
from semid.tree import CodeTree
from semid.types import SemanticIds
from tests.objectives.generators import one_target_each

ITEMS = 6


def world() -> tuple[SessionGenerator, CodeTree]:
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 2], [2, 1]], np.int16)
    ids = SemanticIds(codes, (3, 3))
    torch.manual_seed(0)
    model = SessionGenerator(ids, width=16, heads=2, head_width=8, encoder_layers=1, decoder_layers=1, feedforward=16, experts=3, active=2)
    for parameter in model.parameters():  # sure of its choices, so that sessions differ
        parameter.data *= 1.5
    return model.eval(), CodeTree.build(ids)


def histories(rows: int = 2):
    batch = one_target_each(rows)
    return replace(batch, item=torch.where(batch.item < 0, batch.item, batch.item % ITEMS))


@torch.no_grad()
def brute_force(model, batch, items: int, allowed) -> list[list[tuple[float, tuple[int, ...]]]]:
    """Per row all sessions of different allowed items, best first."""
    every = list(itertools.permutations(allowed, items))
    sessions = torch.tensor(every)[None].expand(len(batch), -1, -1)
    logp = session_log_probabilities(model, batch, sessions).sum((2, 3)).tolist()
    return [sorted(zip(row, every, strict=True), reverse=True) for row in logp]


@pytest.mark.parametrize("items", [1, 2, 3])
def test_a_search_that_keeps_every_session_equals_brute_force(items):
    (model, tree), batch = world(), histories()
    found = session_search(model, batch, tree, items=items, beams=120)
    for row, wanted in enumerate(brute_force(model, batch, items, range(ITEMS))):
        assert [tuple(s) for s in found.item[row, : len(wanted)].tolist()] == [s for _, s in wanted]
        np.testing.assert_allclose(found.logp[row, : len(wanted), -1].numpy(), [p for p, _ in wanted], atol=1e-4)
        assert (found.item[row, len(wanted) :] < 0).any(1).all()
        assert (found.logp[row, len(wanted) :, -1] == -torch.inf).all()


def test_scores_along_a_session_never_rise():
    (model, tree), batch = world(), histories()
    found = session_search(model, batch, tree, items=4, beams=5, width=3)
    assert (found.logp[..., 1:] <= found.logp[..., :-1]).all()
    assert (found.logp[:, 1:, -1] <= found.logp[:, :-1, -1]).all()


def test_items_are_allowed_unseen_and_in_a_session_once():
    (model, tree), batch = world(), histories()
    allowed = np.array([True, True, False, True, True, True])
    seen = torch.tensor([[0, -1], [4, 5]])
    found = session_search(model, batch, tree, items=3, beams=10, constraint=tree.allow(allowed), seen=seen)
    for row, hidden in enumerate([{0, 2}, {4, 5, 2}]):
        wanted = brute_force(model, batch, 3, [item for item in range(ITEMS) if item not in hidden])[row][:10]
        got = [tuple(s) for s in found.item[row].tolist() if min(s) >= 0]
        assert got[0] == wanted[0][1]
        assert all(len(set(s)) == 3 and not set(s) & hidden for s in got)
    assert (found.item[1] >= 0).all(1).sum() == 6  # three items are left: six orders


def test_where_the_catalogue_gives_out_sessions_end():
    (model, tree), batch = world(), histories()
    found = session_search(model, batch, tree, items=ITEMS + 1, beams=2)
    assert (found.item[..., -1] == -1).all()
    assert (found.item[..., : ITEMS].sort(-1).values == torch.arange(ITEMS)).all()


def test_a_search_for_nothing_is_refused():
    model, tree = world()
    with pytest.raises(ConfigError, match="want at least one item, one beam and a width of one, got 0, 2 and 2"):
        session_search(model, histories(), tree, items=0, beams=2)
