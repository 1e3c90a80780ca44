"""Files of every kind, and everything that can be wrong with a file."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from semid.data.letter import codes_of_tokens, read_index_json
from semid.data.read import read
from semid.errors import DataError
from semid.types import IdMap

BASE = 1_600_000_000
FRAME = pd.DataFrame({"user_id": ["u", "v", "u"], "item_id": ["x", "y", "z"],
                      "timestamp": [BASE + 2, BASE, BASE + 1], "rating": [1.0, 2.5, 3]})
ITEMS = pd.DataFrame({"item_id": ["x", "y", "z"], "title": ["one, two", 'say "hi"', "line\nbreak"], "price": [1.5, 2.0, 3.25],
                      "stock": [1, 2, 3], "zip": ["007", "010", "100"]})


def written(frame, path):
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        plain = path.with_name(name)
        frame.to_parquet(plain)
        if path.name.endswith(".gz"):
            path.write_bytes(gzip.compress(plain.read_bytes()))
    elif name.endswith("jsonl"):
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    return path


def text(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def complaint(*args, **options):
    with pytest.raises(DataError) as error:
        read(*args, **options)
    return str(error.value)


def bad_rows(*args, **options):
    report = read(*args, on_bad_rows="drop", **options).report
    assert report.rows_in == report.rows_kept + sum(step.removed for step in report.steps if step.table == "events")
    return [(row["line"], row["column"], row["value"], row["reason"]) for row in report.bad_rows.to_pylist()]


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl", "parquet.gz", "csv.gz", "tsv.gz", "jsonl.gz"])
def test_every_format_gives_the_same_data(tmp_path, ending):
    data = read(written(FRAME, tmp_path / f"e.{ending}"), written(ITEMS, tmp_path / f"i.{ending}"))
    want = read(FRAME, ITEMS)
    assert data.fingerprint == want.fingerprint
    assert data.interactions.value.tolist() == [3.0, 1.0, 2.5]
    assert data.catalog.text == want.catalog.text
    assert data.catalog.table.column("zip").to_pylist() == ["007", "010", "100"]
    assert [str(data.catalog.table.schema.field(n).type) for n in ("price", "stock")] == ["double", "int64"]


def test_semicolons_quotes_crlf_blank_lines_and_a_byte_order_mark_are_understood(tmp_path):
    path = text(tmp_path / "e.csv", b'\xef\xbb\xbf"user_id";"item_id";"timestamp"\r\n'
                                    b'"u;1";x;1600000000\r\n\r\nu2;"y""z";1600000001\r\n')
    data = read(path)
    assert data.interactions.users.ids.tolist() == ["u;1", "u2"]
    assert data.catalog.items.ids.tolist() == ["x", 'y"z']


def test_excel_says_its_delimiter_in_a_line_before_the_header(tmp_path):
    path = text(tmp_path / "e.csv", "sep=;\r\nuser_id;item_id;timestamp;a, b, c\r\nu;x;1600000000;1\r\n;y;1600000000;2\r\nu;z\r\n")
    assert [(line, column) for line, column, _, _ in bad_rows(path)] == [(4, "user_id"), (5, "(line)")]
    assert "e.csv:2: want columns separated by '|'" in complaint(text(path, "sep=|\nuser_id;item_id\nu;x\n"))


def test_delimiters_inside_quotes_are_not_counted(tmp_path):
    data = read(text(tmp_path / "e.csv", 'user_id;item_id;timestamp;"a, b, c, d, e"\nu;x;1600000000;1\n'))
    assert data.report.rows_kept == 1


def test_a_delimiter_at_the_end_of_each_line_is_no_column(tmp_path):
    closed = text(tmp_path / "e.csv", "user_id,item_id,timestamp,\nu,x,1600000000,\nu,y,1600000001,\nu,z\n")
    items = text(tmp_path / "i.csv", "item_id;title;\nx;X;\ny;Y;\n")
    data = read(closed, items, on_bad_rows="drop")
    assert data.catalog.table.column_names == ["item_id", "title"]
    assert [(row["line"], row["column"]) for row in data.report.bad_rows.to_pylist()] == [(4, "(line)")]
    assert ":1: want a name for each column, got none for the last one, which holds values such as 'X1'" in complaint(
        closed, text(items, "item_id;title;\nx;X;\ny;Y;X1\n"))


def test_decimal_commas_of_ratings_are_numbers(tmp_path):
    rows = "user_id;item_id;timestamp;rating\nu;x;1600000000;4,5\nu;y;1600000001;3\n"
    data = read(text(tmp_path / "e.csv", rows))
    assert data.interactions.value.tolist() == [4.5, 3.0]
    assert any("column 'rating': decimal commas are read as numbers" in note for note in data.report.notes)
    assert bad_rows(text(tmp_path / "e.csv", rows + "v;x;1600000000;?\n")) == [(4, "rating", "?", "not a finite number")]
    assert "not a finite number" in complaint(text(tmp_path / "e.csv", rows + "v;x;1600000000;1,234\n"))


def test_recbole_files_lose_their_types_and_split_their_sequences(tmp_path):
    text(tmp_path / "toy.inter",
         "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\tx\t4.0\t1600000000.0\nu\ty\t5\t1600000001\n")
    text(tmp_path / "toy.item", 'item_id:token\ttitle:token_seq\tprice:float\nx\tA "quoted word\t1.5\ny\tB\t\n')
    data = read(tmp_path)
    assert data.interactions.value.tolist() == [4.0, 5.0]
    assert data.catalog.table.column("title").to_pylist() == [["A", '"quoted', "word"], ["B"]]
    assert data.catalog.table.column("price").to_pylist() == [1.5, None]


def test_letter_folders_are_read_in_the_order_of_their_sequences(tmp_path):
    (tmp_path / "T.inter.json").write_text(json.dumps({"0": [2, 0], "1": [1, 0, 2]}))
    (tmp_path / "T.item.json").write_text(json.dumps(
        {"0": {"title": "A", "brand": "b"}, "1": {"title": "B"}, "2": {"brand": 3}}))
    (tmp_path / "T.index.json").write_text(json.dumps(
        {"0": ["<a_1>", "<b_0>"], "1": ["<a_0>", "<b_2>"], "2": ["<a_1>", "<b_1>"]}))
    data = read(tmp_path)
    e = data.interactions
    assert list(zip(e.user.tolist(), e.item.tolist())) == [(0, 2), (0, 0), (1, 1), (1, 0), (1, 2)]
    assert e.time_unit == "ordinal"
    assert data.catalog.text == {"title": ["A", "B", ""], "brand": ["b", "", "3"]}
    ids = read_index_json(tmp_path / "T.index.json", data.catalog.items)
    assert ids.codes.tolist() == [[1, 0], [0, 2], [1, 1]]
    assert ids.sizes == (2, 3)
    assert read_index_json(tmp_path / "T.index.json", data.catalog.items, sizes=(256, 256)).sizes == (256, 256)


def test_an_index_with_missing_repeated_or_unknown_items_says_so(tmp_path, caplog):
    path = text(tmp_path / "T.index.json", '{"a": ["<a_1>"], "b": ["<a_0>"]}')
    assert len(read_index_json(path, IdMap(["b"]))) == 1
    assert "1 of 2 items are not in the catalogue, the first 'a'" in caplog.text
    with pytest.raises(DataError, match="got none for 1, the first 'c'"):
        read_index_json(path, IdMap(["a", "c"]))
    text(path, '{"a": ["<a_1>"], "a": ["<a_0>"]}')
    with pytest.raises(DataError, match="'a' appears twice"):
        read_index_json(path, IdMap(["a"]))


@pytest.mark.parametrize("tokens", [["<b_1>"], ["a_1"], ["<a_1>", "<a_2>"], [-1, 2], [1.5], []])
def test_tokens_that_are_no_codes_are_refused(tokens):
    with pytest.raises(DataError, match="item 'x'"):
        codes_of_tokens([tokens], IdMap(["x"]), "s")


def test_plain_numbers_are_codes():
    ids = codes_of_tokens([[12, 7, 1], [12, 0, 3]], IdMap(["x", "y"]), "s")
    assert ids.codes.tolist() == [[12, 7, 1], [12, 0, 3]]
    assert ids.sizes == (13, 8, 4)


def test_missing_files_offer_the_nearest_name(tmp_path):
    written(FRAME, tmp_path / "events.csv")
    assert "no such file (did you mean 'events.csv'?)" in complaint(tmp_path / "event.csv")
    assert "no such file" in complaint(tmp_path / "events.csv", tmp_path / "nowhere" / "items.csv")


@pytest.mark.parametrize("name", ["e.csv", "e.parquet", "e.jsonl", "e.tsv.gz", "e.inter"])
def test_empty_files_are_named(tmp_path, name):
    text(tmp_path / name, gzip.compress(b"") if name.endswith("gz") else b"")
    assert "the file is empty" in complaint(tmp_path / name)


def test_a_header_without_rows_is_named(tmp_path):
    assert "at least one event" in complaint(text(tmp_path / "e.csv", "user_id,item_id,timestamp\n"))


@pytest.mark.parametrize(("name", "content", "hint"), [
    ("e.csv", "user_id::item_id::timestamp\n1::2::3\n", "comma, tab, semicolon or bar"),
    ("e.tsv", "user_id,item_id,timestamp\n1,2,3\n", "it looks separated by commas")])
def test_a_wrong_delimiter_is_told_from_the_header(tmp_path, name, content, hint):
    message = complaint(text(tmp_path / name, content))
    assert ":1: want columns separated by" in message
    assert hint in message


@pytest.mark.parametrize(("header", "want"), [
    ("who,item_id,timestamp", "no user column found among 'who', 'item_id', 'timestamp'; name it with --user"),
    ("user_id,what,timestamp", "no item column found"), ("user_id,item_id,when", "no time or position column found")])
def test_a_missing_column_is_named_with_its_option(tmp_path, header, want):
    assert want in complaint(text(tmp_path / "e.csv", f"{header}\na,b,{BASE}\n"))


def test_lines_the_parser_refuses_are_bad_rows_with_their_true_line(tmp_path):
    path = text(tmp_path / "e.csv", b'\xef\xbb\xbfuser_id,item_id,timestamp\nu,x,1600000000\n\n"u\n1",y,1600000001\n'
                                    b'u,z\nu,w,1,2\n,q,1600000003\n'
                                    b'u,\xff,1600000000\nu,last,soon\n')
    found = bad_rows(path)
    assert [(line, column) for line, column, _, _ in found] == [(6, "(line)"), (7, "(line)"), (8, "user_id"), (9, "(line)"),
                                                                (10, "timestamp")]
    assert found[0][2] == "u,z"
    assert "Expected Number of Columns: 3 Found: 2" in found[0][3]
    assert found[-1][2:] == ("soon", "not a time; want Unix time or ISO 8601")
    message = complaint(path)
    assert f"{path}:6: (line) = 'u,z'" in message


def test_lines_that_are_no_json_objects_are_bad_rows_with_their_true_line(tmp_path):
    good = json.dumps({"user": 1, "item": "x", "time": BASE})
    nobody = json.dumps({"user": None, "item": "x", "time": BASE})
    path = text(tmp_path / "e.jsonl", f'{good}\n\n{{"user": 2 broken\n[1, 2]\n{good}\n{nobody}\n')
    found = bad_rows(path)
    assert [(line, column, reason) for line, column, _, reason in found] == [
        (3, "(line)", "not a JSON object"), (4, "(line)", "not a JSON object"), (6, "user", "no user id")]


def test_json_that_is_not_lines_is_refused(tmp_path):
    assert "want JSON Lines" in complaint(text(tmp_path / "e.json", '[\n1,\n2\n]\n'))
    assert "not JSON" in complaint(text(tmp_path / "e.inter.json", "{"))
    assert "want {user: [item, ...]}" in complaint(text(tmp_path / "e.inter.json", '{"u": 3}'))


def test_bad_rows_are_written_to_a_file(tmp_path):
    path = text(tmp_path / "e.csv", f"user_id,item_id,timestamp\nu,x,{BASE}\n,y,{BASE}\n")
    report = read(path, on_bad_rows="drop").report
    report.write_bad_rows(tmp_path / "bad.csv")
    assert pd.read_csv(tmp_path / "bad.csv").to_dict("records")[0]["line"] == 3
    with pytest.raises(DataError, match="cannot be written"):
        report.write_bad_rows(tmp_path / "no" / "bad.csv")


@pytest.mark.parametrize(("name", "content", "want"), [
    ("e.parquet", b"PAR1 but not really", "not a Parquet file"), ("e.csv.gz", b"no gzip at all", "cannot be read"),
    ("e.xlsx", b"PK", "unknown kind of file"), ("e.csv", b"\xff\xfea\x00", "not UTF-8"),
    ("e.csv", b"\n1,2\n", "the first line is empty"),
    ("e.csv", b"a,A\n1,2\n", "got 'a' twice"), ("e.jsonl", b'{"a": 1, "A": 2}\n', "got 'a' twice"),
    ("e.csv", b'user_id,item_id,timestamp\nu,"x,1\n', "not a single row could be read"),
    ("e.csv", b"user_id,,x\n1,2,3\n", "a name of its own")])
def test_files_that_are_not_what_they_say_are_refused(tmp_path, name, content, want):
    assert want in complaint(text(tmp_path / name, content))


def test_a_truncated_gzip_is_refused(tmp_path):
    packed = gzip.compress(FRAME.to_csv(index=False).encode() * 50)
    assert "cannot be read" in complaint(text(tmp_path / "e.csv.gz", packed[: len(packed) // 2]))


def test_folders_without_events_or_with_two_are_refused(tmp_path):
    assert "want interactions.*" in complaint(tmp_path)
    written(FRAME, tmp_path / "interactions.csv")
    written(FRAME, tmp_path / "interactions.parquet")
    assert "could each be meant" in complaint(tmp_path)
    assert "want a file, got a folder" in complaint(tmp_path / "interactions.csv", tmp_path)


@pytest.mark.parametrize("name", ["a*b.csv", "it's [1].csv", "wh?t; DROP TABLE x --.csv",
                                  "user=7 {x}.parquet", "naïve ☃.jsonl"])
def test_hostile_file_names_are_only_names(tmp_path, name):
    folder = tmp_path / "day=1 'q' [z]*"
    folder.mkdir()
    decoy = folder / "axb.csv"
    decoy.write_text("user_id,item_id,timestamp\nDECOY,x,1600000000\n")
    data = read(written(FRAME, folder / name))
    assert data.interactions.users.ids.tolist() == ["u", "v"]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_hostile_column_names_are_only_names(tmp_path, ending):
    names = {"user_id": 'u"; DROP TABLE events --', "item_id": "i, t", "timestamp": "row", "rating": "bad"}
    frame = FRAME.rename(columns=names).assign(u=1, i=2, t=3, **{"a'b/c~d": 4, "file": 5})
    data = read(written(frame, tmp_path / f"e.{ending}"), user=names["user_id"], item="i, t", time="row", value="bad")
    assert np.array_equal(data.interactions.time, [BASE + 1, BASE + 2, BASE])
    assert data.interactions.value.tolist() == [3.0, 1.0, 2.5]
