"""A run folder: what is saved is what is loaded, and whatever was done to it since is said in one message."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

import semid
from semid import comparison
from semid.data.read import Dataset
from semid.errors import ConfigError, DataError, RunError, UnknownId
from semid.recipes import semid as semid_recipe
from semid.run import Run, load, train, write_manifest
from semid.serving.contract import Request
from semid.serving.engine import Engine
from semid.training.log import Log
from semid.types import Protocol
from tests.toyworld.world import walk

ONE = {"decay": [0.5], "backward": [0.5], "norm": [0.5]}
"""Item-kNN without a search."""


@pytest.fixture(scope="module")
def data(toy: Path) -> Dataset:
    return semid.read(toy / "events.csv", toy / "items.csv")


@pytest.fixture(scope="module")
def original(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train("item_knn", data, out=tmp_path_factory.mktemp("run") / "knn", settings=ONE)


@pytest.fixture
def folder(original: Run, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    assert original.folder
    return Path(shutil.copytree(original.folder, tmp_path / "copy"))


@pytest.mark.parametrize("recipe", ["popularity", "item_knn", "ease", "sasrec"])
def test_a_loaded_run_answers_as_the_trained_one(recipe: str, data: Dataset, tmp_path: Path):
    settings = {"epochs": 1, "epoch_steps": 0, "width": 16} if recipe == "sasrec" else {}
    run = train(recipe, data, out=tmp_path / recipe, settings=settings, device="cpu")
    again = load(tmp_path / recipe)
    ruled = {"user": "u3", "where": "price < 10", "seen": "keep"}
    for ask in ({"user": "u3"}, {"history": ["i1", "i6"]}, {"history": []}, ruled):
        assert again.recommend(**ask) == run.recommend(**ask)
    assert again.config == run.config
    assert again.split.fingerprint == run.split.fingerprint == data.fingerprint
    np.testing.assert_array_equal(again.split.source.time, run.split.source.time)
    assert again.catalog.titles == run.catalog.titles


def test_the_folder_holds_its_config_and_no_pickle(original: Run):
    assert original.folder
    about = json.loads((original.folder / "config.json").read_text())
    assert about["recipe"] == "item_knn"
    assert about["config"]["decay"] == [0.5]
    assert {"seed", "protocol", "protocol_hash", "data", "versions", "machine", "seconds", "parameters"} <= about.keys()
    assert {file.suffix for file in original.folder.iterdir()} <= {".json", ".jsonl", ".parquet", ".safetensors"}


def test_an_edited_file_is_refused(folder: Path):
    file = folder / "scorer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"scorer.safetensors: changed since training \(SHA-256"):
        load(folder)


def test_an_edited_config_is_refused(folder: Path):
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunError, match=r"config.json: changed since training"):
        load(folder)


@pytest.mark.parametrize("name", ["scorer.safetensors", "catalog.parquet", "users.parquet", "interactions.parquet"])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(RunError, match=rf"{name}: missing; the manifest lists it with [\d,]+ bytes"):
        load(folder)


def test_a_run_that_has_not_finished_says_how_to_go_on(folder: Path):
    (folder / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"training has not finished .* --resume"):
        load(folder)


def test_a_run_of_a_newer_version_is_refused(folder: Path):
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(RunError, match=r"written by a newer semid \(layout 99, this one reads 1\)"):
        load(folder)


def test_weights_of_another_version_are_one_message(data: Dataset, tmp_path: Path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "sasrec"
    train("sasrec", data, out=folder, settings={"epochs": 1, "epoch_steps": 0, "width": 16}, device="cpu")
    weights = load_file(folder / "scorer.safetensors")
    save_file({**weights, "future": torch.zeros(1)}, folder / "scorer.safetensors")
    write_manifest(folder)
    with pytest.raises(RunError, match=r"don't fit recipe 'sasrec' of this version \(Unexpected key.*\"future\".*\); open the run with"):
        load(folder)


def test_a_damaged_config_is_one_message(folder: Path):
    (folder / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config.json: cannot be read"):
        load(folder)


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(RunError, match=r"not a run folder .* semid train RECIPE --data"):
        load(tmp_path)


def test_an_existing_run_is_never_overwritten(data: Dataset, folder: Path):
    with pytest.raises(ConfigError, match="holds a run already; continue it with --resume"):
        train("popularity", data, out=folder)


@pytest.mark.parametrize(("change", "said"), [
    ({"recipe": "popularity"}, "--resume with another recipe: the run has \"item_knn\", this call \"popularity\""),
    ({"recipe": "item_knn", "settings": {**ONE, "window": 3}},
     '--resume with another config: the run has {"window": 60}, this call {"window": 3}'),
    ({"recipe": "item_knn", "settings": ONE, "seed": 4}, "--resume with another seed"),
])
def test_resume_refuses_another_question(data: Dataset, folder: Path, change: dict, said: str):
    with pytest.raises(ConfigError) as refused:
        train(data=data, out=folder, resume=True, **change)
    assert said in str(refused.value)


def test_a_run_of_before_a_setting_is_resumed_with_its_default(data: Dataset, folder: Path):
    about = json.loads((folder / "config.json").read_text())
    profile = about["config"].pop("profile")
    (folder / "config.json").write_text(json.dumps(about))
    write_manifest(folder)
    assert train("item_knn", data, out=folder, resume=True, settings=ONE, seed=about["seed"]).config.profile == profile


def test_resume_refuses_other_data(folder: Path, toy: Path, tmp_path: Path):
    lines = (toy / "events.csv").read_text().splitlines()
    (tmp_path / "fewer.csv").write_text("\n".join(lines[:-20]))
    fewer = semid.read(tmp_path / "fewer.csv", toy / "items.csv")
    with pytest.raises(ConfigError, match="--resume with other data"):
        train("item_knn", fewer, out=folder, resume=True, settings=ONE)


def test_resume_of_a_finished_run_returns_it(data: Dataset, folder: Path, original: Run):
    before = (folder / "manifest.json").read_bytes()
    again = train("item_knn", data, out=folder, resume=True, settings=ONE)
    assert again.recommend(user="u3") == original.recommend(user="u3")
    assert (folder / "manifest.json").read_bytes() == before


def test_resume_in_a_folder_of_something_else_is_refused(data: Dataset, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="nothing to resume"):
        train("popularity", data, out=tmp_path, resume=True)


def test_a_folder_that_cannot_be_written_is_one_message(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match="cannot write the run folder: Read-only file system; choose another --out"):
        train("popularity", data, out=tmp_path / "run")


def test_two_processes_never_train_into_one_folder(data: Dataset, tmp_path: Path):
    begun = (tmp_path / "run" / "config.json")
    begun.parent.mkdir()
    with open(tmp_path / "run" / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        print(4711, end="", file=held, flush=True)
        begun.write_text("{}")
        with pytest.raises(ConfigError, match="process 4711 is training into it; wait until it has ended"):
            train("popularity", data, out=tmp_path / "run", resume=True)
        assert begun.exists()
        begun.unlink()
    train("popularity", data, out=tmp_path / "run")  # what a killed process leaves keeps nobody out
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_recipe_or_a_setting_misspelt_is_named(data: Dataset):
    with pytest.raises(ConfigError, match="unknown recipe 'sasrek' \\(did you mean 'sasrec'"):
        train("sasrek", data)
    with pytest.raises(ConfigError, match="recipe 'sasrec' has no variant 'gbc' \\(did you mean 'gbce'"):
        train("sasrec:gbc", data)
    with pytest.raises(ConfigError, match="unknown setting 'epoch' \\(did you mean 'epochs'"):
        train("sasrec", data, settings={"epoch": 1})
    with pytest.raises(ConfigError, match=r"epochs='many'.*integer"):
        train("sasrec", data, settings={"epochs": "many"})


def test_a_refused_call_leaves_nothing_behind(data: Dataset, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "new", tmp_path / "mine"):
        with pytest.raises(DataError, match="want at least 256 items"):
            train("grid", data, out=out, settings={"text": "hashed"}, device="cpu")
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == ["mine"]


def test_a_run_never_goes_among_other_files(data: Dataset, tmp_path: Path):
    """A user's table may have the name of a file of the run: --data shop --out shop."""
    (tmp_path / "interactions.parquet").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds other files than a run's \(interactions.parquet\)"):
        train("popularity", data, out=tmp_path)
    with pytest.raises(ConfigError, match="nothing to resume"):
        train("popularity", data, out=tmp_path, resume=True)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def test_a_run_that_goes_on_counts_its_earlier_seconds_and_a_new_one_takes_no_old_checkpoint(data: Dataset, tmp_path: Path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    def stop(record: dict) -> None:
        if record.get("step") == 2 and "valid" in record:
            raise ZeroDivisionError

    def train_it(name: str, **ask: object) -> Run:
        return train("sasrec", data, out=tmp_path / name, device="cpu", **ask,
                     settings={"epochs": 4, "epoch_steps": 0, "width": 16, "tokens": 4096})

    with pytest.raises(ZeroDivisionError):  # as a killed process, after the first look
        train_it("run", log=Log(tmp_path / "run" / "metrics.jsonl", stop))
    file = tmp_path / "run" / ".sasrec.checkpoint.safetensors"
    with safe_open(file, "pt") as opened:
        progress = json.loads(opened.metadata()["progress"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    save_file(tensors, file, {"progress": json.dumps({**progress, "seconds": 5000.0, "cpu_seconds": 7000.0})})
    (tmp_path / "new").mkdir()
    shutil.copy(file, tmp_path / "new")  # what is left of a run whose visible files were deleted
    about = train_it("run", resume=True).about
    assert 5000 < about["seconds"] < 5600
    assert 7000 < about["cpu_seconds"] < 7600
    assert train_it("new").about["seconds"] < 600


def test_a_comparison_refuses_a_misspelt_setting_before_it_trains(data: Dataset, tmp_path: Path):
    with pytest.raises(ConfigError, match="unknown setting 'epoch'"):
        semid.compare(["sasrec"], data, out=tmp_path / "out", settings={"sasrec": {"epoch": 1}})
    assert not (tmp_path / "out").exists()


def test_a_system_of_its_own_keeps_its_row_beside_a_fused_one(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`semid:fusion` is shown beside its generator, under the name semid:timely, but not where that itself was asked for."""
    shown = {"semid:timely": ["semid:timely"], "semid:fusion": ["semid:timely", "semid:fusion"]}
    monkeypatch.setattr(comparison, "train", lambda recipe, *_, **__: recipe)
    monkeypatch.setattr(comparison, "measured", lambda run: [SimpleNamespace(name=name, run=run) for name in shown[run]])
    monkeypatch.setattr(comparison, "tabulate", lambda *_: None)
    of = lambda *names: {(entry.name, entry.run) for entry in semid.compare(names, data, out=tmp_path, baselines=False).entries}
    assert of("semid:fusion") == {("semid:timely", "semid:fusion"), ("semid:fusion", "semid:fusion")}
    assert of("semid:timely", "semid:fusion") == of("semid:fusion", "semid:timely") == {
        ("semid:timely", "semid:timely"), ("semid:fusion", "semid:fusion")}


def test_a_comparison_refuses_names_that_are_not_in_it(data: Dataset, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"settings for 'popularty', which is not compared \(did you mean 'popularity'\?\)"):
        semid.compare(["popularity"], data, out=tmp_path / "out", settings={"popularty": {}})
    with pytest.raises(ConfigError, match="unknown system 'letter' to test against"):
        semid.compare(["letter:no_cf"], data, out=tmp_path / "out", against="letter")
    assert not (tmp_path / "out").exists()


def test_evaluation_is_measured_once_and_kept(original: Run, monkeypatch: pytest.MonkeyPatch):
    first = original.evaluate()
    monkeypatch.setattr(original, "recommender", None)
    assert original.evaluate()["keep"].metrics == first["keep"].metrics
    assert {"diversity@10", "miscalibration@10"} <= first["keep"].metrics.keys()


def test_what_cannot_be_evaluated_or_trained_on_is_one_message(original: Run, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"evaluate: want part test or valid, got 'validation' \(did you mean 'valid'\?\)"):
        original.evaluate("validation")
    with pytest.raises(ConfigError, match="evaluate: want system item_knn, got 'x'"):
        original.evaluate(system="x")
    for begin in (semid.train, lambda recipe, data: semid.compare([recipe], data, out=tmp_path / "table")):
        with pytest.raises(ConfigError, match=r"data: want what semid.read\(...\) returns, .* got str \"events.csv\"; give semid.read"):
            begin("popularity", "events.csv")


def test_another_protocol_asks_another_question_of_the_same_recommender(original: Run):
    other = original.under(Protocol(min_history=7, max_history=5))
    assert 0 < len(other.split.test) < len(original.split.test)
    assert other.evaluate()["keep"].protocol.hash == Protocol(min_history=7, max_history=5).hash
    assert other.evaluate("valid")["remove"].num_cases == len(other.split.valid)
    with pytest.raises(ConfigError, match=r"holds back [\d,]+ of the run's [\d,]+ training events"):
        original.under(Protocol(split="time"))
    with pytest.raises(ConfigError, match="max_history of at most 50"):
        original.under(Protocol(max_history=51))


def test_recommend_refuses_what_it_cannot_know(original: Run):
    with pytest.raises(UnknownId, match="unknown user 'u999'"):
        original.recommend(user="u999")
    with pytest.raises(UnknownId, match="unknown item 'thing'"):
        original.recommend(history=["thing"])
    with pytest.raises(UnknownId, match="unknown item 'thing'"):
        original.recommend(user="u1", exclude=["thing"])
    with pytest.raises(ConfigError, match="either a user or a history, got both"):
        original.recommend(user="u1", history=["i1"])
    for given in ({"history": "12"}, {"user": "u1", "exclude": "23"}):
        with pytest.raises(ConfigError, match=r"as a list of item ids, got the text '(12|23)'"):
            original.recommend(**given)
    with pytest.raises(ConfigError, match=r"want k in \[1, 10000\], got 0"):
        original.recommend(user="u1", k=0)
    for where in ("prise < 3", "price <", "price > 10000", "category = 'x'; drop table catalog"):
        with pytest.raises(DataError, match="--where"):
            original.recommend(user="u1", where=where)


def test_no_history_gets_the_most_popular_items(original: Run):
    counts, ids = original.split.train.counts, original.catalog.items
    found = original.recommend(history=[], k=5, exclude=[str(ids.ids[int(counts.argmax())])])
    rows = ids.rows([each["item_id"] for each in found])
    wanted = np.argsort(-counts, kind="stable")[1:6]
    assert rows.tolist() == wanted.tolist()
    assert [each["score"] for each in found] == counts[wanted].tolist()


def test_where_and_exclude_hold_for_every_item(original: Run):
    answer = original.recommend(user="u1", k=64, where="category = 'toy' and price < 20", exclude=["i4"], seen="keep")
    allowed = {f"i{item}" for item in range(64) if item % 3 == 1 and item / 2 < 20} - {"i4"}
    assert {item["item_id"] for item in answer} == allowed
    assert [item["score"] for item in answer] == sorted((item["score"] for item in answer), reverse=True)


def test_too_little_memory_of_an_accelerator_names_the_settings_to_lower(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    from semid.recipes import minionerec

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(minionerec, "run", full)
    with pytest.raises(ConfigError, match=r"memory is not enough \(CUDA out of memory\. Tried to allocate 2\.00 GiB\.\); lower one of: "
                                          r"tuning\.max_tokens=512, tuning\.batch_size=16, tuning\.beams=50, alignment\.group=16, "
                                          r"alignment\.batch_size=64; optimization\.accumulate makes up for a smaller batch_size"):
        train("minionerec", data, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_too_little_memory_while_measuring_is_explained_as_well(original: Run, monkeypatch: pytest.MonkeyPatch):
    import torch

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("semid.evaluation.evaluate.evaluate", full)
    with pytest.raises(ConfigError, match=r"memory is not enough.*lower one of: .*; or take --device cpu"):
        original.evaluate("valid")


def test_a_run_answers_with_the_changes_of_its_items(tmp_path: Path):
    """As the command line and the service do: what was removed is gone, what was added can be shown."""
    world = walk(users=60)
    settings = {**dataclasses.asdict(semid_recipe.smoke()), "epochs": 1, "text": "auto"}
    run = train("semid", world, out=tmp_path / "run", settings=settings)
    history = world.catalog.items.ids[:3].tolist()
    before = [row["item_id"] for row in load(tmp_path / "run").recommend(history=history, k=64)]
    engine = Engine.open(tmp_path / "run")
    engine.remove([before[0]])
    engine.add(pa.table({"item_id": ["new"], "title": ["Item number 7"], "price": [1.0]}), views={"text": world.catalog.view("text")[[7]]})
    changed = load(tmp_path / "run")
    after = [row["item_id"] for row in changed.recommend(history=history, k=64)]
    assert set(after) == set(before) - {before[0]} | {"new"}
    asked = engine.recommend([Request(tuple(history), k=64)])[0]
    assert after == list(asked.item_ids)
    assert [row["item_id"] for row in changed.recommend(history=["new"], k=1, where="title = 'Item number 7'")]
    with pytest.raises(DataError, match="no item of 64 matches"):  # as of a run without changes
        changed.recommend(history=history, where="price > 10000")
    with pytest.raises(UnknownId, match="nowhere"):
        changed.recommend(history=history, exclude=["nowhere"])
    assert len(run.recommend(user="user3", k=5)) == 5  # opened before: it answers for the first time now
