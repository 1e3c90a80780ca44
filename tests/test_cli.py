"""The command line as a person meets it: what is printed where, what is refused and how, what to type next."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shlex
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from semid import cli, recipe_cards, views
from semid.errors import DataError
from semid.run import configure, machine
from semid.training.progress import Progress, describe


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="module")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A popularity run, trained through the command line."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(["train", "popularity", "--data", str(toy / "events.csv"), "--items", str(toy / "items.csv"),
                     "--out", str(out), "--quiet", "--device", "cpu"]) == 0
    return out


def refused(capsys: pytest.CaptureFixture, *argv: object) -> str:
    """Run a command that must be refused with one message; return the message."""
    capsys.readouterr()
    assert cli.main([str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert out == "" or json.loads(out) == {"error": json.loads(out)["error"]}
    return err


def test_help_names_every_verb_with_one_line(capsys: pytest.CaptureFixture):
    for argv in ([], ["--help"], ["-h"]):
        assert cli.main(argv) == 0
        said = capsys.readouterr().out
        for verb, function in cli.VERBS.items():
            assert f"  {verb} " in said
            assert (function.__doc__ or "").split("\n")[0] in said


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_has_help_that_documents_its_json(verb: str, capsys: pytest.CaptureFixture):
    assert cli.main([*verb.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert f"usage: semid {verb}" in said
    assert "JSON" in said
    assert "--json" in said


def test_the_command_to_type_next_reads_the_tables_as_this_one_did(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Columns that nobody can guess, and a row left out: the next command as printed must train."""
    rows = [f"{user},{item},2024-01-{1 + step:02d}" for user in range(8) for step, item in enumerate((user, user + 1, user + 2, user + 3))]
    table = tmp_path / "my events.csv"
    table.write_text("\n".join(["wer,was,wann", *rows, "1,2,never"]) + "\n")
    assert cli.main(["data", "check", str(table), "--user", "wer", "--item", "was", "--time", "wann", "--on-bad-rows", "drop"]) == 0
    said = capsys.readouterr().out
    command = shlex.split(said[said.index("semid train") :].split("#")[0])
    command[command.index("runs/first")] = str(tmp_path / "run")
    command[command.index("semid:fusion")] = "popularity"
    assert cli.main([*command[1:], "--max-history", "3", "--quiet", "--device", "cpu"]) == 0
    following = capsys.readouterr().out
    assert f"semid compare popularity --data '{table}' --user wer --item was --time wann --on-bad-rows drop --max-history 3" in following


def test_version_is_printed(capsys: pytest.CaptureFixture):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


@pytest.mark.parametrize(("argv", "said"), [
    (["trian"], "unknown command 'trian' (did you mean 'train'?); known: demo, data check"),
    (["data", "chek"], "unknown command 'data chek' (did you mean 'data check'?)"),
    (["recipes", "tigr"], "unknown recipe 'tigr' (did you mean 'tiger'?)"),
    (["train", "sasrek", "--data", "x", "--out", "y"], "unknown recipe 'sasrek' (did you mean 'sasrec'?)"),
    (["train", "sasrec"], "Required options"),
    (["train", "sasrec", "--data", "x", "--out", "y", "--epochs", "3"], "--epochs"),
    (["compare", "--data", "x", "--out", "y", "--no-baselines"], "want at least one recipe"),
    (["compare", "--data", "x", "--out", "y", "--seeds", "0"], "--seeds: want 1 or more, got 0"),
    (["compare", "sasrec", "--data", "x", "--out", "y", "--set", "epochs=3"], "want RECIPE.NAME=VALUE"),
    (["compare", "sasrec", "--data", "x", "--out", "y", "--set", "sasrek.epochs=3"], "got 'sasrek' (did you mean 'sasrec'?)"),
    (["compare", "sasrec", "--data", "x", "--out", "y", "--set", "sasrec=3"], "got 'sasrec'; it has: sasrec"),
    (["recommend", "nowhere", "--user", "u1", "--history", "i1"], "either --user ID or --history ITEM,ITEM,..., got both"),
    (["recommend", "nowhere"], "got neither"),
    (["recommend", "nowhere", "--user", "u1"], "nowhere: not a run folder (no config.json)"),
    (["evaluate", "nowhere"], "not a run folder"),
    (["codes", "nowhere"], "not a run folder"),
    (["data", "check", "nowhere.csv"], "nowhere.csv"),
])
def test_a_mistake_is_one_message_and_exit_code_2(argv: list[str], said: str, capsys: pytest.CaptureFixture):
    assert said in refused(capsys, *argv)


def test_settings_and_flags_out_of_range_are_refused_before_anything_is_written(toy: Path, tmp_path: Path,
                                                                                capsys: pytest.CaptureFixture):
    command = ["train", "sasrec", "--data", toy / "events.csv", "--out", tmp_path / "run"]
    assert "unknown setting 'epoch' (did you mean 'epochs'?)" in refused(capsys, *command, "--set", "epoch=3")
    assert "epochs='many'" in refused(capsys, *command, "--set", "epochs=many")
    assert "--set 'epochs': want NAME=VALUE" in refused(capsys, *command, "--set", "epochs")
    assert "max_history: want 1 or more" in refused(capsys, *command, "--max-history", 0)
    assert "want 0 < valid < test < 1" in refused(capsys, *command, "--split", "time", "--test-from", 0.5)
    assert "shuffle_ties: want a seed in [0, 2^32), got -1" in refused(capsys, *command, "--shuffle-ties", "-1")
    assert "min_history: want 0 or more, got -3" in refused(capsys, *command, "--min-history", "-3")
    assert "seed: want a seed in [0, 2^32), got -1" in refused(capsys, *command, "--split", "cold_items", "--split-seed", "-1")
    assert "--test-from: want --split time, which reads it, got leave_one_out" in refused(capsys, *command, "--test-from", 0.95)
    assert "--held-out: want --split cold_items or cold_users" in refused(capsys, *command, "--split", "time", "--held-out", 0.2)
    assert "order=file takes the order of the rows" in refused(capsys, *command, "--order", "file", "--position", "timestamp")
    (tmp_path / "first").mkdir()
    assert "frist (did you mean 'first'?)" in refused(capsys, *command[:-1], tmp_path / "frist", "--resume")
    assert "held_out: want a share" in refused(capsys, *command, "--split", "cold_items", "--held-out", 2)
    assert "no split column" in refused(capsys, *command, "--split", "column").replace("have no", "no")
    assert "no GPU here" in refused(capsys, *command, "--device", "cuda")
    assert "device: want auto, cpu or cuda, got 'gpu'" in refused(capsys, *command, "--device", "gpu")
    assert "seed: want a whole number in [0, 2^32), got -1" in refused(capsys, *command, "--seed", "-1")
    assert "reads the content of items" in refused(capsys, "train", "tiger", *command[2:], "--device", "cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("rows", "flags", "said"), [
    ("", [], "empty"),
    ("user_id,item_id,timestamp\n", [], "at least one event"),
    ("a;b;c\n1;2;3\n", [], "user"),
    ("user_id,item_id\nu,i\n", [], "no time or position column"),
    ("user_id,item_id,timestamp\nu,i,1600000000\n", [], "at least 3 events"),
    ("user_id,item_id,timestamp\nu,,1600000000\nu,i,1600000000\n", [], "events.csv:2"),
    ("user_id,item_id,timestamp\nu,i,1600000000\n", ["--user", "usr"], "usr"),
    ("user_id,item_id,timestamp\nu,i,1600000000\nu,i,1600000000\n", ["--duplicates", "error"], "has this item already"),
    ("user_id,item_id,timestamp\nu,i,1600000000\n", ["--user-core", "5"], "no event is left"),
    ("user_id,item_id,timestamp\nu,i,1600000000\n", ["--items", "nowhere.csv"], "nowhere.csv"),
    ("user_id,item_id,timestamp\nu,i,1600000000\n", ["--view", "clip"], "want NAME=FILE.npy"),
])
def test_bad_tables_are_one_message_and_nothing_is_written(rows: str, flags: list[str], said: str, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture):
    (tmp_path / "events.csv").write_text(rows)
    message = refused(capsys, "train", "popularity", "--data", tmp_path / "events.csv", "--out", tmp_path / "run", *flags)
    assert said in message
    assert not (tmp_path / "run").exists()


def test_data_check_lists_every_bad_row_and_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n" + "u,i,1600000000\n" * 3 + "u,,1600000000\n")
    check = ["data", "check", str(tmp_path / "events.csv"), "--bad-rows", str(tmp_path / "bad.csv")]
    assert cli.main(check) == 2
    out, err = capsys.readouterr()
    assert "user = 'user_id' (guessed)" in out
    assert "1 bad row; mend them, or train with --on-bad-rows drop" in err
    assert len((tmp_path / "bad.csv").read_text().splitlines()) == 2
    assert cli.main([*check, "--on-bad-rows", "drop"]) == 0
    capsys.readouterr()
    assert cli.main([*check, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["report"]["num_bad_rows"] == 1
    assert found["report"]["bad_rows"][0]["line"] == 5
    assert found["statistics"]["events"] == 3


def test_data_check_lists_and_writes_the_bad_rows_where_there_is_no_other(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\n,i,1600000000\nu,,1600000000\n")
    said = refused(capsys, "data", "check", tmp_path / "events.csv", "--bad-rows", tmp_path / "bad.csv")
    assert "no user id" in said
    assert "no item id" in said
    assert "all 2 rows of" in said
    assert len((tmp_path / "bad.csv").read_text().splitlines()) == 3


def test_train_says_what_it_read_and_reached_and_what_to_type_next(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    command = ["train", "item_knn", "--data", str(toy / "events.csv"), "--items", str(toy / "items.csv"),
               "--out", str(tmp_path / "r"), "--set", "decay=[0.5]", "--set", "backward=[0.5]", "--set", "norm=[0.5]"]
    assert cli.main(command) == 0
    out, err = capsys.readouterr()
    summary = err.splitlines()[:3]
    assert summary[0].startswith("columns: user = user_id (guessed); item = item_id (guessed); time = timestamp (guessed)")
    assert summary[1].startswith("data: 150 users, 64 items, ")
    assert summary[2].startswith("split: leave_one_out; ")
    assert "validation, seen items kept: recall@10 ." in out
    assert f"semid evaluate {tmp_path / 'r'}" in out
    assert "holds a run already; continue it with --resume" in refused(capsys, *command)
    assert cli.main([*command, "--resume", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"run", "recipe", "seed", "seconds", "parameters", "protocol_hash", "fingerprint", "valid"}
    assert found["valid"]["keep"]["recall@10"] > 0.5, "item-kNN finds the successor of the toy world"


def test_evaluate_writes_what_it_prints(run: Path, capsys: pytest.CaptureFixture):
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((run / "metrics.json").read_text())
    assert set(found["systems"]["popularity"]) == {"keep", "remove"}
    assert found["systems"]["popularity"]["keep"]["metrics"]["ndcg@10"].keys() == {"mean", "low", "high"}
    assert set(found["systems"]["popularity"]["keep"]["slices"]["day"]) == {"same day", "another day"}
    page = (run / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "Thing number" in page
    assert cli.main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    assert "seen items kept" in out
    assert "on the day of the last event" in out
    before = (run / "metrics.json").read_bytes()
    assert cli.main(["evaluate", str(run), "--part", "valid"]) == 0
    assert "Validation: 150 cases" in capsys.readouterr().out
    assert (run / "metrics.json").read_bytes() == before


def test_evaluate_tells_its_result_where_nothing_can_be_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                capsys: pytest.CaptureFixture):
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("popularity.*", "report.html"))
    monkeypatch.setattr(os, "replace", refuse)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["systems"]["popularity"]["keep"]["metrics"]["ndcg@10"]["mean"] > 0
    assert " ".join(err.split()).count("warning:") == 3  # two lists of cases, and the page
    assert "Read-only file system" in err


def test_evaluate_asks_the_questions_of_another_protocol_and_writes_nothing(run: Path, capsys: pytest.CaptureFixture):
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--protocol", "min_history=6,max_history=4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["protocol"]["min_history"], found["protocol"]["max_history"]) == (6, 4)
    assert found["protocol_hash"] == found["systems"]["popularity"]["keep"]["protocol_hash"] != ""
    assert 0 < found["systems"]["popularity"]["keep"]["num_cases"] < 150
    assert {file: file.stat().st_mtime_ns for file in run.iterdir()} == before
    for protocol, said in {"time": "training events, and", "shuffle_ties=1,max_history=60": "max_history of at most 50",
                           "tim": "split='tim'", "test_from=0.95": "--protocol test_from: want --split time, which reads it",
                           "min_histry=3": "did you mean 'min_history'?", "max_history=0": "want 1 or more",
                           "time,0.9": "--protocol '0.9': want SPLIT,NAME=VALUE"}.items():
        assert said in refused(capsys, "evaluate", run, "--protocol", protocol)


def test_every_measure_of_lists_is_in_the_json(run: Path, capsys: pytest.CaptureFixture):
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["systems"]["popularity"]["keep"]["metrics"]
    ranking = {f"{name}@{k}" for name in ("recall", "hit", "ndcg", "mrr", "map", "precision", "f1") for k in (5, 10, 20)}
    beside = {f"{name}@10" for name in ("coverage", "gini", "entropy", "novelty", "arp", "aplt", "popularity_lift", "diversity",
                                        "category_entropy", "miscalibration")}
    assert metrics.keys() == ranking | beside
    assert all(value["mean"] is not None for value in metrics.values())


def test_recommend_prints_ids_titles_and_scores(run: Path, capsys: pytest.CaptureFixture):
    capsys.readouterr()
    assert cli.main(["recommend", str(run), "--user", "u3", "-k", "3", "--where", "category = 'toy' and price < 20"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("For user u3, after ")
    assert out.count("Thing number") >= 3
    assert cli.main(["recommend", str(run), "--history", "i1,i6", "-k", "2", "--exclude", "i2, i3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["item_id"] for item in found["history"]] == ["i1", "i6"]
    assert len(found["items"]) == 2
    assert found["items"][0].keys() == {"item_id", "title", "score"}
    assert cli.main(["recommend", str(run), "--history", "", "-k", "100", "--where", "price < 2"]) == 0
    out = capsys.readouterr().out
    assert "For somebody new, without a history" in out
    assert "4 items satisfy the rules, 100 were asked for" in out


def test_recommend_applies_the_rules_of_a_list_and_says_what_they_cost(run: Path, toy: Path, capsys: pytest.CaptureFixture):
    capsys.readouterr()
    category = {row["item_id"]: row["category"] for row in csv.DictReader((toy / "items.csv").open())}
    shown = {}
    for rules in ([], ["--rule", "caps.category=2", "--rule", "debias=0.5"]):
        assert cli.main(["recommend", str(run), "--user", "u3", "-k", "4", *rules, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["cost"].keys() == ({"debias", "caps"} if rules else set())
        shown[bool(rules)] = [category[item["item_id"]] for item in found["items"]]
    assert max(Counter(shown[False]).values()) > 2
    assert max(Counter(shown[True]).values()) == 2
    assert cli.main(["recommend", str(run), "--user", "u3", "--rule", "caps.category=1"]) == 0
    assert "caps gives up" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "said"), [
    (["--user", "u999"], "unknown user 'u999'"),
    (["--history", "i1,thing"], "unknown item 'thing'"),
    (["--user", "u1", "--where", "prise < 3"], "unknown column 'prise' (did you mean 'price'?)"),
    (["--user", "u1", "--where", "price <"], "--where 'price <'"),
    (["--user", "u1", "--where", "price > 10000"], "no item of 64 matches"),
    (["--user", "u1", "-k", "0"], "want a whole number in [1, 10,000], got 0"),
    (["--user", "u1", "--rule", "caps"], "--rule 'caps': want NAME=VALUE, such as diversity=0.3 or caps.brand=2"),
    (["--user", "u1", "--rule", "caps.brnd=2"], "rules: no column 'brnd'"),
    (["--user", "u1", "--rule", "caps.category=two"], "setting caps.category='two': input should be a valid integer"),
    (["--user", "u1", "--rule", "diversty=.3"], "unknown setting 'diversty' (did you mean 'diversity'?)"),
    (["--user", "u1", "--rule", "diversity=.3"], "this run has no codes, its recipe ranks items directly"),
])
def test_recommend_refuses_with_one_message(run: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture):
    assert said in refused(capsys, "recommend", run, *flags)


def test_codes_of_a_run_without_codes_say_what_has_them(run: Path, capsys: pytest.CaptureFixture):
    assert "ranks items directly and has no codes" in refused(capsys, "codes", run)


def test_compare_goes_on_where_it_stopped_and_prints_both_tables(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    command = ["compare", "popularity", "item_knn", "--no-baselines", "--data", str(toy / "events.csv"), "--out", str(tmp_path),
               "--seeds", "2", "--name", "toy", "--set", "item_knn.decay=[0.5]", "--set", "item_knn.norm=[0.5]"]
    assert cli.main([*command, "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "seen items kept" in out
    assert "seen items removed" in out
    assert "against item_knn" in out
    assert "seed" in out
    first = (tmp_path / "item_knn-0" / "manifest.json").stat().st_mtime_ns
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (tmp_path / "item_knn-0" / "manifest.json").stat().st_mtime_ns == first, "a finished run is kept"
    assert [system["name"] for system in found["systems"]] == ["popularity", "item_knn"]
    rows = found["comparisons"]["keep"]["rows"]
    assert rows[0]["metrics"]["ndcg@10"].keys() == {"mean", "low", "high", "sd", "p", "p_adjusted"}
    assert json.loads((tmp_path / "comparison.json").read_text())["comparisons"] == found["comparisons"]
    assert Path(found["report"]).read_text().startswith("<!DOCTYPE html>")
    assert cli.main([*command, "--json", "--against", "popularity"]) == 0
    rows = json.loads(capsys.readouterr().out)["comparisons"]["keep"]["rows"]
    assert [row["metrics"]["ndcg@10"]["p"] is None for row in rows] == [True, False]
    assert "did you mean 'popularity'?" in refused(capsys, *command, "--against", "popularty")


def test_recipes_are_listed_without_importing_them(capsys: pytest.CaptureFixture):
    assert cli.main(["recipes", "--json", "--results", "nowhere"]) == 0
    cards = {card["name"]: card for card in json.loads(capsys.readouterr().out)}
    assert set(cards) == set(recipe_cards.recipe_names())
    assert all(card["summary"] and card["status"] for card in cards.values())
    assert cards["sasrec"]["settings"]["epochs"][0] == "int"
    assert cards["sasrec"]["variants"]["gbce"] == {"loss": "'gbce'"}
    assert cli.main(["recipes", "sasrec"]) == 0
    assert "sasrec:gbce" in capsys.readouterr().out


def test_one_recipe_is_shown_with_the_settings_of_its_groups_and_the_values_of_its_variants(capsys: pytest.CaptureFixture):
    assert cli.main(["recipes", "discrec", "--json"]) == 0
    [card] = json.loads(capsys.readouterr().out)
    assert card["settings"]["letter.tiger.steps"] == ["int", "80000"], "discrec's own default of a setting two groups down"
    assert "letter" not in card["settings"]
    assert next(iter(card["settings"])) == "branch_heads"
    changed = card["variants"]["causal"]
    assert changed["letter.tiger.steps"] == "1000"
    assert changed["letter.tiger.optimization.learning_rate"] == "0.002"
    assert "letter.tiger.optimization.beta1" not in changed, "what a variant leaves as it is isn't listed"
    _, config = configure("discrec", {name: default for name, (_, default) in card["settings"].items() if default.isdigit()})
    assert config == configure("discrec")[1], "the names are those that --set takes"


def test_recipes_show_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "runs").mkdir()
    for seed, value in enumerate((0.08, 0.09)):
        record = {"recipe": "ease", "system": "ease", "data_name": "beauty", "protocol_hash": "ab", "seed": seed,
                  "test": {"keep": {"metrics": {"recall@10": {"mean": value}, "ndcg@10": {"mean": value / 2}}}}}
        (tmp_path / "runs" / f"{seed}.json").write_text(json.dumps(record))
    assert cli.main(["recipes", "--results", str(tmp_path), "--json"]) == 0
    ease = next(card for card in json.loads(capsys.readouterr().out) if card["name"] == "ease")
    assert ease["measured"] == [{"system": "ease", "data": "beauty", "protocol_hash": "ab", "seeds": 2,
                                 "recall@10": pytest.approx(0.085), "ndcg@10": pytest.approx(0.0425)}]
    assert cli.main(["recipes", "ease", "--results", str(tmp_path)]) == 0
    assert ".0850" in capsys.readouterr().out


def test_doctor_examines_this_machine(capsys: pytest.CaptureFixture):
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"versions", "extras", "machine", "folders", "problems"}
    assert found["versions"]["torch"]
    assert machine().items() <= found["machine"].items()  # as runs and results have it
    assert found["extras"]["text"]["install"] == "pip install 'semid[text]'"
    assert found["folders"]["disk_free_gb"] > 0
    assert cli.main(["doctor"]) == 0
    assert "torch threads" in capsys.readouterr().out


# What goes wrong while a verb runs ---------------------------------------------------------------------------------------


def failing(error: BaseException):
    def doctor(*, json: bool = False) -> int:
        """Fail."""
        raise error

    return doctor


@pytest.mark.parametrize(("error", "code", "said"), [
    (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), 2, "/runs/x: No space left on device; free some space"),
    (OSError(errno.EROFS, "Read-only file system", "/runs/x"), 2, "choose a folder that you may write to"),
    (DataError("events: want numbers"), 2, "error: events: want numbers\n"),
    (KeyboardInterrupt(), 130, "interrupted; again: semid doctor\n"),
    (ZeroDivisionError("oops"), 1, "ZeroDivisionError: oops\nThis is a defect of semid"),
    (OSError(errno.EIO, "Input/output error"), 1, "Traceback"),
])
def test_what_goes_wrong_has_its_exit_code(error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture):
    monkeypatch.setitem(cli.VERBS, "doctor", failing(error))
    assert cli.main(["doctor"]) == code
    out, err = capsys.readouterr()
    assert said in err
    assert out == "" or json.loads(out) == {"error": json.loads(out)["error"]}


@pytest.mark.parametrize(("argv", "said"), [
    (["train", "tiger", "--data", "my events.csv", "--out", "r"],
     "nothing is lost, go on with: semid train tiger --data 'my events.csv' --out r --resume"),
    (["train", "tiger", "--data", "e.csv", "--out", "unbegun"],
     "nothing is lost, go on with: semid train tiger --data e.csv --out unbegun"),
    (["train", "tiger", "--resume", "--out", "r"], "nothing is lost, go on with: semid train tiger --resume --out r"),
    (["compare", "tiger", "--out", "r"], "nothing is lost, go on with: semid compare tiger --out r"),
    (["evaluate", "r"], "again: semid evaluate r"),
])
def test_an_interruption_names_the_command_that_goes_on(argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r").mkdir()
    (tmp_path / "r/config.json").touch()
    assert cli.go_on(argv) == said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_how_to_resume_and_the_run_goes_on(number: int, toy: Path, tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    import semid.recipes.sasrec
    from semid.training.fit import fit

    command = ["train", "sasrec", "--data", str(toy / "events.csv"), "--out", str(tmp_path / "run"), "--quiet",
               "--set", "epochs=2", "--set", "width=16", "--device", "cpu"]

    def fit_and_press(model, objective, batches, **rest):
        def press(*args):
            os.kill(os.getpid(), number)
            return objective(*args)

        return fit(model, press, batches, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(semid.recipes.sasrec, "fit", fit_and_press)
        assert cli.main(command) == 130
    err = capsys.readouterr().err
    assert "interrupted (sasrec: stopped at step 1 of" in err
    assert f"go on with: semid {' '.join(command)} --resume" in err
    assert cli.main([*command, "--resume"]) == 0


def test_sigterm_outside_of_training_is_an_interruption_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    def doctor(*, json: bool = False) -> int:
        """Be ended from outside."""
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setitem(cli.VERBS, "doctor", doctor)
    assert cli.main(["doctor"]) == 130
    assert "interrupted; again: semid doctor" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


# Progress ----------------------------------------------------------------------------------------------------------------


def drawn(records: list[dict], mode: str | None = None, times: list[float] | None = None) -> list[str]:
    console = Console(record=True, width=200, file=io.StringIO(), force_terminal=False)
    clock = iter(times or [0.0] * len(records))
    with Progress(console, mode, clock=lambda: next(clock)) as progress:  # type: ignore[arg-type]
        for record in records:
            progress.view("sasrec, seed 0")(record)
    return console.export_text().splitlines()


STEP = {"stage": "train", "steps": 600, "loss": 7.25, "rate": 1e-3}


def test_a_pipe_gets_one_line_a_minute_and_every_look_and_note():
    lines = drawn([{**STEP, "step": 50}, {**STEP, "step": 100}, {**STEP, "step": 150},
                   {"stage": "train", "step": 150, "steps": 600, "valid": {"recall@10": 0.1, "ndcg@10": 0.05}},
                   {"stage": "train", "step": 300, "steps": 600, "valid": {"recall@10": 0.1, "ndcg@10": 0.04}},
                   {"stage": "codes", "note": "all items have their own code"}], times=[0, 30, 61])
    assert lines == ["sasrec, seed 0 train: step 50 of 600, loss 7.25, rate 0.001",
                     "sasrec, seed 0 train: step 150 of 600, loss 7.25, rate 0.001, at most 4 min 34 s left",
                     "sasrec, seed 0 train: step 150 of 600, recall@10 .1000, ndcg@10 .0500",
                     "sasrec, seed 0 train: step 300 of 600, recall@10 .1000, ndcg@10 .0400 (best .0500)",
                     "sasrec, seed 0 codes: all items have their own code"]


def test_quiet_draws_nothing_and_live_survives_every_record():
    records = [{**STEP, "step": 50}, {**STEP, "step": 600}, {"stage": "content", "step": 3, "steps": 9},
               {"stage": "x", "note": "y"}, {"stage": "train", "step": 600, "steps": 600, "valid": {"ndcg@10": 0.1}}]
    assert drawn(records, "quiet") == []
    assert any("ndcg@10 .1000" in line for line in drawn(records, "live"))


def test_health_signals_are_shown_whatever_their_names():
    record = {**STEP, "step": 50, "parts": {"code": 5.0, "commit": 2.125}, "health": {"codes_used": 0.98}, "valid_beams": 1.0}
    assert describe(record) == ("step 50 of 600, loss 7.25 (code 5, commit 2.12), rate 0.001, codes used 0.98, valid beams 1")


def test_the_health_of_codes_is_told_when_they_are_made_and_at_every_look():
    made = {"stage": "tokenizer", "health": {"items": 64, "collision_rate": 0.0, "levels": [{"size": 8, "used": 8, "entropy": 2.0},
                                                                                          {"size": 8, "used": 7, "entropy": 1.9}]},
            "collisions": {"rate_before": 0.25, "moved": 3}, "unexplained": [0.5, 0.25]}
    look = {"stage": "generator", "step": 10, "steps": 20, "valid": {"codes_used": 0.5, "valid_beams": 0.75, "ndcg@10": 0.1}}
    assert drawn([made, look], "lines") == [
        "sasrec, seed 0 tokenizer: items 64, collision rate 0, codes used 8 of 8, 7 of 8, "
        "collision rate before they were mended 0.25, unexplained after each level .5000, .2500",
        "sasrec, seed 0 generator: step 10 of 20, codes used .5000, valid beams .7500, ndcg@10 .1000"]


def test_a_count_is_three_digits():
    assert [views.short(n) for n in (7, 6_548, 45_760, 4_600_000, 2 * 10**9)] == ["7", "6.55k", "45.8k", "4.6M", "2G"]


@pytest.mark.parametrize("argv", [["recommend", "nowhere", "--user", "1"], ["recommend", "nowhere", "--usr", "1"], ["nonsense"],
                                  ["train", "sasrec", "--data", "x.csv", "--out", "y", "--set", "epochs=none"]])
def test_with_json_a_mistake_is_json_on_stdout_too(argv: list[str], capsys: pytest.CaptureFixture):
    assert cli.main([*argv, "--json"]) == 2
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == ["error"]
    assert err
    assert cli.main(argv) == 2
    assert capsys.readouterr().out == ""


def test_the_command_that_goes_on_resumes_what_was_begun(tmp_path: Path):
    for words in (["--out", str(tmp_path)], [f"--out={tmp_path}"]):
        assert "--resume" not in cli.go_on(["train", "semid", *words])
    (tmp_path / "config.json").touch()
    for words in (["--out", str(tmp_path)], [f"--out={tmp_path}"]):
        assert cli.go_on(["train", "semid", *words]).endswith(" --resume")
        assert cli.go_on(["train", "semid", *words, "--resume"]).count("--resume") == 1


def test_demo_serves_or_prints_json_but_not_both(capsys: pytest.CaptureFixture):
    assert cli.main(["demo", "--serve", "--json"]) == 2
    assert "either --json" in capsys.readouterr().err


def test_the_history_to_type_next_names_ids_that_a_list_can_hold():
    assert cli._example(["q,r", " x", "a b", "c", "d"]) == "'a b,c'"
    assert cli._example(["q,r"]) == "''"


def test_commands_to_type_next_repeat_settings_and_quote_folders(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "my run"
    assert cli.main(["train", "popularity", "--data", str(toy / "events.csv"), "--out", str(out), "--quiet", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"semid evaluate '{out}'" in said
    assert f"--out '{out}-compared'" in said
    assert cli.main(["train", "item_knn", "--data", str(toy / "events.csv"), "--out", str(tmp_path / "knn"), "--quiet", "--device", "cpu",
                     "--set", "decay=[0.5]", "--set", "backward=[0.5]", "--set", "norm=[0.5]"]) == 0
    assert "--set 'item_knn.decay=[0.5]'" in capsys.readouterr().out


def test_the_recipe_named_last_is_the_subject_also_where_it_is_a_baseline(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    quick = [part for name in ("decay", "backward", "norm") for part in ("--set", f"item_knn.{name}=[0.5]")]
    assert cli.main(["compare", "item_knn", "popularity", "--no-baselines", "--data", str(toy / "events.csv"), "--out", str(tmp_path),
                     "--quiet", "--device", "cpu", *quick]) == 0
    assert "ask popularity" in capsys.readouterr().out
    assert cli.main(["compare", "popularity", "item_knn", "--no-baselines", "--data", str(toy / "events.csv"), "--out", str(tmp_path),
                     "--quiet", "--device", "cpu", *quick]) == 0
    assert "ask item_knn" in capsys.readouterr().out


def test_a_title_that_a_terminal_would_obey_is_shown_harmless(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n" + "".join(f"i{row},\x1b[31mred\x1b[0m {row}\n" for row in range(64)))
    out = tmp_path / "run"
    assert cli.main(["train", "popularity", "--data", str(toy / "events.csv"), "--items", str(items), "--out", str(out), "--quiet"]) == 0
    capsys.readouterr()
    assert cli.main(["recommend", str(out), "--history", "i1,i6"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "?[31mred?[0m" in said
