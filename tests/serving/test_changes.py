"""Items come, change and go: old ones keep their codes, new ones are real and recommendable, all of it survives reopening."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

import semid
from semid import cli
from semid.errors import ConfigError, DataError, RunError, UnknownId
from semid.newcomers import Newcomers
from semid.run import load
from semid.serving.app import create_app
from semid.serving.contract import Request
from semid.serving.engine import Engine
from semid.serving.histories import open_store
from semid.serving.journal import Journal, merged
from semid.serving.limits import Limits
from semid.serving.metrics import Metrics
from semid.serving.security import Guard
from semid.serving.service import Service
from tests.serving import world

NEW = range(60, 66)
EVERYTHING = Request(("i6", "i12"), k=100, beams=100, seen="keep")


def shown(engine: Engine, request: Request = EVERYTHING) -> dict[str, float]:
    [answer] = engine.recommend([request])
    assert answer.error is None, answer.error
    return dict(zip(answer.item_ids, answer.scores, strict=True))


def test_new_items_are_recommended_with_free_codes_and_old_ones_keep_theirs(copied):
    engine = Engine.open(copied)
    before, held = engine.snapshot, len(engine._serving.states.held)
    shown(engine)
    change = engine.add(world.items(NEW))
    assert (change.kind, change.count, change.items, change.version) == ("add", 6, 66, 2)
    after = engine.snapshot
    codes = after.codes.ids.codes
    assert np.array_equal(codes[:60], before.codes.ids.codes)
    assert len(np.unique(codes, axis=0)) == 66
    scores = shown(engine)
    assert set(scores) == {f"i{row}" for row in range(66)}
    assert np.exp(list(scores.values())).sum() == pytest.approx(1, abs=1e-4)
    # What began with the snapshot before still ends with it, and states of histories stay valid.
    assert len(before) == 60
    assert len(engine._serving.states.held) == held + 1
    # A new item is in histories, in rules, and near those of its kind.
    assert engine.recommend([Request(("i61", "i63"), k=5)])[0].error is None
    assert set(shown(engine, Request(("i6",), k=9, where="price = 8 and title like '%glass vase'"))) <= {"i17", "i35", "i53", "i71", "i65"}
    assert engine.similar("i62", 3)[0].title.endswith("wool scarf")
    assert engine.similar("i62", 3, by="together") == []
    nodes = after.codes.generator.node
    last = after.codes.tree.order >= 60
    assert not nodes[-1][last].any()
    assert not after.codes.generator.input.item.weight[60:].any()


def test_changes_survive_reopening_and_leave_the_trained_run_alone(copied):
    engine = Engine.open(copied)
    engine.add(world.items(range(60, 62)))
    engine.add(world.items(range(62, 64)).select(["item_id", "title", "tags"]))
    engine.update(pa.table({"item_id": ["i60", "i3"], "price": [77.0, 78.0], "title": ["a new name", "steel bowl"]}))
    engine.remove(["i1", "i61"])
    again = Engine.open(copied)
    assert shown(again) == pytest.approx(shown(engine), abs=1e-5)
    assert np.array_equal(again.snapshot.codes.ids.codes, engine.snapshot.codes.ids.codes)
    assert again.snapshot.catalog.table.equals(engine.snapshot.catalog.table)
    assert again.snapshot.catalog.titles == engine.snapshot.catalog.titles
    assert again.item("i62")["attributes"]["price"] is None
    assert again.item("i1")["removed"]
    assert len(load(copied).catalog) == 60
    assert sorted(p.name for p in (copied / "changes").iterdir()) == [f"00000{n}.parquet" for n in (1, 2, 3, 4)]


def test_many_changes_in_any_order_are_few_when_read_again(copied):
    engine = Engine.open(copied)
    for day in range(6):
        new = 60 + 2 * day
        engine.add(world.items(range(new, new + 2)))
        engine.update(pa.table({"item_id": ["i3", f"i{new}"], "price": [float(day), 50.0 + day]}))
        engine.remove([f"i{day}", f"i{new + 1}"])
        engine.restore([f"i{day - 1}"] if day % 2 else [f"i{new + 1}"])
    assert [(kind, len(table)) for kind, table in merged(Journal(copied).read())] == [
        ("add", 12), ("update", 12), ("remove", 6), ("restore", 6)]
    again = Engine.open(copied)
    assert again.snapshot.version == engine.snapshot.version == 25
    again.swap(copied)
    assert again.snapshot.version == 26
    assert again.snapshot.catalog.table.equals(engine.snapshot.catalog.table)
    assert np.array_equal(again.snapshot.alive, engine.snapshot.alive)
    assert np.array_equal(again.snapshot.codes.ids.codes, engine.snapshot.codes.ids.codes)
    assert shown(again) == pytest.approx(shown(engine), abs=1e-5)


def test_removed_items_are_never_shown_but_may_be_read(copied):
    engine = Engine.open(copied)
    change = engine.remove(["i6", "i7"])
    assert (change.kind, change.count, change.items) == ("remove", 2, 58)
    assert engine.remove(["i6"]).count == 0  # it was removed already
    assert set(shown(engine)) == {f"i{row}" for row in range(60)} - {"i6", "i7"}
    assert "i6" not in {near.item_id for near in engine.similar("i0", 60)}
    assert engine.search("garden hose", 60)
    assert "i6" not in {near.item_id for near in engine.search("garden hose", 60)}
    with pytest.raises(UnknownId):
        engine.remove(["i8", "i999"])
    assert "i8" in shown(engine)


def test_a_removed_item_comes_back_as_it_was(copied):
    engine = Engine.open(copied)
    before = shown(engine)
    engine.add(world.items(range(60, 62)))
    whole = shown(engine)
    engine.remove(["i6", "i61"])
    with pytest.raises(DataError, match="'i61'.*restore"):
        engine.add(world.items(range(61, 62)))
    change = engine.restore(["i61", "i6", "i6"])
    assert (change.kind, change.count, change.items) == ("restore", 2, 62)
    assert shown(engine) == whole != before
    assert shown(Engine.open(copied)) == pytest.approx(whole, abs=1e-5)
    with pytest.raises(UnknownId):
        engine.restore(["i999"])


def test_changed_attributes_forget_the_masks_of_predicates(copied):
    engine = Engine.open(copied)
    cheap = Request(("i6",), k=60, where="price < 1", seen="keep")
    before = set(shown(engine, cheap))
    assert before == {f"i{row}" for row in range(0, 60, 9)}
    engine.update({"item_id": ["i9", "i1"], "price": [5.5, 0.5]})
    assert set(shown(engine, cheap)) == before - {"i9"} | {"i1"}


@pytest.mark.parametrize(("table", "words"), [
    (world.items(range(58, 62)), "'i58' and 1 more are in the catalogue already"),
    (world.items(range(59, 61)), "'i59' is in the catalogue already"),
    (world.items(NEW).append_column("colour", pa.array(["x"] * 6)), "unknown column 'colour'"),
    (world.items(NEW).set_column(4, "price", pa.array(["cheap"] * 6)), "column 'price': want double"),
    (world.items(NEW).set_column(1, "title", pa.array([""] * 6)).drop_columns(["category", "tags"]), "no text to encode"),
    (world.items(range(60, 61)).take([0, 0]), "an item id that an earlier row has\nmend them: all of a table is taken, or none of it"),
])
def test_a_bad_table_changes_nothing_and_says_why(copied, table, words):
    engine = Engine.open(copied)
    with pytest.raises(DataError) as error:
        engine.add(table)
    assert words in str(error.value)
    assert engine.snapshot.version == 1
    assert not (copied / "changes").exists()


def test_a_run_that_ranks_items_directly_says_that_it_takes_no_new_ones(knn_folder, tmp_path):
    folder = shutil.copytree(knn_folder, tmp_path / "knn")
    engine = Engine.open(folder)
    with pytest.raises(ConfigError, match="recipe 'item_knn' keeps a vector or a row of counts"):
        engine.add(world.items(NEW))
    assert engine.remove(["i0"]).items == 59


def test_a_recipe_of_codes_without_a_way_for_new_items_says_so(tmp_path):
    """Its codes are its own work, not ready-made ones."""
    settings = {"text": "hashed", "size": 8, "width": 16, "heads": 2, "head_width": 8, "layers": 1, "feedforward": 16, "experts": 2,
                "steps": 2, "look_every": 2, "ipa.rounds": 0}
    engine = Engine.open(world.train("onerec", tmp_path / "run", settings).folder)
    with pytest.raises(ConfigError, match="recipe 'onerec' has no way to give codes to new items"):
        engine.add(world.items(NEW))


def test_a_run_of_published_codes_answers_but_takes_no_new_items(tmp_path, capsys: pytest.CaptureFixture):
    codes = {f"i{row}": [f"<a_{row // 8}>", f"<b_{row % 8}>"] for row in range(60)}
    (tmp_path / "shop.index.json").write_text(json.dumps(codes))
    settings = {name: value for name, value in world.SMALL.items() if name != "size"}
    settings |= {"epochs": 1, "codes": str(tmp_path / "shop.index.json")}
    folder = world.train("semid", tmp_path / "run", settings).folder
    assert len(shown(Engine.open(folder))) == 60
    pq.write_table(world.items(NEW), tmp_path / "new.parquet")
    assert cli.main(["add", str(folder), "--items", str(tmp_path / "new.parquet")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "this run can't make codes of new items: its own came ready-made" in told
    assert "shop.index.json" in told


def test_what_new_items_need_is_loaded_ahead(copied):
    engine = Engine.open(copied)
    newcomers = engine.snapshot.newcomers
    assert "encode" not in newcomers.__dict__
    engine.prepare()
    assert newcomers.is_checked.is_set()
    encode = newcomers.encode
    engine.add(world.items(NEW))
    assert engine.snapshot.newcomers.encode is encode


def test_an_item_that_comes_meanwhile_waits_for_the_same_encoder(copied, monkeypatch):
    engine, checked, begun, go_on = Engine.open(copied), [], Event(), Event()
    original = Newcomers._check_encoder
    monkeypatch.setattr(Newcomers, "_check_encoder", lambda self, ids: (
        checked.append(1), begun.set(), go_on.wait(30), original(self, ids)))
    with ThreadPoolExecutor(2) as threads:
        preparing = threads.submit(engine.prepare)
        begun.wait(30)
        adding = threads.submit(engine.add, world.items(NEW))
        assert not adding.done()
        go_on.set()
        preparing.result(30)
        assert adding.result(30).count == 6
    assert checked == [1]


def test_titles_that_are_ids_too_are_kept(copied):
    engine = Engine.open(copied)
    engine.update({"title": ["i3"], "item_id": ["i3"]})
    assert engine.item("i3")["title"] == "i3"
    assert engine.add({"title": ["lamp"], "item_id": ["lamp"]}).count == 1
    assert engine.item("lamp")["attributes"]["title"] == "lamp"


def test_a_change_whose_name_may_not_last_is_taken_back(copied, monkeypatch):
    engine, open_files, flush = Engine.open(copied), len(os.listdir("/dev/fd")), os.fsync

    def flush_files_alone(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EIO, "broken")
        flush(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", flush_files_alone)
        with pytest.raises(RunError, match="broken; nothing was changed"):
            engine.remove(["i1"])
    assert list((copied / "changes").iterdir()) == []
    assert engine.remove(["i1"]).version == 2
    assert len(os.listdir("/dev/fd")) == open_files


def test_a_run_that_is_read_again_keeps_the_encoder_of_its_items(copied, tmp_path):
    engine = Engine.open(copied)
    engine.prepare()
    encode = engine.snapshot.newcomers.encode
    engine.swap(copied)
    assert engine.snapshot.newcomers.encode is encode
    renamed = world.items().set_column(1, "title", [[f"new {title}" for title in world.items()["title"].to_pylist()]])
    other = semid.train("semid", semid.read(world.events(), renamed), out=tmp_path / "other", settings={**world.SMALL, "epochs": 1})
    engine.swap(other.folder)
    assert "encode" not in vars(engine.snapshot.newcomers)


def test_an_item_removed_twice_is_counted_once_and_none_is_refused(copied):
    engine = Engine.open(copied)
    assert engine.remove(["i1", "i1"]).count == 1
    with pytest.raises(DataError, match="want one item id or more"):
        engine.remove([])


def test_another_encoder_than_the_runs_is_found_out(copied):
    engine = Engine.open(copied)
    newcomers = engine.snapshot.newcomers
    newcomers.__dict__["encode"] = lambda catalog: np.eye(len(catalog), newcomers.content_width, dtype=np.float32)
    with pytest.raises(ConfigError, match="not the one this run was trained with"):
        engine.add(world.items(NEW))


def test_own_vectors_are_taken_as_they_are_and_their_width_checked(copied):
    engine = Engine.open(copied)
    width = engine.snapshot.newcomers.content_width
    vectors = engine.snapshot.content[[8, 9]].numpy()
    engine.add(world.items(range(60, 62)), views={"text": vectors})
    assert engine.similar("i60", 1)[0].item_id in ("i8", "i2", "i14", "i20", "i26", "i32", "i38", "i44", "i50", "i56")
    with pytest.raises(DataError, match=f"want width {width} as in training, got 3"):
        engine.add(world.items(range(62, 64)), views={"text": np.ones((2, 3), np.float32)})


def test_two_processes_that_change_one_run_are_found_out(copied):
    first, second = Engine.open(copied), Engine.open(copied)
    first.remove(["i0"])
    with pytest.raises(RunError, match="another process changed this run meanwhile"):
        second.remove(["i1"])
    assert "i1" in shown(second)
    second.swap(copied)
    second.remove(["i1"])
    assert {"i0", "i1"} & set(shown(second)) == set()


def test_a_server_whose_run_a_command_changed_says_what_to_send_first(copied, tmp_path):
    service = Service(Engine.open(copied), open_store(str(tmp_path / "h.sqlite")), limits=Limits(), metrics=Metrics(), folder=copied)
    with TestClient(create_app(service, Guard(None)), base_url="http://127.0.0.1") as client:
        assert cli.main(["remove", str(copied), "--items", "i0"]) == 0
        answer = client.post("/items/remove", json={"item_ids": ["i1"]})
        assert (answer.status_code, "retry-after" in answer.headers) == (409, False)
        assert "POST /reload" in answer.json()["error"]
        assert client.post("/reload").status_code == 200
        assert client.post("/items/remove", json={"item_ids": ["i1"]}).json()["items"] == 58


def test_a_damaged_change_is_told(copied):
    Engine.open(copied).remove(["i0"])
    path = copied / "changes" / "000001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data[:-9]))
    with pytest.raises(RunError, match="000001.parquet: cannot be read"):
        Engine.open(copied)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["tiger:causal", "grid:causal"])
def test_systems_with_a_numbered_last_level_take_new_items_too(recipe, tmp_path):
    settings = {"text": "hashed", "size": 8, "width": 16, "heads": 2, "head_width": 8, "layers": 1, "feedforward": 32, "tokens": 256,
                "steps": 20, "look_every": 20, "optimization.warmup": 2}
    if recipe.startswith("tiger"):
        settings |= {"latent": 8, "tokenizer_steps": 100}
    engine = Engine.open(world.train(recipe, tmp_path / "run", settings).folder)
    before = engine.snapshot.codes.ids.codes
    taken = 0
    mixed = [f"{one.split()[0]} {two.split()[1]}" for one in world.KINDS for two in world.KINDS if one != two]
    for row, title in enumerate(mixed, 60):
        try:
            taken += engine.add({"item_id": [f"i{row}"], "title": [title]}).count
        except DataError:  # the numbers of its group are all taken
            continue
    codes = engine.snapshot.codes.ids.codes
    assert taken > 0
    assert np.array_equal(codes[:60], before)
    assert len(np.unique(codes, axis=0)) == len(np.unique(before, axis=0)) + taken
    assert len(shown(engine)) == 60 + taken


@pytest.mark.slow
@pytest.mark.parametrize("voices", [("item_knn",), ("item_knn", "sasrec")])
def test_fusion_takes_new_items(tmp_path, voices):
    settings = {**world.SMALL, "epochs": 1, "voices": voices, "sasrec.epochs": 1}
    folder = world.train("semid:fusion", tmp_path / "run", settings).folder
    assert len(json.loads((folder / "fusion.json").read_text())["weights"]) == 1 + len(voices)
    engine = Engine.open(folder)
    engine.add(world.items(NEW))
    assert len(shown(engine)) == 66


def test_a_column_that_was_whole_takes_fractions_and_keeps_them(tmp_path):
    whole = world.items().set_column(world.items().schema.get_field_index("price"), "price", pa.array(range(60), pa.int64()))
    semid.train("semid", semid.read(world.events(), whole), out=tmp_path / "run", settings={**world.SMALL, "epochs": 1})
    engine = Engine.open(tmp_path / "run")
    cheap = Request(("i6",), k=100, where="price < 1.5", seen="keep")
    assert set(shown(engine, cheap)) == {"i0", "i1"}
    engine.update(pa.table({"item_id": ["i9"], "price": [3.0]}))  # as a program sends whole numbers
    assert engine.snapshot.catalog.table["price"].type == pa.int64()
    engine.update(pa.table({"item_id": ["i7", "i8"], "price": [1.25, None]}))
    engine.update(pa.table({"item_id": ["i1"], "price": [4]}))
    new = world.items(range(60, 62)).set_column(4, "price", pa.array([0.5, 7.0]))
    assert new.column_names[4] == "price"
    engine.add(new)
    for opened in (engine, Engine.open(tmp_path / "run")):
        assert set(shown(opened, cheap)) == {"i0", "i7", "i60"}
        assert opened.item("i7")["attributes"]["price"] == 1.25
        assert opened.item("i8")["attributes"]["price"] is None
        assert opened.item("i9")["attributes"]["price"] == 3


def test_a_table_of_all_items_adds_the_new_and_updates_the_known(copied, tmp_path, capsys: pytest.CaptureFixture):
    everything = world.items(range(63)).set_column(4, "price", pa.array([float(row) for row in range(63)]))
    pq.write_table(everything, tmp_path / "all.parquet")
    for verb, flag, said in (("update", "--skip-unknown", "60 items changed"), ("add", "--skip-known", "3 items added"),
                             ("add", "--skip-known", "0 items added"), ("update", "--skip-unknown", "63 items changed")):
        assert cli.main([verb, str(copied), "--items", str(tmp_path / "all.parquet"), flag]) == 0
        assert said in capsys.readouterr().out
    engine = Engine.open(copied)
    assert len(engine.snapshot) == 63
    assert engine.item("i59")["attributes"]["price"] == 59
    assert engine.update(world.items(range(70, 72)), skip_unknown=True).count == 0
    assert cli.main(["add", str(copied), "--items", str(tmp_path / "all.parquet")]) == 2
    assert "leave them out (skip_known)" in " ".join(capsys.readouterr().err.split())
