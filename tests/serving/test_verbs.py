"""The verbs over the engine: add, then recommend and explain what was added; change it and take it away."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest

from semid import cli
from semid.serving.engine import Engine
from tests.serving import world


def test_what_add_brought_recommend_shows_and_explain_explains(copied, tmp_path, capsys: pytest.CaptureFixture):
    pq.write_table(world.items(range(60, 64)), tmp_path / "new.parquet")
    assert cli.main(["add", str(copied), "--items", str(tmp_path / "new.parquet")]) == 0
    assert capsys.readouterr().out.strip() == "4 items added, 64 can be recommended now"
    assert cli.main(["recommend", str(copied), "--history", "i6,i12", "-k", "64", "--seen", "keep", "--json"]) == 0
    shown = {each["item_id"] for each in json.loads(capsys.readouterr().out)["items"]}
    assert shown == {f"i{row}" for row in range(64)}
    assert cli.main(["explain", str(copied), "--user", "u1", "--item", "i61"]) == 0
    told = capsys.readouterr().out
    for words in ("oak table (i61)", "Path down the code tree", "History items that mattered", "Nearest by content"):
        assert words in told
    assert cli.main(["explain", str(copied), "--history", "i6,i12", "--item", "i61", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["item_id"] == "i61"
    assert len(found["path"]) == 3
    assert {each["item_id"] for each in found["history"]} == {"i6", "i12"}


def told(capsys: pytest.CaptureFixture, *words: str) -> dict:
    """The JSON of a verb."""
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_update_changed_rules_read_and_what_remove_took_nobody_sees(copied, tmp_path, capsys: pytest.CaptureFixture):
    ask = ["recommend", str(copied), "--history", "i6,i12", "-k", "60", "--seen", "keep"]
    shown = lambda *rule: {each["item_id"] for each in told(capsys, *ask, *rule)["items"]}
    (tmp_path / "prices.csv").write_text("sku,price\ni3,78\ni4,79.5\n")
    done = told(capsys, "update", str(copied), "--items", str(tmp_path / "prices.csv"), "--item-id", "sku")
    assert done == {"kind": "update", "count": 2, "items": 60, "version": 2}
    assert shown("--where", "price > 70") == {"i3", "i4"}
    assert cli.main(["remove", str(copied), "--items", "i3, i7"]) == 0
    assert capsys.readouterr().out.strip() == "2 items removed, 58 can be recommended now"
    (tmp_path / "gone.csv").write_text("item_id\ni8\n")
    assert told(capsys, "remove", str(copied), "--items", str(tmp_path / "gone.csv"))["count"] == 1
    assert cli.main(["remove", str(copied), "--items", str(tmp_path / "gnoe.csv")]) == 2
    assert "gnoe.csv: no such file (did you mean 'gone.csv'?)" in " ".join(capsys.readouterr().err.split())
    assert shown() == {f"i{row}" for row in range(60)} - {"i3", "i7", "i8"}
    assert shown("--where", "price > 70") == {"i4"}
    assert told(capsys, "restore", str(copied), "--items", "i3")["items"] == 58
    assert shown("--where", "price > 70") == {"i3", "i4"}


def test_lists_come_from_text_files_as_parts_between_bars(copied, tmp_path, capsys: pytest.CaptureFixture):
    (tmp_path / "new.csv").write_text("item_id,title,category,tags,price,since\ni60,red hose,hose,red | sale,3.5,2022-01-01\n")
    assert told(capsys, "add", str(copied), "--items", str(tmp_path / "new.csv"))["items"] == 61
    ask = ["recommend", str(copied), "--history", "i6,i12", "-k", "61", "--where", "'sale' in tags and price = 3.5"]
    assert [each["item_id"] for each in told(capsys, *ask)["items"]] == ["i60"]


def test_text_of_the_run_stays_text_in_later_tables(copied, tmp_path):
    engine = Engine.open(copied)
    (tmp_path / "new.csv").write_text("item_id,title,category\ni60,True,False\n")
    engine.add(tmp_path / "new.csv")
    (tmp_path / "told.csv").write_text("item_id,title\ni3,TRUE\n")
    engine.update(tmp_path / "told.csv")
    assert [engine.item("i60")["attributes"][name] for name in ("title", "category")] == ["True", "False"]
    assert engine.item("i3")["title"] == "TRUE"


def test_a_run_is_served_from_inside_and_a_link_keeps_its_store(knn_folder, tmp_path, monkeypatch, capsys: pytest.CaptureFixture):
    asked = []
    monkeypatch.setattr(cli, "_serving", lambda: lambda engine, run, **flags: asked.append((run, flags["store"])))
    first, second = (shutil.copytree(knn_folder, tmp_path / name) for name in ("first", "second"))
    monkeypatch.chdir(first)
    assert cli.main(["serve", "."]) == 0
    assert asked.pop() == (first, str(tmp_path / "first.histories.sqlite"))
    link = tmp_path / "latest"
    for folder in (first, second):
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        assert cli.main(["serve", str(link)]) == 0
        assert asked.pop() == (link, str(tmp_path / "latest.histories.sqlite"))
    (tmp_path / "second.histories.sqlite").touch()  # as earlier versions named it
    assert cli.main(["serve", str(link)]) == 0
    assert asked.pop()[1] == str(tmp_path / "second.histories.sqlite")
    assert f"--store {tmp_path / 'second.histories.sqlite'}" in " ".join(capsys.readouterr().err.split())


def test_a_misspelt_id_to_leave_out_is_refused_and_the_moment_can_be_said(run_folder, capsys: pytest.CaptureFixture):
    ask = ["recommend", str(run_folder), "--history", "i6,i12"]
    assert cli.main([*ask, "--exclude", "i3,i99"]) == 2
    assert "i99" in capsys.readouterr().err
    assert cli.main([*ask, "--at", "now"]) == 2
    assert "--at: want --user" in capsys.readouterr().err
    ask = ["recommend", str(run_folder), "--user", "u3"]
    for wrong in ("tomorrow", "20261130", "1796000000000"):
        assert cli.main([*ask, "--at", wrong]) == 2
        assert "--at: want now, a time such as" in capsys.readouterr().err


def test_a_moment_changes_what_a_model_that_reads_it_says(tmp_path, capsys: pytest.CaptureFixture):
    world.train("semid:timely", tmp_path / "run", world.SMALL)
    ask = ["recommend", str(tmp_path / "run"), "--user", "u3", "-k", "20"]
    last = Engine.open(tmp_path / "run").history("u3").times[-1]
    ask_at = lambda when: told(capsys, *ask, "--at", when)["items"]
    assert ask_at(str(last + 1000)) != ask_at(str(last + 100_000))
    assert ask_at("2026-11-30") == ask_at("1796000000")


def test_int8_says_how_far_it_agrees(run_folder, capsys: pytest.CaptureFixture):
    assert cli.main(["recommend", str(run_folder), "--history", "i6,i12", "--engine", "int8"]) == 0
    assert "of the top 10 are those of full precision" in capsys.readouterr().err


def test_serve_says_how_far_int8_agrees_before_it_listens(run_folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    served = []
    monkeypatch.setattr(cli, "_serving", lambda: lambda engine, *_, **__: served.append(engine.engine))
    assert cli.main(["serve", str(run_folder), "--engine", "int8", "--port", "0"]) == 0
    share = re.search(r"engine int8: ([\d.]+)% of the top 10 are those of full precision", capsys.readouterr().err)
    assert share is not None
    assert float(share[1]) > 50
    assert served == ["int8"]


@pytest.mark.parametrize("arguments", [["explain", "RUN", "--item", "nope", "--user", "u1"], ["explain", "RUN", "--item", "i1"],
                                       ["add", "RUN", "--items", "no-such-file.csv"], ["recommend", "RUN", "--user", "nobody"],
                                       ["update", "RUN", "--items", "no-such-file.csv"], ["remove", "RUN", "--items", "i1,nope"],
                                       ["remove", "RUN", "--items", ","], ["restore", "RUN", "--items", "nope"]])
def test_mistakes_are_one_message(run_folder, arguments, capsys: pytest.CaptureFixture):
    assert cli.main([str(run_folder) if a == "RUN" else a for a in arguments]) == 2
    assert "Traceback" not in capsys.readouterr().err
