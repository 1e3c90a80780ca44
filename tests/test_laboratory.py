"""The laboratory measures every way of making codes alike, keeps what is finished, and says what to do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from semid import cli
from semid.codes import ids_of
from semid.data.letter import code_columns
from semid.errors import ConfigError, DataError
from semid.evaluation.code_report import render
from semid.laboratory import Laboratory, check_way, compare_codes, default_ways, of_run, report, some_users
from semid.recipes import cost, letter, mmgrec
from semid.run import train
from semid.training.log import Log
from semid.types import Split
from tests.toyworld.world import walk

SMALL = {"size": 8, "cf_dim": 16}
TINY = {"width": 16, "heads": 1, "feedforward": 32, "dropout": 0.0, "tokens": 256, "epochs": 2, "epoch_steps": 0}
SETTINGS = {
    **dict.fromkeys(("semid:text_codes", "semid:cf_codes", "semid", "semid:product"), SMALL),
    "semid:rqvae": {**SMALL, "tokenizer_steps": 40},
    "letter:two_level": {**dataclasses.asdict(letter.smoke()), "is_two_level": True},
    "cost:two_level": {**dataclasses.asdict(cost.smoke()), "is_two_level": True},
    "probe": TINY}


def world() -> Split:
    """The toy world with published codes, and items 1 and 2 as twins of 0: same text vector, a title that must be escaped."""
    data = walk(users=90)
    catalog = data.catalog
    vectors = catalog.view("text").copy()
    vectors[1] = vectors[2] = vectors[0]
    titles = [f"Item <b>{row}</b>" for row in range(64)]
    tokens = [[f"<a_{row // 8}>", f"<b_{row % 8}>"] for row in range(64)]
    table = catalog.table.set_column(0, "title", pa.array(titles)).append_column("letter_sid", pa.array(tokens))
    return dataclasses.replace(data, catalog=dataclasses.replace(catalog, table=table, text={"title": titles}, views={"text": vectors}))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laboratory")


@pytest.fixture(scope="module")
def found(out: Path) -> Laboratory:
    return compare_codes([], world(), out=out, settings=SETTINGS, device="cpu")


def test_all_default_ways_are_measured_alike(found: Laboratory):
    names = [way.measured.name for way in found.ways]
    assert names == ["semid:text_codes", "semid:cf_codes", "semid", "semid:rqvae", "semid:product", "letter:two_level", "cost:two_level",
                     "codes=letter_sid"]
    for way in found.ways:
        measured, is_published = way.measured, way.measured.name.startswith("codes=")
        assert way.ids.num_distinct == measured.items == 64
        assert measured.collisions["colliding_share_after"] == 0
        assert (measured.seconds is None) == (measured.churn is None) == is_published
        assert set(measured.agreement) == set(measured.error) == {"behaviour", "content"}
        assert len(measured.purity) == len(measured.chance) == measured.depth == way.ids.levels
        assert measured.probe.low <= measured.probe.mean <= measured.probe.high
    assert [way.measured.probe.p is None for way in found.ways].count(True) == 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_numbers_are_those_of_the_codes(found: Laboratory):
    ways = {way.measured.name: way for way in found.ways}
    text, both = ways["semid:text_codes"].measured, ways["semid:cf_codes"].measured
    assert text.agreement["content"][0] > both.agreement["content"][0]
    assert both.agreement["behaviour"][0] > text.agreement["behaviour"][0]
    assert text.error["content"] < both.error["content"]
    before = ways["semid:text_codes"].before
    assert before.codes[0].tolist() == before.codes[1].tolist() == before.codes[2].tolist()
    assert text.collisions["colliding_share_before"] >= 3 / 64
    assert found.ground.twins["content"] == 3
    assert any("3 of 64 items have exactly the content of another" in sentence.replace("\u202f", " ") for sentence in found.advice)
    assert ways["codes=letter_sid"].measured.head_room["full"] == 1.0  # 8 items under each of 8 prefixes with 8 codes


def test_codes_are_those_that_training_in_full_would_use(found: Laboratory):
    run = train("semid:text_codes", world(), settings={**SETTINGS["semid:text_codes"], **TINY, "text": "auto", "epochs": 1})
    np.testing.assert_array_equal(ids_of(run).codes, next(w for w in found.ways if w.measured.name == "semid:text_codes").ids.codes)


def test_finished_ways_are_kept_and_another_setting_measures_anew(found: Laboratory, out: Path):
    notes: list[tuple[str, str]] = []
    log = lambda name, seed: Log(view=lambda record: notes.append((name, record.get("note", ""))))
    ways = ["semid:text_codes", "codes=letter_sid"]
    again = compare_codes(ways, world(), out=out, settings=SETTINGS, device="cpu", log=log)
    assert [name for name, note in notes if note == "measured before, kept"] == ways
    for way in again.ways:
        before = next(old for old in found.ways if old.measured.name == way.measured.name)
        untested = lambda measured: dataclasses.replace(measured, probe=dataclasses.replace(measured.probe, p=None))
        assert untested(way.measured) == untested(before.measured)
        np.testing.assert_array_equal(way.gains, before.gains)
    notes.clear()
    changed = {**SETTINGS, "semid:text_codes": {**SMALL, "size": 16}}
    other = compare_codes(ways, world(), out=out, settings=changed, device="cpu", log=log)
    assert [name for name, note in notes if note == "measured before, kept"] == ["codes=letter_sid"]
    assert other.ways[0].measured.levels[0]["size"] == 16


def test_the_page_shows_every_way_items_that_collide_by_title_and_ends_with_advice(found: Laboratory):
    text = render(report(found, world(), name="toy & co", seed=0, commands=[("semid train semid", "in full")]))
    assert "Codes of toy &amp; co" in text
    for way in found.ways:
        assert f'<th scope="row">{way.measured.name}</th>' in text
    assert "Item &lt;b&gt;1&lt;/b&gt;" in text
    assert "<b>1</b>" not in text
    assert text.count('id="icicle"') == text.count('id="tree-data"') == 1
    assert text.index('id="collisions"') < text.index('id="advice"') < text.index("validation NDCG@10", text.index('id="advice"'))
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "Nothing of nan" not in text
    assert ">nan" not in text


def test_without_content_only_behaviour_and_published_codes_are_tried():
    data = world()
    mute = dataclasses.replace(data.catalog, text={}, views={})
    assert default_ways(dataclasses.replace(data, catalog=mute)) == ["semid:cf_codes", "codes=letter_sid"]
    assert code_columns(pa.table({"a": [["<a_1>"]], "b": ["<a_1>"], "c": [["x"]], "d": [[1]]})) == ["a"]


def test_the_probe_s_users_are_whole_and_as_many_as_asked_for():
    data = walk(users=50, length=12)
    drawn = some_users(data.train, 100, seed=0)
    size = np.diff(drawn.offsets)
    assert set(size.tolist()) == {0, 10}
    assert 100 <= len(drawn) <= 110
    assert len(some_users(data.train, 10**6, seed=0)) == len(data.train)


@pytest.mark.parametrize(("way", "settings", "said"), [
    ("sasrec", {}, "recipe 'sasrec' makes no codes from the catalogue alone, or none at all; want recipes such as semid:text_codes"),
    ("parallel", {}, "its codes are sets of many digits, which the small generator that scores codes cannot write; semid:product"),
    ("p5:collaborative", {"p5:collaborative": {"clusters": 1}}, "p5: want clusters of at least 2"),
    ("cost", {"cost": {"tiger.size": 0}}, "setting tiger.size=0: want at least 1; default: 64"),
    ("letter:two_level", {"letter:two_level": {"groups": 0, "tiger.size": 8}}, "want groups of two codes at least, got 0 groups"),
    ("semid:txt_codes", {}, "did you mean 'text_codes'"),
    ("semid", {"semid": {"sice": 8}}, "unknown setting 'sice' (did you mean 'size'?)"),
    ("semid", {"probe": {"epoch": 2}}, "unknown setting 'epoch' (did you mean 'epochs'?)"),
    ("semid", {"semid": {"size": 65}}, "want at least 65 items, one for each code of a codebook, got 64; choose size <= 64"),
    ("semid:text_codes", {"semid:text_codes": {"size": 63}}, "want at least 63 different vectors"),
    ("tiger", {"tiger": {"view": "image"}}, "no view 'image'"),
    ("letter:two_level", {"letter:two_level": {"cf": "clip", "tiger.size": 8, "groups": 2}}, "no view 'clip'"),
    ("codes=leter_sid", {}, "want a column of the items table (did you mean 'letter_sid'?)"),
    ("codes=nowhere.index.json", {}, "nowhere.index.json: cannot be read"),
])
def test_bad_ways_are_one_clear_message(way: str, settings: dict, said: str, tmp_path: Path):
    with pytest.raises((ConfigError, DataError)) as refused:
        compare_codes([way], world(), out=tmp_path, settings=settings, device="cpu")
    assert said in str(refused.value)


@pytest.mark.parametrize("bad", ["codes=leter_sid", "codes=nowhere.index.json"])
def test_misspelt_published_codes_fail_before_anything_is_fitted(bad: str, tmp_path: Path):
    records = []
    with pytest.raises(DataError):
        compare_codes(["semid:cf_codes", bad], world(), out=tmp_path, settings=SETTINGS, device="cpu",
                      log=lambda *_: Log(view=records.append))
    assert records == []


def test_p5_and_mmgrec_are_measured_too(tmp_path: Path):
    settings = {"mmgrec": {**dataclasses.asdict(mmgrec.smoke()), "graph_epochs": 2, "tokenizer_epochs": 5}, "probe": TINY}
    ways = compare_codes(["p5:sequential", "mmgrec"], world(), out=tmp_path, settings=settings, device="cpu").ways
    assert [way.measured.churn is None for way in ways] == [True, False]  # P5's names are given anew each time
    assert all(way.ids.num_distinct == 64 for way in ways)


def test_an_earlier_catalogue_that_is_too_small_for_a_tokenizer_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    records = []
    monkeypatch.setattr("semid.laboratory.earlier", lambda split, share: (walk(users=40, items=40), np.arange(40)))
    measured = compare_codes(["semid:text_codes"], world(), out=tmp_path, settings={"semid:text_codes": {"size": 60}, "probe": TINY},
                             device="cpu", log=lambda *_: Log(view=records.append)).ways[0].measured
    assert measured.churn is None
    assert any("no refit on the earlier catalogue of 40 items: tokenizer: want at least 60 items" in record.get("note", "")
               for record in records)


def test_published_codes_that_changed_in_their_file_are_measured_anew(tmp_path: Path):
    file, data = tmp_path / "X.index.json", world()
    names = data.catalog.items.ids.tolist()
    found = []
    for turn in range(2):
        tokens = {name: [f"<a_{(row * (1 + 2 * turn)) % 8}>", f"<b_{row // 8}>"] for row, name in enumerate(names)}
        file.write_text(json.dumps(tokens))
        found.append(compare_codes([f"codes={file}"], data, out=tmp_path / "out", settings={"probe": TINY}, device="cpu").ways[0])
    assert not np.array_equal(found[0].ids.codes, found[1].ids.codes)


def test_policies_that_always_add_a_level_are_not_taken_for_full_prefixes(tmp_path: Path):
    settings = {"tiger": {"size": 8, "levels": 2, "tokenizer_steps": 5}, "probe": TINY}
    found = compare_codes(["tiger"], world(), out=tmp_path, settings=settings, device="cpu")
    assert found.ways[0].measured.collisions["added_levels"] == 1
    assert not any("needed one more level" in sentence or "a free one nearby" in sentence for sentence in found.advice)


def test_constant_vectors_are_one_clear_message(tmp_path: Path):
    data = world()
    data = dataclasses.replace(data, catalog=data.catalog.with_view("text", np.ones((64, 4), np.float32)))
    with pytest.raises(DataError, match="all equal; give vectors that tell items apart"):
        compare_codes(["semid:text_codes"], data, out=tmp_path, settings=SETTINGS, device="cpu")


def test_a_prefix_with_more_items_than_codes_is_told_as_a_level_more(tmp_path: Path):
    crowded = compare_codes(["semid:text_codes"], world(), out=tmp_path, device="cpu",
                            settings={"semid:text_codes": {"size": 2, "levels": 2}, "probe": TINY})
    assert crowded.ways[0].measured.collisions["added_levels"] == 1
    assert any("needed one more level" in sentence for sentence in crowded.advice)


def test_codes_of_a_run_are_measured_without_a_probe(tmp_path: Path, capsys: pytest.CaptureFixture):
    data = world()
    titles = [f"{('red', 'green', 'blue', 'grey')[row % 4]} word{row}" for row in range(64)]  # all different, in words of their own alone
    data = dataclasses.replace(data, catalog=dataclasses.replace(data.catalog, text={"title": titles}))
    run = train("semid:text_codes", data, out=tmp_path / "run", settings={**SMALL, **TINY, "epochs": 1})
    measured = of_run(run).ways[0].measured
    assert (measured.probe, measured.churn, measured.seconds) == (None, None, None)
    assert measured.collisions["colliding_share_before"] >= 3 / 64
    assert cli.main(["codes", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["items"] == 64
    assert told["measured"]["agreement"].keys() == {"behaviour", "content"}
    assert told["ground"]["category"] == "category"
    assert told["ground"]["twins"]["content"] == 0, "hashed, words of one item alone are nothing"
    assert Path(told["report"]).read_text(encoding="utf-8").count("<section") == 7
    assert cli.main(["codes", str(tmp_path / "run")]) == 0
    assert "What to do" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_compares_codes_and_refuses_flags_that_say_nothing_about_them(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    index = tmp_path / "somebody's codes" / "toy.index.json"
    index.parent.mkdir()
    index.write_text(json.dumps({f"i{row}": [f"<a_{row % 8}>", f"<b_{row // 8}>"] for row in range(64)}))
    command = ["compare", "semid:cf_codes", "semid", f"codes={index}", "--codes",
               "--data", str(toy / "events.csv"), "--items", str(toy / "items.csv"), "--out", str(tmp_path),
               "--set", "semid.size=8", "--set", "semid:cf_codes.size=8", "--set", "semid.text=hashed",
               *(f for name, value in TINY.items() for f in ("--set", f"probe.{name}={value}"))]
    assert cli.main([*command, "--quiet", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [way["name"] for way in told["ways"]] == ["semid:cf_codes", "semid", f"codes={index}"]
    assert told.items() >= json.loads((tmp_path / "codes.json").read_text()).items()
    assert "semid train semid" in Path(told["report"]).read_text(encoding="utf-8")
    assert len(list(tmp_path.glob("codes=*/way.json"))) == 1
    assert cli.main([*command, "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "NDCG@10 of the probe" in shown
    assert "validation NDCG@10" in shown
    for extra in (["--seeds", "3"], ["--no-baselines"], ["--results", "x"]):
        assert cli.main([*command, *extra]) == 2
        assert f"compare --codes: {extra[0]} is for trained recipes" in capsys.readouterr().err
    assert cli.main([*command[:1], "ease", *command[2:]]) == 2


def test_published_codes_need_no_recipe():
    assert check_way("codes=letter_sid", {}) is None
