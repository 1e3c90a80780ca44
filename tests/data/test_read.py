"""`read`: order, identity of ids, every bad row accounted for."""

import json
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.data.read import read
from semid.errors import DataError
from semid.types import TEST, TRAIN, VALID, Protocol

EVENTS = {"user_id": ["b", "a", "b", "a"], "item_id": ["x", "y", "z", "x"], "timestamp": [30, 20, 10, 20]}
DAY = 86_400
BASE = 1_600_000_000


def events(**columns):
    return {"user_id": ["u", "u"], "item_id": ["x", "y"], "timestamp": [BASE, BASE + 1], **columns}


def told(data):
    """(user id, item id, time) of every event, in order."""
    e = data.interactions
    return list(zip(e.users.ids[e.user].tolist(), e.items.ids[e.item].tolist(), e.time.tolist()))


def complaint(*args, **options):
    with pytest.raises(DataError) as error:
        read(*args, **options)
    return str(error.value)


def test_events_are_sorted_by_user_and_time_and_ties_keep_source_order():
    assert told(read(EVENTS)) == [("b", "z", 10), ("b", "x", 30), ("a", "y", 20), ("a", "x", 20)]


def test_users_and_items_are_numbered_by_first_appearance_and_the_items_table_comes_first():
    data = read(EVENTS, {"item_id": ["z", "w", "x"]})
    assert data.interactions.users.ids.tolist() == ["b", "a"]
    assert data.catalog.items.ids.tolist() == ["z", "w", "x", "y"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=60))
def test_order_equals_python_stable_sort(rows):
    users, items, times = ([f"k{row[k]}" if k < 2 else BASE + row[k] for row in rows] for k in range(3))
    data = read({"user": users, "item": items, "timestamp": times})
    first = {user: place for place, user in reversed(list(enumerate(users)))}
    want = sorted(zip(users, items, times), key=lambda row: (first[row[0]], row[2]))
    assert told(data) == want


def test_position_wins_over_time_and_a_contradiction_makes_time_an_ordinal():
    agreeing = read(events(position=[0, 1]))
    assert agreeing.interactions.time_unit == "seconds"
    data = read(events(position=[5, 3]))
    assert told(data) == [("u", "y", 3), ("u", "x", 5)]
    assert data.interactions.time_unit == "ordinal"
    assert "contradicts" in data.report.warnings[0]


def test_position_orders_ties_of_equal_times():
    data = read({"user_id": ["u"] * 3, "item_id": list("xyz"), "timestamp": [BASE] * 3, "position": [2, 0, 1]})
    assert told(data) == [("u", "y", BASE), ("u", "z", BASE), ("u", "x", BASE)]


def test_file_order_must_be_asked_for():
    table = {"user_id": ["u", "v", "u"], "item_id": ["x", "y", "z"]}
    message = complaint(table)
    assert "no time or position column" in message
    assert "--order file" in message
    assert told(read(table, order="file")) == [("u", "x", 0), ("u", "z", 2), ("v", "y", 1)]


@pytest.mark.parametrize(("times", "unit"), [
    ([BASE, BASE + 1], "seconds"), ([BASE * 1000 + 999, BASE * 1000 + 1000], "milliseconds"),
    ([BASE * 10**6, (BASE + 1) * 10**6], "microseconds"), ([BASE * 10**9, (BASE + 1) * 10**9], "nanoseconds"),
    ([float(BASE) + 0.5, float(BASE) + 1.5], "seconds"), ([f"{BASE}", f"{BASE + 1}.25"], "seconds"),
    (["2020-09-13T12:26:40Z", "2020-09-13 12:26:41"], "dates"),
    (["2020-09-13T14:26:40+02:00", "2020-09-13T12:26:41.5Z"], "dates"),
    ([pd.Timestamp(BASE, unit="s"), pd.Timestamp(BASE + 1, unit="s")], "dates")])
def test_times_of_every_unit_become_utc_seconds(times, unit):
    data = read(pd.DataFrame(events(timestamp=times)))
    assert data.interactions.time.tolist() == [BASE, BASE + 1]
    assert any(unit in note for note in data.report.notes)


@pytest.mark.parametrize(("times", "want"), [
    ([20240201, 20240131], ["2024-02-01", "2024-01-31"]), (["20240201", "20240131"], ["2024-02-01", "2024-01-31"]),
    ([202402011015, 202401310000], ["2024-02-01T10:15", "2024-01-31"]),
    ([20240201101530.0, 20240131000001.0], ["2024-02-01T10:15:30", "2024-01-31T00:00:01"])])
def test_numbers_that_spell_dates_are_dates(times, want):
    data = read(events(timestamp=times))
    assert data.interactions.time_unit == "seconds"
    assert data.interactions.time.tolist() == sorted(int(pd.Timestamp(day).timestamp()) for day in want)
    assert any("spell dates" in note for note in data.report.notes)


def test_a_few_numbers_that_look_like_dates_are_an_order():
    assert read(events(timestamp=[20240131, 20249999])).interactions.time_unit == "ordinal"


def test_exact_duplicates_have_equal_times_as_given_not_equal_seconds():
    table = {"user_id": ["u"] * 3, "item_id": ["x"] * 3, "timestamp": [BASE * 1000 + 100, BASE * 1000 + 100, BASE * 1000 + 900]}
    assert len(read(table, duplicates="exact").interactions) == 2


def test_order_inside_a_second_survives():
    data = read(events(timestamp=[BASE * 1000 + 900, BASE * 1000 + 100]))
    assert told(data) == [("u", "y", BASE), ("u", "x", BASE)]


def test_plain_dates_and_amazon_dates_are_read():
    for day, text in (("2014-07-23", "2014-07-23"), ("2014-07-23", "07 23, 2014")):
        data = read({"reviewerID": ["u"], "asin": ["x"], "reviewTime": [text]})
        assert data.interactions.time.tolist() == [int(pd.Timestamp(day).timestamp())]


def test_small_numbers_are_an_order_and_the_report_says_so():
    data = read(EVENTS)
    assert data.interactions.time_unit == "ordinal"
    assert any("an order, not times" in note for note in data.report.notes)


def test_integer_float_and_text_ids_meet_as_decimal_text():
    items = {"item_id": [1, 2]}
    for ids in (["1", "2"], [1, 2], [1.0, 2.0]):
        data = read(events(item_id=ids), items)
        assert data.catalog.items.ids.tolist() == ["1", "2"]
        assert data.interactions.item.tolist() == [0, 1]
    assert "no event" not in " ".join(data.report.warnings)


def test_text_ids_written_as_floats_lose_their_zero_only_if_all_have_it():
    assert read(events(item_id=["1.0", "2.0"])).catalog.items.ids.tolist() == ["1", "2"]
    assert read(events(item_id=["1.0", "2.1"])).catalog.items.ids.tolist() == ["1.0", "2.1"]
    assert read(events(item_id=["007", "7"])).catalog.items.ids.tolist() == ["007", "7"]


def test_blanks_around_ids_make_no_new_ones_and_are_counted():
    data = read(events(user_id=["u", " u"], item_id=["x\u00a0", "\ty"]), {"item_id": [" x", "y "]})
    assert data.interactions.users.ids.tolist() == ["u"]
    assert data.catalog.items.ids.tolist() == ["x", "y"]
    assert [note.rpartition(": ")[2] for note in data.report.notes if "blanks" in note] == [
        "blanks around 2 ids are left out", "blanks around 1 ids are left out", "blanks around 2 ids are left out"]
    assert "no item id" in complaint(events(item_id=["x", " NULL "]))


def test_ids_that_a_spreadsheet_has_shortened_are_told():
    warning, = read(events(item_id=["1.23457E+12", "1,2E+5"])).report.warnings
    assert "2 ids are in scientific notation, such as '1" in warning
    assert not read(events(item_id=["1E5", "ABE+12"])).report.warnings


def test_ids_that_share_nothing_are_an_error_with_examples():
    message = complaint(events(), {"item_id": ["p", "q"]})
    assert "none of its items is in" in message
    assert "'x' here, 'p' there" in message


@pytest.mark.parametrize(("column", "values", "reason"), [
    ("user_id", [None, "u"], "no user id"), ("user_id", [" ", "u"], "no user id"),
    ("user_id", [float("nan"), 3.0], "no user id"),
    ("item_id", ["", "x"], "no item id"), ("item_id", ["nan", "x"], "no item id"),
    ("timestamp", [None, BASE], "no time"), ("timestamp", [-5, BASE], "negative"),
    ("timestamp", ["soon", str(BASE)], "not a time"),
    ("timestamp", [0, BASE], "a time before 1990: another unit than the rest, or missing?"),
    ("timestamp", [BASE, BASE * 1000], "seconds and milliseconds, say, are mixed"),
    ("timestamp", ["1970-01-01", "2024-01-01"], "a time before 1990"),
    ("timestamp", [4_000_000_000, BASE], "future"), ("timestamp", [float("nan"), float(BASE)], "no"),
    ("rating", [float("nan"), 1.0], "not a finite number"), ("rating", ["five", "1"], "not a finite number"),
    ("rating", [float("inf"), 1.0], "not a finite number"), ("position", [0.5, 1.0], "not a whole number"),
    ("split", ["train", "training set"], "want train, valid or test")])
def test_each_kind_of_bad_row_is_named_and_can_be_dropped(column, values, reason):
    table = pa.table(events(**{column: values}))
    bad_line = 2 if column == "split" else 1
    message = complaint(table)
    assert f"events:{bad_line}: {column} = " in message
    assert reason in message
    assert "--on-bad-rows drop" in message
    data = read(table, on_bad_rows="drop")
    (bad,) = data.report.bad_rows.to_pylist()
    assert (bad["line"], bad["column"]) == (bad_line, column)
    assert data.report.rows_in == data.report.rows_kept + data.report.bad_rows.num_rows == 2


def test_rows_up_to_a_day_ahead_are_no_future():
    import time
    data = read(events(timestamp=[BASE, int(time.time()) + DAY // 2]))
    assert len(data.interactions) == 2


def test_a_row_with_two_faults_is_reported_once():
    data = read(events(user_id=[None, "u"], timestamp=[-1, BASE]), on_bad_rows="drop")
    assert data.report.bad_rows.num_rows == 1


def test_the_message_lists_twenty_rows_and_the_total():
    table = {"user_id": ["u"] + [None] * 50, "item_id": ["x"] * 51, "timestamp": [BASE] * 51}
    message = complaint(table)
    assert message.startswith("50 bad rows:")
    assert message.count("no user id") == 20
    assert "30 more" in message
    assert read(table, on_bad_rows="drop").report.bad_rows.num_rows == 50


def test_all_rows_bad_is_an_error_even_when_dropping():
    assert "nothing is left" in complaint(events(user_id=["", None]), on_bad_rows="drop")


def test_items_only_in_events_keep_empty_attributes_and_are_counted():
    data = read(events(item_id=["new", "x"]), {"item_id": ["x", "idle"], "title": ["X", None], "price": [1.5, 2.0]})
    assert data.catalog.items.ids.tolist() == ["x", "idle", "new"]
    assert data.catalog.table.to_pylist() == [{"item_id": "x", "title": "X", "price": 1.5},
                                              {"item_id": "idle", "title": None, "price": 2.0},
                                              {"item_id": "new", "title": None, "price": None}]
    assert data.catalog.text == {"title": ["X", "", ""]}
    text = " ".join(data.report.warnings)
    assert "1 of the 2 items of the events are not in" in text
    assert "2 items have no text" in text
    assert any("1 items have no event" in note for note in data.report.notes)


def test_text_is_strings_and_lists_of_strings_but_no_ids():
    items = pa.table({"item_id": ["x", "y"], "title": ["T", None], "categories": [["a", "b"], None], "imdb_id": ["1", "2"],
                      "letter_sid": [["<a_1>"], ["<a_2>"]], "year": [1, 2]})
    assert read(events(), items).catalog.text == {"title": ["T", ""], "categories": ["a, b", ""]}
    frame = pd.DataFrame({"item_id": ["x", "y"], "kind": pd.Categorical(["book", None])})
    assert read(events(), frame).catalog.text == {"kind": ["book", ""]}
    assert read(events(), items, text=["imdb_id"]).catalog.text == {"imdb_id": ["1", "2"]}
    assert read(events(), items, text="imdb_id").catalog.text == {"imdb_id": ["1", "2"]}
    assert "did you mean 'title'" in complaint(events(), items, text=["titel"])
    assert "want strings" in complaint(events(), items, text=["year"])


@pytest.mark.parametrize("name", ["title", "Title", "NAME", "product_name", "itemName", "Product Title"])
def test_titles_are_found_by_any_usual_name_also_where_no_encoder_reads_them(name):
    items = {"item_id": ["x", "y"], name: ["A pan", None], "words": ["p", "q"]}
    assert read(events(), items).catalog.titles == ["A pan", "y"]
    assert read(events(), items, text=["words"]).catalog.titles == ["A pan", "y"]


def test_numbers_are_no_titles():
    assert read(events(), {"item_id": ["x", "y"], "name": [1, 2]}).catalog.titles == ["x", "y"]


def test_bad_item_rows_are_reported_and_dropped():
    items = {"item_id": ["x", None, "x", "y"], "title": ["first", "none", "second", "Y"]}
    message = complaint(events(), items)
    assert "no item id" in message
    assert "an item id that an earlier row has" in message
    data = read(events(), items, on_bad_rows="drop")
    assert data.catalog.text["title"] == ["first", "Y"]
    assert [(s.table, s.before, s.after) for s in data.report.steps] == [("events", 2, 2), ("items", 4, 2)]


def test_duplicates_are_kept_cut_or_refused():
    table = {"user_id": ["u"] * 3 + ["v"], "item_id": ["x", "y", "x", "x"], "timestamp": [BASE, BASE + 1, BASE + 2, BASE]}
    times = {policy: [t - BASE for _, _, t in told(read(table, duplicates=policy))] for policy in ("keep", "first", "last")}
    assert times == {"keep": [0, 1, 2, 0], "first": [0, 1, 0], "last": [1, 2, 0]}
    message = complaint(table, duplicates="error")
    assert message.startswith("1 bad row:")
    assert "events:3: item_id = 'x': the user has this item already" in message


def test_k_core_is_iterated_and_drops_items_from_the_catalogue():
    # z has two events, but one is by w, who has no other: w leaves, then z, then v; u and t stay with x and y.
    table = {"user_id": ["u", "u", "t", "t", "v", "v", "w"], "item_id": ["x", "y", "x", "y", "x", "z", "z"],
             "timestamp": list(range(BASE, BASE + 7))}
    data = read(table, {"item_id": ["idle", "x", "y", "z"], "title": ["I", "X", "Y", "Z"]}, user_core=2, item_core=2)
    assert data.interactions.users.ids.tolist() == ["u", "t"]
    assert data.catalog.items.ids.tolist() == ["x", "y"]
    assert data.catalog.text["title"] == ["X", "Y"]
    step = data.report.steps[-1]
    assert (step.name, step.before, step.after) == ("k-core", 7, 4)
    assert "3 rounds" in step.note


def test_core_survivors_all_meet_the_threshold():
    rng = np.random.default_rng(0)
    table = {"user": rng.integers(0, 40, 400), "item": rng.integers(0, 40, 400),
             "timestamp": rng.integers(BASE, BASE + 99, 400)}
    e = read(table, user_core=5, item_core=6).interactions
    assert 0 < len(e) < 400
    assert np.diff(e.offsets).min() >= 5
    assert e.counts.min() >= 6


def test_minimum_history_and_steps_account_for_every_row():
    table = {"user_id": ["u", "u", "u", "v", None], "item_id": ["x", "x", "y", "x", "x"], "timestamp": [BASE] * 5}
    report = read(table, on_bad_rows="drop", duplicates="first", min_events=2).report
    assert [(s.name, s.before, s.after) for s in report.steps] == [
        ("bad rows", 5, 4), ("duplicates", 4, 3), ("least events of a user", 3, 2)]
    assert report.rows_in == report.rows_kept + sum(step.removed for step in report.steps)


def test_filters_that_leave_nothing_say_which_step_removed_what():
    assert "least events of a user" in complaint(events(), min_events=9)


def test_action_value_and_split_arrive_with_their_types():
    data = read(events(event_type=["view", "buy"], rating=[1, 5], split=["train", "Validation"]))
    e = data.interactions
    assert [data.report.actions[code] for code in e.action] == ["view", "buy"]
    assert (e.action.dtype, e.value.dtype, e.split.dtype) == (np.int16, np.float32, np.int8)
    assert e.value.tolist() == [1.0, 5.0]
    assert e.split.tolist() == [TRAIN, VALID]
    assert TEST not in e.split


def test_every_kind_of_table_gives_the_same_data(tmp_path):
    table = pa.table(events(rating=[1.5, 2.5]))
    pq = tmp_path / "e.parquet"
    duckdb.from_arrow(table).write_parquet(str(pq))
    frame = table.to_pandas()
    frame.index = [7, 9]
    connection = duckdb.connect()
    kinds = [table, frame, pl.from_arrow(table), connection.sql(f"SELECT * FROM '{pq}'"), table.to_pydict(), pq, str(pq)]
    prints = {read(kind).fingerprint for kind in kinds}
    assert len(prints) == 1


def test_the_fingerprint_changes_with_any_value():
    base = {"events": events(), "items": {"item_id": ["x", "y"], "title": ["X", "Y"]}}
    prints = [read(base["events"], base["items"]).fingerprint,
              read(events(timestamp=[BASE, BASE + 2]), base["items"]).fingerprint,
              read(base["events"], {"item_id": ["x", "y"], "title": ["X", "Z"]}).fingerprint,
              read(events(user_id=["w", "w"]), base["items"]).fingerprint, read(events()).fingerprint]
    assert len(set(prints)) == len(prints)
    assert all(len(p) == 16 and int(p, 16) >= 0 for p in prints)
    assert read(base["events"], base["items"]).fingerprint == prints[0]


def test_views_follow_the_items_table_and_unseen_items_get_zeros(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[1, 2], [3, 4]], dtype=np.float16))
    items = {"item_id": ["y", "idle"]}
    data = read(events(), items, views={"v": tmp_path / "v.npy", "w": np.ones((2, 3))})
    assert data.catalog.view("v").tolist() == [[1, 2], [3, 4], [0, 0]]
    assert data.catalog.view("w").dtype == np.float32
    assert "want 2 rows" in complaint(events(), items, views={"v": np.ones((3, 2))})
    assert "item 'idle'" in complaint(events(), items, views={"v": np.array([[0.0], [np.nan]])})
    assert "none was given" in complaint(events(), views={"v": np.ones((2, 2))})
    (tmp_path / "broken.npy").write_bytes(b"not an array")
    assert "broken.npy" in complaint(events(), items, views={"v": tmp_path / "broken.npy"})
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object))
    assert "objects.npy" in complaint(events(), items, views={"v": tmp_path / "objects.npy"})


def test_a_folder_brings_its_items_and_features(tmp_path):
    pd.DataFrame(events()).to_csv(tmp_path / "interactions.csv", index=False)
    pd.DataFrame({"item_id": ["x", "y"], "title": ["X", "Y"]}).to_parquet(tmp_path / "items.parquet")
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features" / "cf.npy", np.eye(2, dtype=np.float32))
    data = read(tmp_path)
    assert data.catalog.text == {"title": ["X", "Y"]}
    assert data.catalog.view("cf").tolist() == [[1, 0], [0, 1]]


def test_the_split_of_a_dataset_carries_its_fingerprint():
    table = {"user_id": ["u"] * 4, "item_id": list("wxyz"), "timestamp": list(range(BASE, BASE + 4))}
    data = read(table)
    split = data.split(Protocol())
    assert split.fingerprint == data.fingerprint
    assert data.interactions.items.ids[split.test.target].tolist() == ["z"]


def test_unknown_options_and_tables_of_no_kind_are_refused():
    assert "on_bad_rows: want one of" in complaint(events(), on_bad_rows="skip")
    assert "user_core: want 0 or more" in complaint(events(), user_core=-1)
    assert "want a path or a pandas" in complaint(3)
    assert "call .collect() first" in complaint(pl.LazyFrame(events()))
    assert "cannot be read as one type" in complaint(pd.DataFrame(events(item_id=["x", 1])))
    assert "want strings or whole numbers as ids" in complaint(events(item_id=[["x"], ["y"]]))
    assert "want Unix time" in complaint(events(timestamp=["soon", "later"]))
    assert "cannot be read as one type" in complaint(events(item_id=[1, 2**64]))
    assert "got an empty column" in complaint(events(user_id=[None, None]))
    assert "at least one event" in complaint(pa.table(events()).slice(0, 0))
    assert "none was given" in complaint(events(), text=["title"])


def test_the_report_is_plain_json_and_readable():
    report = read(events(user_id=[None, "u"]), {"item_id": ["x", "y"]}, on_bad_rows="drop").report
    assert json.loads(json.dumps(report.to_dict()))["num_bad_rows"] == 1
    lines = report.lines()
    assert "events user = 'user_id' (guessed)" in lines
    assert any(line.startswith("events, bad rows: 2 -> 1 rows") for line in lines)


def test_importing_the_reader_imports_neither_torch_nor_data_frames():
    code = ("import sys, semid.data.read, semid.data.check, semid.data.where; "
            "print([m for m in ('torch', 'pandas', 'polars') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
