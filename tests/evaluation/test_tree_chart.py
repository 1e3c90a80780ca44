"""The icicle: every item lies in exactly one cell of each level it reaches, merged cells say how many they stand for."""

import json

import numpy as np
import pytest

from semid.evaluation.tree_chart import Tree, arrange, cells, icicle, said, top_codes, tree_data, tree_order

CODES = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [2, 0], [2, 1], [2, 2], [2, 3]], dtype=np.int16)


def test_heavier_siblings_come_first():
    order = tree_order(CODES, np.array([1.0, 1, 1, 9, 1, 1, 1, 1]))
    assert CODES[order, 0].tolist() == [1, 2, 2, 2, 2, 0, 0, 0]
    assert order.tolist() == [3, 4, 5, 6, 7, 1, 2, 0]


def test_cells_of_a_hand_made_tree():
    edge = np.arange(9) / 8
    codes = CODES[tree_order(CODES, np.ones(8))]  # 2 (four leaves), 0 (one pair, one leaf), 1
    got = [(c.level, c.begin, c.end, c.merged) for c in cells(codes, edge, narrow=0.2)]
    assert sorted(got) == [(0, 0, 4, 1), (0, 4, 7, 1), (0, 7, 8, 1), (1, 0, 4, 4), (1, 4, 6, 1), (1, 6, 7, 1)]


@pytest.mark.parametrize("narrow", [0.0, 0.002, 0.05, 2.0])
def test_items_are_covered_once_at_every_level(narrow):
    rng = np.random.default_rng(3)
    codes = np.stack([rng.geometric(.2, 500), rng.geometric(.3, 500), rng.integers(0, 9, 500)], axis=1)
    drawn = arrange(Tree(codes, ["t"] * 500, weight=rng.random(500)))
    for level in range(3):
        seen = np.zeros(500, dtype=int)
        for cell in cells(drawn.codes, drawn.edge, narrow):
            reaches = cell.level == level or (cell.merged > 1 and cell.level < level)
            seen[cell.begin:cell.end] += reaches
        assert seen.max() <= 1
        if narrow == 0:
            assert seen.min() == 1


def test_codes_that_end_early_leave_a_gap():
    codes = np.array([[0, -1], [0, 3]])
    drawn = arrange(Tree(codes, ["a", "b"]))
    assert [(c.level, c.end - c.begin) for c in cells(drawn.codes, drawn.edge, 0.0)] == [(0, 2), (1, 1)]


def test_the_hover_text_names_code_number_category_and_titles():
    tree = Tree(CODES, list("abcdefgh"), weight=np.arange(8.0), category=["x", "x", "", "y", "y", "y", "y", "y"])
    drawn = arrange(tree)
    first = cells(drawn.codes, drawn.edge, 0.0)[0]
    assert said(drawn, first).replace("\u202f", " ").split("\n") == ["2 · 4 items · 100 % y", "h", "g", "f", "e"]
    everything = cells(drawn.codes, drawn.edge, 2.0)[0]
    assert said(drawn, everything).startswith("+3 more codes · 8 items")
    assert said(drawn, everything).endswith("\n+3 more")


def test_top_codes_are_the_heaviest():
    drawn = arrange(Tree(CODES, list("abcdefgh")))
    assert [(code, size) for code, size, _, _ in top_codes(drawn, most=2)] == [(2, 4), (0, 3)]


def test_the_data_survive_html_and_json():
    title = "</script><!-- & \ud800"
    text = tree_data(arrange(Tree(CODES, [title] * 8)))
    assert "<" not in text
    assert json.loads(text)["titles"][0] == "</script><!-- & ?"
    assert json.loads(text)["codes"] == arrange(Tree(CODES, [""] * 8)).codes.T.tolist()


def test_widths_of_the_first_level_add_up_to_the_whole():
    svg = icicle(arrange(Tree(CODES, ["t"] * 8)))
    assert svg.count('y="0" width=') == 2 * 3  # a box and the frame of its label for each of three codes
    assert 'x="87.5%" y="0" width="12.5%"' in svg
