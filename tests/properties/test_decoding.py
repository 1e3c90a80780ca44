"""What holds of decoding for every tree: random, with paths of unequal length, with items that share codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.decoding import fused, step
from semid.decoding.beam import beam_search
from semid.decoding.exhaustive import exhaustive, score_items
from semid.decoding.normalise import log_probabilities, pad_children
from semid.tree import CodeTree
from semid.types import SemanticIds
from tests.decoding.hashed import HashedGenerator, best, histories, path_scores, random_ids, tree_and_generator

USERS = [3, 8, 21]


@st.composite
def worlds(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    ids = random_ids(rng, draw(st.integers(1, 60)), sizes, padded=draw(st.booleans()))
    tree, generator = tree_and_generator(ids, draw(st.sampled_from([2, 1 << 20])))
    allowed = rng.random(len(ids)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) if draw(st.booleans()) else None
    seen = torch.from_numpy(rng.integers(-1, len(ids), (3, 5))) if draw(st.booleans()) else None
    weights = [0.3 + level for level in range(len(sizes))] if draw(st.booleans()) else None
    return ids, tree, generator, allowed, seen, draw(st.sampled_from(["vocabulary", "children"])), weights


def hide(scores: np.ndarray, allowed: np.ndarray | None, seen: torch.Tensor | None) -> np.ndarray:
    scores = scores.copy()
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    if seen is not None:
        for row, items in enumerate(seen.tolist()):
            scores[row, [item for item in items if item >= 0]] = -np.inf
    return scores


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_beams_as_wide_as_the_catalogue_equal_exhaustive_scoring(world):
    ids, tree, generator, allowed, seen, normalise, weights = world
    options = {"normalise": normalise, "level_weights": weights}
    scores = exhaustive(generator, histories(USERS), tree, max_rows=12, **options)
    found = beam_search(generator, histories(USERS), tree, beams=len(ids), k=len(ids) + 2, seen=seen,
                        constraint=None if allowed is None else tree.allow(allowed), **options)
    item, score = best(hide(scores.numpy(), allowed, seen), len(ids) + 2)
    assert found.item.tolist() == item.tolist()
    assert np.array_equal(found.logp.numpy(), score.astype(np.float32))
    assert torch.equal(found.codes, torch.where(found.item[..., None] < 0, -1, torch.from_numpy(ids.codes).long()[found.item]))


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_exhaustive_scores_equal_walking_each_path_alone(world):
    ids, tree, generator, _, _, normalise, weights = world
    scores = exhaustive(generator, histories(USERS[:1]), tree, normalise=normalise, level_weights=weights)
    np.testing.assert_allclose(scores.numpy(), path_scores(generator, ids, USERS[:1], normalise, weights), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(0, 1000))
def test_scores_of_given_items_equal_exhaustive_scoring(world, seed):
    ids, tree, generator, _, _, normalise, weights = world
    items = torch.from_numpy(np.random.default_rng(seed).integers(-1, len(ids), (len(USERS), 7)))
    options = {"normalise": normalise, "level_weights": weights}
    scores = exhaustive(generator, histories(USERS), tree, **options)
    want = scores.gather(1, items.clamp_min(0)).masked_fill(items < 0, -torch.inf)
    assert torch.equal(score_items(generator, histories(USERS), tree, items, **options), want)


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(0, 1000))
def test_following_codes_is_the_same_compiled(world, seed):
    """Children and log-probabilities, of padding and under NaN too."""
    ids, tree, *_, normalise, _ = world
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(ids.codes[rng.integers(len(ids), size=9)]).long()
    nodes = torch.cat([torch.zeros(9, 1, dtype=torch.int64), tree.node_of(codes)], dim=1)
    for level in range(tree.levels):
        logits = torch.from_numpy(rng.normal(size=(9, max(ids.sizes))).astype(np.float32))
        logits[0] = torch.nan
        parts = [way.follow(tree, level, logits, nodes[:, level].clone(), codes[:, level].contiguous(), normalise=normalise)
                 for way in (step, fused)]
        for child, logp in parts:
            assert torch.equal(child, nodes[:, level + 1])
            assert logp[0].isnan() or codes[0, level] < 0
        torch.testing.assert_close(parts[0][1], parts[1][1], rtol=0, atol=0, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(1, 8), st.integers(1, 8))
def test_a_batch_equals_its_rows_one_by_one(world, beams, k):
    _, tree, generator, allowed, seen, normalise, weights = world
    options = {"beams": beams, "k": k, "normalise": normalise, "level_weights": weights,
               "constraint": None if allowed is None else tree.allow(allowed)}
    together = beam_search(generator, histories(USERS), tree, seen=seen, **options)
    for row, user in enumerate(USERS):
        alone = beam_search(generator, histories([user]), tree, seen=None if seen is None else seen[row : row + 1], **options)
        assert torch.equal(alone.item[0], together.item[row])
        assert torch.equal(alone.logp[0], together.logp[row])


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(1, 8))
def test_no_beam_dies(world, beams):
    ids, tree, generator, allowed, seen, normalise, _ = world
    found = beam_search(generator, histories(USERS), tree, beams=beams, normalise=normalise, seen=seen,
                        constraint=None if allowed is None else tree.allow(allowed))
    left = (hide(np.zeros((len(USERS), len(ids))), allowed, seen) == 0).sum(1)
    assert (found.item >= 0).sum(1).tolist() == np.minimum(left, beams).tolist()
    assert (hide(np.zeros((len(USERS), len(ids) + 1)), None if allowed is None else np.append(allowed, True), seen)[
        np.arange(len(USERS))[:, None], found.item.numpy()] == 0).all()


@settings(max_examples=40, deadline=None)
@given(worlds(), st.integers(0, 1000))
def test_the_children_of_every_node_share_the_probability_one(world, seed):
    ids, tree = world[:2]
    for level in range(tree.levels):
        node = torch.arange(tree.num_nodes(level - 1) if level else 1)
        logits = torch.randn(len(node), max(ids.sizes), generator=torch.Generator().manual_seed(seed)) * 5
        share = log_probabilities(tree, level, logits, node, "children").exp()
        _, code, exists = pad_children(tree, level, node)
        codes = [set(c[e].tolist()) - {-1} for c, e in zip(code, exists, strict=True)]
        total = [sum(share[row, c].item() for c in each) for row, each in enumerate(codes) if each]
        assert total == pytest.approx([1] * len(total), abs=1e-5)


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_children_of_a_prefix_are_those_of_the_catalogue(world):
    ids, tree = world[:2]
    mask = tree.child_mask(torch.from_numpy(ids.codes).long())
    for item, path in enumerate(ids.codes):
        for level in range(ids.levels):
            under = ids.codes[(ids.codes[:, :level] == path[:level]).all(1), level]
            assert set(torch.nonzero(mask[item, level]).flatten().tolist()) == set(under[under >= 0].tolist())


@settings(max_examples=80, deadline=None)
@given(worlds())
def test_every_item_is_found_at_its_place(world):
    ids, tree = world[:2]
    rows = torch.arange(len(ids))
    position = tree.position_of(rows)
    assert torch.equal(tree.order.long()[position], rows)
    assert torch.equal(fused.position_of(tree, rows), position)
    nodes = tree.node_of(torch.from_numpy(ids.codes).long())
    for level in range(ids.levels - 1):
        begin, end = tree.interval(level, nodes[:, level])
        assert ((begin <= position) & (position < end)).all()
        assert (end - begin).tolist() == [(ids.codes[:, : level + 1] == path[: level + 1]).all(1).sum() for path in ids.codes]


@settings(max_examples=150, deadline=None)
@given(worlds(), st.integers(1, 12))
def test_the_fused_step_equals_the_plain_one(world, beams):
    _, tree, generator, allowed, seen, normalise, weights = world
    limit = step.prepare_limits(tree, None if allowed is None else tree.allow(allowed), seen, len(USERS))
    state, codes = generator.start(histories(USERS)), None
    frontier = step.Frontier(torch.zeros(len(USERS), 1, dtype=torch.int64), torch.zeros(len(USERS), 1))
    for level in range(tree.levels):
        logits, state = generator.step(state, codes)
        options = {"normalise": normalise, "weight": 1.0 if weights is None else weights[level], "limit": limit}
        plain, rows = step.expand(tree, level, logits, frontier, beams, **options)
        arrays = fused.Paths(frontier.node.numpy(), frontier.logp.numpy())
        quick, quick_rows = fused.expand(tree, level, logits, arrays, beams, **options)
        assert np.array_equal(quick.node, plain.node)
        assert np.array_equal(quick_rows, rows)
        np.testing.assert_allclose(quick.logp, plain.logp, atol=1e-6, rtol=0)
        if normalise == "vocabulary":
            assert np.array_equal(quick.logp, plain.logp)
        frontier, state = plain, state.select(rows)
        codes = tree.code[level][frontier.node.flatten()].long().clamp_min(0)


@settings(max_examples=100, deadline=None)
@given(worlds(), st.integers(1, 12), st.integers(1, 12))
def test_the_fused_search_equals_the_plain_one(world, beams, k):
    _, tree, generator, allowed, seen, normalise, weights = world
    constraint = None if allowed is None else tree.allow(allowed)
    widths = [min(beams, tree.num_nodes(level)) for level in range(tree.levels - 1)] + [k]
    limits, found = [], []
    for way in (step, fused):
        limits.append(way.prepare_limits(tree, constraint, seen, len(USERS)))
        found.append(way.search(generator, histories(USERS), tree, widths, normalise=normalise, weights=weights or [1.0] * tree.levels,
                                limit=limits[-1]))
    assert torch.equal(limits[0].seen, limits[1].seen)
    assert torch.equal(found[0].node, found[1].node)
    torch.testing.assert_close(found[1].logp, found[0].logp, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_ties_go_to_the_lower_item_row(dtype):
    codes = np.array([[1, 1], [0, 1], [1, 1], [0, 0], [1, 0]], dtype=dtype)
    tree = CodeTree.build(SemanticIds(codes, (2, 2)))
    found = beam_search(HashedGenerator((2, 2), values=1), histories([0]), tree, beams=5)
    assert found.item.tolist() == [[0, 1, 2, 3, 4]]
