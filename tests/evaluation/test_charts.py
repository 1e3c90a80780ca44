"""Charts put marks where the numbers say: known places, not pictures."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semid.evaluation import charts
from semid.evaluation.charts import Line, Score


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_and_cover_the_range(low, wide, about):
    marks = charts.ticks(low, low + wide, about)
    step = marks[1] - marks[0]
    assert step > 0
    assert marks[0] <= low + 1e-6 * step
    assert marks[-1] >= low + wide - 1e-6 * step
    assert 2 <= len(marks) <= about + 3


@pytest.mark.parametrize(("low", "high", "marks"), [
    (0, 0.081, [0, .025, .05, .075, .1]), (0, 4, [0, 1, 2, 3, 4]), (3, 3, [1, 2, 3, 4, 5]), (0, 0, [-.5, -.25, 0, .25, .5])])
def test_ticks_known(low, high, marks):
    assert charts.ticks(low, high) == pytest.approx(marks)


def test_thinning_keeps_the_mean_and_drops_what_is_not_finite():
    x, y = np.arange(1001.0), np.append(np.full(1000, 2.0), np.nan)
    short_x, short_y = charts.thin(x, y, 100)
    assert len(short_x) == 100
    assert (short_y == 2).all()
    assert short_x.mean() == pytest.approx(np.arange(1000).mean())


def test_labels_are_spread_in_order_and_inside():
    placed = charts.spread([50, 50, 52, 99], 14, 0, 100)
    assert placed == sorted(placed)
    assert min(np.diff(placed)) >= 14
    assert max(placed) <= 100


def test_columns_stand_on_zero_and_reach_their_value():
    picture = charts.column_chart(["g"], [5], {"a": [Score(1.0)], "b": [Score(.5, .25, .75)]}, label="x", height=230)
    boxes = [(float(y), float(h)) for y, h in re.findall(r'y="([\d.]+)" height="([\d.]+)"', picture)]
    (full_y, full), (half_y, half) = boxes
    assert full_y == 10
    assert half == pytest.approx(full / 2)
    assert full_y + full == half_y + half  # both stand on zero
    whisker = re.search(r'class="whisker".*?y1="([\d.]+)" y2="([\d.]+)"', picture)
    assert whisker
    assert float(whisker[2]) - float(whisker[1]) == pytest.approx(full / 2)


def test_the_hover_text_of_a_line_reads_all_lines():
    x = np.arange(1, 4) * 100.0
    picture = charts.line_chart([Line("loss", x, np.array([3., 2., 1.])), Line("part", x, np.array([6., 5., 4.]), 1)],
                                label="x", x_name="step")
    assert "<title>step 200\nloss: 2\npart: 5</title>" in picture


def test_an_empty_line_chart_is_nothing():
    assert charts.line_chart([Line("loss", np.array([]), np.array([]))], label="x", x_name="step") == ""


def test_no_whisker_leaves_the_scale():
    assert 'x2="100%"' in charts.bar_cell(Score(.5, .1, 9.0), 1.0, 0)
