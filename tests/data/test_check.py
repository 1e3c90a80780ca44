"""Statistics by hand on six events."""

import io
import json

import pytest
from rich.console import Console

from semid.data.check import check
from semid.data.read import read

BASE = 1_600_000_000 // 86_400 * 86_400
EVENTS = {"user_id": ["u", "u", "u", "u", "v", None], "item_id": ["x", "y", "x", "x", "x", "x"],
          "timestamp": [BASE, BASE, BASE + 100, BASE + 100, BASE + 3 * 86_400, BASE]}
ITEMS = {"item_id": ["x", "y", "idle"], "title": ["X", "[b]Y[/b]", None]}


@pytest.fixture(scope="module")
def checked():
    return check(read(EVENTS, ITEMS, on_bad_rows="drop"))


def test_statistics_equal_counts_by_hand(checked):
    s = checked.statistics
    assert (s.users, s.items, s.events) == (2, 3, 5)
    assert s.density == 3 / 4  # distinct pairs ux, uy, vx over 2 users and 2 items with events
    assert s.repeat_rate == pytest.approx(2 / 5)
    assert s.exact_duplicates == 1
    assert s.same_time_share == pytest.approx(2 / 3)
    assert s.same_day_share == 1.0
    assert (s.single_event_users, s.short_users, s.cold_items, s.items_without_text) == (1, 1, 1, 1)
    assert s.history_length == {"min": 1, "25%": 1, "50%": 1, "75%": 1, "95%": 1, "max": 4}
    assert (s.first_day, s.last_day) == ("2020-09-13", "2020-09-16")
    assert s.popular_share == 4 / 5


def test_a_check_is_plain_json(checked):
    found = json.loads(json.dumps(checked.to_dict()))
    assert found["statistics"]["events"] == 5
    assert found["report"]["num_bad_rows"] == 1


def test_rendering_shows_choices_steps_statistics_and_bad_rows(checked):
    out = io.StringIO()
    Console(file=out, width=160).print(checked.render())
    shown = out.getvalue()
    for part in ("events user = 'user_id' (guessed)", "bad rows", "no user id",
                 "users with one event", "2020-09-13 to 2020-09-16"):
        assert part in shown


def test_an_ordinal_has_no_days():
    s = check(read({"user": ["u"], "item": ["x"], "position": [3]})).statistics
    assert (s.first_day, s.same_day_share, s.views) == (None, None, {})
