"""Tables as shops have them: true and false, decimal commas, ids with lost zeros, products that left the table, double imports."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

import semid
from semid.data.where import mask
from semid.errors import DataError

EVENTS = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},{item:05d},{100 + user * 10 + item}\n" for user in range(3) for item in range(1, 5))


def shop(folder: Path, items: str, events: str = EVENTS, **reading) -> semid.data.read.Dataset:
    (folder / "events.csv").write_text(events)
    (folder / "items.csv").write_text(items)
    return semid.read(folder / "events.csv", folder / "items.csv", **reading)


def test_true_and_false_are_no_text_and_can_be_asked_for(tmp_path: Path):
    data = shop(tmp_path, "item_id,title,in_stock\n00001,pan,True\n00002,pot,false\n00003,lid,\n00004,cup,TRUE\n")
    assert list(data.catalog.text) == ["title"]
    assert mask(data.catalog, "in_stock").tolist() == [True, False, False, True]


@pytest.mark.parametrize("column", ["item", "product"])
def test_the_column_of_ids_is_no_text_whatever_its_name(tmp_path: Path, column: str):
    data = shop(tmp_path, f"{column},title\ni1,pan\ni2,pot\n", "user,item,time\na,i1,1\na,i2,2\n", item_id=column)
    assert data.catalog.text == {"title": ["pan", "pot"]}
    assert list(semid.data.read.read_items(tmp_path / "items.csv", item_id=column).text) == ["title"]


def test_decimal_commas_are_numbers_and_said_so_but_thousands_stay_text(tmp_path: Path):
    data = shop(tmp_path, "item_id;title;price;sold;near\n00001;pan;6,14;1,234;3,12\n00002;pot;20;2,000;4,7\n"
                          "00003;lid;-0,50;12;\n00004;cup;;7,500;2\n")
    assert data.catalog.table["price"].to_pylist() == [6.14, 20.0, -0.5, None]
    assert data.catalog.table["sold"].to_pylist() == ["1,234", "2,000", "12", "7,500"]
    assert data.catalog.table["near"].to_pylist() == ["3,12", "4,7", None, "2"]
    assert any("column 'price': decimal commas are read as numbers" in note for note in data.report.notes)
    with pytest.raises(DataError, match=r"the columns with text are .*sold.*: compare them with text in single quotes, or cast"):
        mask(data.catalog, "sold < 20")


def test_words_for_nothing_are_missing_whatever_the_column_holds(tmp_path: Path):
    data = shop(tmp_path, "item_id,title,price,stock\n00001,pan,NULL,1\n00002,None,2.5,nan\n00003,lid,3,<NA>\n00004,cup,nan,4\n")
    assert data.catalog.table["price"].to_pylist() == [None, 2.5, 3.0, None]
    assert data.catalog.table["stock"].to_pylist() == [1, None, None, 4]
    assert data.catalog.text == {"title": ["pan", "", "lid", "cup"]}


def test_dates_are_no_text_and_conditions_know_them(tmp_path: Path):
    data = shop(tmp_path, "item_id,title,released,seen,code\n00001,pan,2019-12-31,2024-01-31T10:00:00+02:00,2019-12-31x\n"
                          "00002,pot,2020-01-01,2024-01-31,2020-01-01\n"
                          "00003,lid,NULL,2024-01-31 09:30,2020-02-02\n00004,cup,2021-06-01,,\n")
    assert [str(data.catalog.table.schema.field(name).type) for name in ("released", "seen", "code")] == [
        "date32[day]", "timestamp[us]", "string"]
    assert data.catalog.table["seen"].to_pylist()[0] == datetime(2024, 1, 31, 8)
    assert list(data.catalog.text) == ["title", "code"]
    assert mask(data.catalog, "year(released) >= 2020").tolist() == [False, True, False, True]
    assert mask(data.catalog, "released < '2020-01-01'").tolist() == [True, False, False, False]


def test_numbers_that_are_none_satisfy_no_condition(tmp_path: Path):
    table = {"item_id": ["1", "2"], "price": np.array([float("nan"), 30.0]), "size": np.array([1, float("nan")], np.float32)}
    data = semid.read({"user": ["u", "u"], "item": ["1", "2"], "time": [1, 2]}, table)
    assert mask(data.catalog, "price > 20").tolist() == [False, True]
    assert data.catalog.table["size"].to_pylist() == [1.0, None]
    assert str(data.catalog.table.schema.field("size").type) == "float"


def test_ids_that_lost_their_zeros_are_told_by_that(tmp_path: Path):
    items = "item_id,title\n" + "".join(f"{item},thing {item}\n" for item in range(1, 5))
    with pytest.raises(DataError, match=r"ids of 4 of them differ by leading zeros alone, '00001' here and '1' there: write them alike"):
        shop(tmp_path, items)
    some = shop(tmp_path, items.replace("\n4,", "\n00004,"))
    assert any("3 of the 4 items of the events are not in" in warning and "differ by leading zeros" in warning
               for warning in some.report.warnings)


def test_products_that_left_the_table_can_be_left_out(tmp_path: Path):
    items = "item_id,title\n00001,pan\n00002,pot\n00004,cup\n"
    kept = shop(tmp_path, items)
    assert len(kept.catalog) == 4
    assert any("--unknown-items drop leaves them out" in warning for warning in kept.report.warnings)
    with pytest.raises(DataError, match="none was given; name one with --items"):
        semid.read(tmp_path / "events.csv", unknown_items="drop")
    left = shop(tmp_path, items, unknown_items="drop")
    assert left.catalog.items.ids.tolist() == ["00001", "00002", "00004"]
    assert len(left.interactions) == 9
    assert [(step.name, step.removed) for step in left.report.steps if step.name == "unknown items"] == [("unknown items", 3)]


def test_a_double_import_is_undone_and_people_who_buy_again_stay(tmp_path: Path):
    again = "u0,00001,900\n"  # bought once more, later
    with pytest.raises(DataError, match="duplicates=exact: want events with times"):
        shop(tmp_path, "item_id,title\n00001,pan\n", duplicates="exact", time="", order="file")
    data = shop(tmp_path, "item_id,title\n00001,pan\n", EVENTS + EVENTS.partition("\n")[2] + again, duplicates="exact")
    assert len(data.interactions) == 13
    assert [(step.name, step.removed) for step in data.report.steps if step.name == "duplicates"] == [("duplicates", 12)]
    kinds = "user_id,item_id,timestamp,action\nu,1,5,view\nu,1,5,buy\nu,1,5,buy\nu,2,6,view\n"
    assert len(shop(tmp_path, "item_id,title\n1,pan\n", kinds, action="action", duplicates="exact").interactions) == 3


KINDS = "user_id,item_id,timestamp,event\nu,1,105,view\nu,1,106,buy\nw,3,105,view\nu,2,107,view\nv,2,105,cart\nv,2,106,buy\n"


def test_kinds_of_events_are_told_and_chosen(tmp_path: Path):
    (tmp_path / "events.csv").write_text(KINDS)
    everything = semid.read(tmp_path / "events.csv")
    assert ("holds 3 kinds of events, which all train alike: 'view' (3), 'buy' (2), 'cart' (1); choose with --actions"
            in everything.report.warnings[0])
    bought = semid.read(tmp_path / "events.csv", actions=["buy"])
    step = bought.report.steps[1]
    assert (step.name, step.before, step.after, step.note) == ("kinds of events", 6, 2, "'buy' read alone")
    assert not bought.report.warnings
    (tmp_path / "bought.csv").write_text("".join(line for line in KINDS.splitlines(True) if "buy" in line or "user_id" in line))
    assert bought.fingerprint == semid.read(tmp_path / "bought.csv").fingerprint, "as if the other rows weren't there"
    assert semid.read(tmp_path / "events.csv", actions=["view", "buy", "cart"]).fingerprint == everything.fingerprint
    with pytest.raises(DataError, match=r"want kinds of column 'event', got 'bye' \(did you mean 'buy'\?\); it has: 'view', 'buy', 'cart'"):
        semid.read(tmp_path / "events.csv", actions="bye")
    with pytest.raises(DataError, match="no column of kinds was found among .*; name it with --action COLUMN"):
        semid.read(tmp_path / "events.csv", actions="buy", action="")


def test_another_encoding_is_told_as_that_and_not_as_rows_to_drop(tmp_path: Path):
    (tmp_path / "events.csv").write_text(EVENTS)
    (tmp_path / "items.csv").write_bytes("item_id,title\n00001,Küche\n00002,Töpfe\n00003,lid\n".encode("cp1252"))
    with pytest.raises(DataError, match="save the file as UTF-8: it seems to be in another encoding, such as Windows-1252"):
        semid.read(tmp_path / "events.csv", tmp_path / "items.csv")
