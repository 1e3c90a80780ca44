import numpy as np
import pytest
import torch

from semid.decoding.beam import beam_search
from semid.errors import ConfigError, SemidError
from semid.tree import CodeTree
from semid.types import SemanticIds
from tests.decoding.hashed import HashedGenerator, best, histories, path_scores, random_ids, tree_and_generator


class Table:
    """Logits of two levels, given: log of first[code] and of second[first code][code]."""

    def __init__(self, first, second):
        self.tables = [torch.tensor([first]).log(), torch.tensor(second).log()]

    def start(self, batch):
        self.rows = len(batch)
        return self

    def select(self, rows):
        return self

    def step(self, state, codes):
        return (self.tables[0].expand(self.rows, -1) if codes is None else self.tables[1][codes]), self


IDS = SemanticIds(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int16), (2, 2))
TABLE = Table([0.6, 0.4], [[0.5, 0.5], [0.9, 0.1]])


def test_scores_are_products_of_conditional_probabilities():
    found = beam_search(TABLE, histories([0]), CodeTree.build(IDS), beams=4)
    assert found.item.tolist() == [[2, 0, 1, 3]]
    assert found.logp.exp().flatten().tolist() == pytest.approx([0.36, 0.30, 0.30, 0.04])


def test_a_narrow_beam_loses_what_a_wide_one_finds():
    assert beam_search(TABLE, histories([0]), CodeTree.build(IDS), beams=1).item.tolist() == [[0]]


def test_k_may_exceed_the_beams():
    found = beam_search(TABLE, histories([0]), CodeTree.build(IDS), beams=1, k=3)
    assert found.item.tolist() == [[0, 1, -1]]
    assert found.codes.tolist() == [[[0, 0], [0, 1], [-1, -1]]]


def test_a_forced_code_costs_nothing_when_children_are_normalised():
    tree = CodeTree.build(SemanticIds(np.array([[0, 0], [1, 0], [1, 1]], dtype=np.int16), (2, 2)))
    for normalise, want in (("vocabulary", 0.3), ("children", 0.6)):
        found = beam_search(TABLE, histories([0]), tree, beams=3, normalise=normalise)
        assert dict(zip(found.item[0].tolist(), found.logp[0].exp().tolist()))[0] == pytest.approx(want)


def test_normalising_over_children_ignores_the_constraint():
    tree = CodeTree.build(IDS)
    found = beam_search(TABLE, histories([0]), tree, beams=4, constraint=tree.allow(np.arange(4) == 3), normalise="children")
    assert found.item.tolist() == [[3, -1, -1, -1]]
    assert found.logp[0, 0].exp() == pytest.approx(0.04)


def test_items_that_share_their_codes_come_together_lowest_row_first():
    tree = CodeTree.build(SemanticIds(np.array([[1, 0], [0, 0], [1, 0], [1, 0]], dtype=np.int16), (2, 2)))
    found = beam_search(TABLE, histories([0]), tree, beams=2, k=4)
    assert found.item.tolist() == [[0, 2, 3, 1]]
    assert found.logp[0].exp().tolist() == pytest.approx([0.36, 0.36, 0.36, 0.30])


def test_a_path_that_ends_early_costs_nothing_more():
    tree = CodeTree.build(SemanticIds(np.array([[0, -1], [0, 1], [1, 0]], dtype=np.int16), (2, 2)))
    found = beam_search(TABLE, histories([0]), tree, beams=3)
    assert dict(zip(found.item[0].tolist(), found.logp[0].exp().tolist())) == pytest.approx({0: 0.6, 1: 0.3, 2: 0.36})


def test_seen_items_are_counted_once_and_only_where_allowed():
    tree = CodeTree.build(IDS)
    seen = torch.tensor([[0, 0, -1, 3], [1, -1, -1, -1]])  # 3 isn't allowed anyway, 0 is listed twice
    allowed = tree.allow(np.array([True, True, True, False]))
    found = beam_search(TABLE, histories([0, 1]), tree, beams=2, constraint=allowed, seen=seen)
    assert found.item.tolist() == [[2, 1], [2, 0]]


def test_a_large_catalogue_agrees_with_walking_each_path():
    ids = random_ids(np.random.default_rng(0), 400, (16, 16, 16))
    tree, generator = tree_and_generator(ids)
    found = beam_search(generator, histories([5]), tree, beams=400, k=20)
    item, score = best(path_scores(generator, ids, [5], "vocabulary"), 20)
    assert found.item.tolist() == item.tolist()
    np.testing.assert_allclose(found.logp.numpy(), score, atol=1e-5)


def test_the_same_input_gives_the_same_bits():
    tree, generator = tree_and_generator(random_ids(np.random.default_rng(1), 500, (8, 8, 8)), values=4)
    runs = [beam_search(generator, histories([1, 2]), tree, beams=20) for _ in range(2)]
    assert torch.equal(runs[0].item, runs[1].item)
    assert torch.equal(runs[0].logp, runs[1].logp)


@pytest.mark.parametrize(("options", "message"), [
    ({"beams": 0}, "beams and k: want at least 1"),
    ({"beams": 2, "normalise": "leaves"}, "normalise: want 'vocabulary' or 'children', got 'leaves'"),
    ({"beams": 2, "level_weights": [1.0]}, "level_weights: want 2 finite numbers > 0"),
    ({"beams": 2, "level_weights": [1.0, 0.0]}, "level_weights: want 2 finite numbers > 0"),
])
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        beam_search(TABLE, histories([0]), CodeTree.build(IDS), **options)


@pytest.mark.parametrize("normalise", ["vocabulary", "children"])
def test_logits_that_are_not_numbers_are_reported(normalise):
    broken = Table([0.6, 0.4], [[float("nan"), 0.5], [0.9, 0.1]])
    with pytest.raises(SemidError, match="NaN"):
        beam_search(broken, histories([0]), CodeTree.build(IDS), beams=4, normalise=normalise)


def test_fewer_items_than_beams_leave_padding():
    found = beam_search(HashedGenerator((2, 2)), histories([0]), CodeTree.build(IDS), beams=6)
    assert found.item[0, 4:].tolist() == [-1, -1]
    assert found.logp[0, 4:].tolist() == [-float("inf")] * 2
    assert found.codes.shape == (1, 6, 2)
