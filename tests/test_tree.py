import numpy as np
import pytest
import torch

from semid.errors import ConfigError, DataError
from semid.tree import CodeTree
from semid.types import SemanticIds

#            a       b        c       d       e (same as c)  f (ends early)
CODES = [[2, 0], [0, 1], [2, 1], [0, 0], [2, 1], [2, -1]]


@pytest.fixture
def tree():
    return CodeTree.build(SemanticIds(np.array(CODES, dtype=np.int16), (3, 2)))


def test_items_are_sorted_by_code_then_row(tree):
    assert tree.order.tolist() == [3, 1, 5, 0, 2, 4]


def test_nodes_hold_their_children_and_intervals(tree):
    assert [code.tolist() for code in tree.code] == [[0, 2], [0, 1, -1, 0, 1, 1]]
    assert [first.tolist() for first in tree.first] == [[0, 2], [0, 2, 6]]
    assert [begin.tolist() for begin in tree.begin] == [[0, 2, 6]]
    assert [tree.num_nodes(level) for level in range(2)] == [2, 6]


def test_node_of_finds_prefixes_and_reports_missing_ones(tree):
    nodes = tree.node_of(torch.tensor([[2, 1], [0, 0], [1, 0], [2, -1], [0, 7]]))
    assert nodes.tolist() == [[1, 4], [0, 0], [-1, -1], [1, 2], [0, -1]]


def test_child_mask_ignores_padding_and_sharing(tree):
    mask = tree.child_mask(torch.tensor([[2, 1], [0, 1], [1, 1]]))
    assert mask.int().tolist() == [[[1, 0, 1], [1, 1, 0]], [[1, 0, 1], [1, 1, 0]], [[1, 0, 1], [0, 0, 0]]]


def test_a_constraint_counts_allowed_items_in_sorted_order(tree):
    constraint = tree.allow(np.array([True, False, False, True, True, False]))
    assert [cum.tolist() for cum in constraint.cum] == [[0, 1, 3], [0, 1, 1, 1, 2, 2, 3]]


def test_a_mask_of_the_wrong_length_is_refused(tree):
    with pytest.raises(ConfigError, match="want a bool mask of 6 items"):
        tree.allow(np.ones(5, dtype=bool))


def test_sets_and_empty_catalogues_have_no_tree():
    with pytest.raises(DataError, match="sequence"):
        CodeTree.build(SemanticIds(np.zeros((2, 2), dtype=np.int16), (3, 2), order="set"))
    with pytest.raises(DataError, match="at least one item"):
        CodeTree.build(SemanticIds(np.zeros((0, 2), dtype=np.int16), (3, 2)))


@pytest.mark.parametrize(("size", "padded", "dtype"), [(256, False, torch.uint8), (256, True, torch.int16),
                                                      (257, False, torch.int16), (40_000, False, torch.int32)])
def test_codes_take_the_narrowest_type(size, padded, dtype):
    codes = np.array([[0, 0], [size - 1, -1 if padded else 1]], dtype=np.int32)
    tree = CodeTree.build(SemanticIds(codes, (size, size)))
    assert all(code.dtype == dtype for code in tree.code)
    assert tree.position_of(torch.tensor([1, 0])).tolist() == [1, 0]


def test_a_million_items_take_less_than_12_bytes_each():
    rng = np.random.default_rng(0)
    tree = CodeTree.build(SemanticIds(rng.integers(0, 256, (1_000_000, 4)).astype(np.int16), (256,) * 4))
    assert tree.nbytes < 12 * len(tree)


def random_ids(rows: int, sizes: tuple[int, ...], seed: int, *, is_padded: bool = False) -> SemanticIds:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, rows) for size in sizes], axis=1).astype(np.int16)
    if is_padded:
        codes[rng.random(rows) < 0.3, -1] = -1
    return SemanticIds(codes, sizes)


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize(("known", "sizes"), [(1, (3, 3)), (40, (4, 3, 5)), (300, (6, 40, 3)), (50, (60,))])
def test_inserting_items_gives_the_tree_of_all_of_them(known, sizes, is_padded):
    ids = random_ids(known + 30, sizes, seed=known, is_padded=is_padded and len(sizes) > 1)
    old = CodeTree.build(SemanticIds(ids.codes[:known], sizes))
    grown, expected = old.insert(ids), CodeTree.build(ids)
    for name in ("order", "codes"):
        assert torch.equal(getattr(grown, name), getattr(expected, name)), name
    for name in ("code", "first", "begin"):
        for level, (ours, theirs) in enumerate(zip(getattr(grown, name), getattr(expected, name), strict=True)):
            assert torch.equal(ours, theirs), (name, level)
    for level in range(len(sizes)):
        number = old.renumbered(level, grown)
        assert torch.equal(old.code[level].int(), grown.code[level][number].int())
        assert len(number.unique()) == old.num_nodes(level)
    last = old.renumbered(len(sizes) - 1, grown)
    assert torch.equal(grown.order[last], old.order)
