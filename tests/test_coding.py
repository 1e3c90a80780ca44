"""Codes from elsewhere in place of a tokenizer, and codes of a run for elsewhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from semid import cli
from semid.codes import ids_of
from semid.coding import made_once, make, published
from semid.data.items import texts
from semid.data.letter import codes_of_tokens, read_index_json, write_index_json
from semid.errors import ConfigError, DataError
from semid.recipes import semid as default
from semid.run import Run, configure, load, train
from semid.serving.engine import Engine
from semid.tokenizers.collisions import minimum_cost
from semid.training.job import Job
from semid.types import IdMap, SemanticIds, Split
from tests.toyworld.world import walk


def world() -> Split:
    """The toy world with published codes <a_ row / 8><b_ row % 8>, but items 1 and 2 have those of 0."""
    data = walk(users=60)
    tokens = [[f"<a_{item // 8}>", f"<b_{item % 8}>"] for item in range(64)]
    tokens[1] = tokens[2] = tokens[0]
    catalog = data.catalog
    table = catalog.table.append_column("letter_sid", [tokens])
    return dataclasses.replace(data, catalog=dataclasses.replace(catalog, table=table))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("coding") / "run"
    settings = {**dataclasses.asdict(default.smoke()), "codes": "letter_sid", "epochs": 1}
    train("semid", world(), out=out, settings=settings)
    return load(out)


def test_a_generator_takes_published_codes_in_place_of_its_tokenizer(run: Run):
    ids = ids_of(run)
    assert ids is not None
    assert ids.sizes == (8, 8)
    rows = [row for row in range(64) if row not in (0, 1, 2)]
    np.testing.assert_array_equal(ids.codes[rows], [[row // 8, row % 8] for row in rows])
    assert "letter_sid" in ids.source
    assert run.folder is not None
    assert not (run.folder / "tokenizer.safetensors").exists()


def test_items_that_share_published_codes_are_told_apart_and_the_most_popular_keeps_its_own(run: Run):
    ids, counts = ids_of(run), run.split.train.counts
    keeps = max((0, 1, 2), key=lambda row: (counts[row], -row))
    assert ids.num_distinct == 64
    assert ids.codes[keeps].tolist() == [0, 0]
    moved = sorted((row for row in (0, 1, 2) if row != keeps), key=lambda row: (-counts[row], row))
    assert ids.codes[moved].tolist() == [[0, 1], [0, 2]]  # what items 1 and 2 left free, the lowest first


def test_exported_codes_read_back_as_the_same_ids(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture):
    file = tmp_path / "toy.index.json"
    assert cli.main(["codes", str(run.folder), "--export", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == 64
    again = read_index_json(file, run.catalog.items)
    np.testing.assert_array_equal(again.codes, ids_of(run).codes)
    np.testing.assert_array_equal(published(str(file), run.split, Job()).codes, again.codes)


def test_padding_is_not_exported_and_too_many_levels_are_refused(tmp_path: Path):
    names = IdMap(["x", "y"])
    ids = SemanticIds(np.array([[3, 0], [1, -1]], np.int16), (4, 2))
    write_index_json(tmp_path / "a.index.json", ids, names)
    assert json.loads((tmp_path / "a.index.json").read_text()) == {"x": ["<a_3>", "<b_0>"], "y": ["<a_1>"]}
    np.testing.assert_array_equal(read_index_json(tmp_path / "a.index.json", names).codes, ids.codes)
    with pytest.raises(DataError, match="want at most 26 levels"):
        write_index_json(tmp_path / "b.index.json", SemanticIds(np.zeros((2, 27), np.int16), (1,) * 27), names)


def test_codes_of_several_lengths_are_filled_so_that_every_generator_reads_them(tmp_path: Path):
    data = world()
    names = data.catalog.items.ids.tolist()
    index = {name: [f"<a_{row % 16}>", f"<b_{row // 16}>"][: 1 + (row != 5)] for row, name in enumerate(names)}
    index[names[6]] = ["<a_5>"]  # equal to that of row 5
    file = tmp_path / "X.index.json"
    file.write_text(json.dumps(index))
    ids = published(str(file), data, Job())
    assert ids.sizes == (16, 5)  # one more at the level that some have not
    assert (ids.codes >= 0).all()
    assert ids.num_distinct == 64
    run = train("semid", data, settings={**dataclasses.asdict(default.smoke()), "epochs": 1, "codes": str(file)})
    assert len(run.recommend(history=names[:2], k=3)) == 3


@pytest.mark.parametrize("codes", [7, "<a_1>", {"<a_1>": 1}, [True]])
def test_codes_of_the_wrong_type_are_one_clear_message(codes):
    with pytest.raises(DataError, match="item 'x': want a "):
        codes_of_tokens([codes], IdMap(["x"]), "codes")


def test_exported_codes_have_a_name_by_which_they_are_read_again(run: Run, tmp_path: Path):
    ids, items = ids_of(run), run.catalog.items
    write_index_json(tmp_path / "e.index.json.gz", ids, items)
    np.testing.assert_array_equal(published(str(tmp_path / "e.index.json.gz"), run.split, Job()).codes, ids.codes)
    with pytest.raises(DataError, match=r"want a name that ends in \.json or \.json\.gz, such as e\.index\.json"):
        write_index_json(tmp_path / "e.txt", ids, items)


def test_minimum_cost_is_a_setting_of_semid():
    module, config = configure("semid", {"collisions": "minimum_cost", "size": 8})
    assert module.coder(config, world(), Job()).policy is minimum_cost


def test_unknown_columns_and_items_without_codes_are_one_clear_message():
    data = world()
    with pytest.raises(DataError, match=r"codes=leter_sid: want a column of the items table \(did you mean 'letter_sid'\?\)"):
        published("leter_sid", data, Job())
    with pytest.raises(DataError, match="column 'title': item 'item0': want a list of tokens such as .* got 'Item number 0'"):
        published("title", data, Job())
    with pytest.raises(DataError, match="nowhere.index.json: cannot be read"):
        published("nowhere.index.json", data, Job())


def test_a_recipe_with_two_generators_has_one_place_for_published_codes():
    for name in ("letter", "cost"):
        assert configure(name, {"codes": "letter_sid"})[1].codes == "letter_sid"
        for nested in ("tiger", "two_level"):
            with pytest.raises(ConfigError, match=rf"setting {nested}.codes='letter_sid': .* want codes=letter_sid"):
                configure(name, {f"{nested}.codes": "letter_sid"})


@pytest.mark.parametrize("name", ["semid", "semid:rqvae", "semid:product", "letter:two_level", "cost:two_level"])
def test_under_semid_s_generator_items_with_the_same_codes_are_told_apart_alike(name: str):
    """The tokenizer alone differs: same policy, no level more than the tokenizer's own."""
    data = world()
    twins = data.catalog.view("text").copy()
    twins[1] = twins[2] = twins[0]
    data = dataclasses.replace(data, catalog=data.catalog.with_view("text", twins))
    small = {"size": 8, "levels": 3, "latent": 8, "tokenizer_steps": 20}
    own = {"size": 8, "code_views": ["text"], **({"tokenizer_steps": 20} if name == "semid:rqvae" else {})}
    settings = own if name.startswith("semid") else {f"tiger.{key}": value for key, value in small.items()}
    module, config = configure(name, settings | ({"cf": "spectral", "groups": 2} if name.startswith("letter") else {}))
    coder = module.coder(config, data, Job())
    made = make(coder.tokenizer.fit(coder.catalog, seed=0), coder.catalog, coder.policy, data.train.counts)
    assert made.before.codes[0].tolist() == made.before.codes[1].tolist()
    assert made.ids.sizes == (8, 8, 8)
    assert made.ids.order == "sequence"
    assert made.ids.num_distinct == 64
    group = np.flatnonzero((made.before.codes == made.before.codes[0]).all(1))
    keeps = max(group, key=lambda row: (data.train.counts[row], -row))
    assert made.ids.codes[keeps].tolist() == made.before.codes[keeps].tolist()


def test_a_run_of_published_codes_answers_but_takes_no_new_items(run: Run):
    assert Engine.open(run.folder).snapshot.newcomers is None


def test_a_run_that_goes_on_keeps_its_codes(tmp_path: Path):
    """Codes made again elsewhere may differ in places; the checkpoint is of those that were there."""
    ids, other = (SemanticIds(np.array(codes, np.int16), (2, 2)) for codes in ([[0, 1], [1, 0]], [[1, 1], [0, 0]]))
    begun, resumed = Job(out=tmp_path), Job(out=tmp_path, resume=True)
    assert made_once("", lambda: ids, walk(), begun) is ids
    np.testing.assert_array_equal(made_once("", lambda: other, walk(), resumed).codes, ids.codes)
    assert made_once("", lambda: other, walk(), begun) is other


def test_what_a_tokenizer_draws_leaves_the_training_after_it_as_it_was(run: Run):
    """A run that goes on reads its codes: its generator must start as that of a run that made them."""
    def starts(tokenize) -> torch.Tensor:
        torch.manual_seed(3)
        made_once(None, tokenize, world(), Job())
        return torch.rand(4)

    def drawing() -> SemanticIds:
        torch.rand(7)
        return ids_of(run)

    assert torch.equal(starts(drawing), starts(lambda: ids_of(run)))


@pytest.mark.parametrize("name", ["letter", "cost", "colarec", "p5"])
def test_settings_of_semid_alone_are_refused_where_its_generator_takes_other_codes(name: str):
    with pytest.raises(ConfigError, match="fusion is for the recipe semid alone"):
        configure(name, {"two_level.fusion": True})
    if name != "p5":  # which reads published codes there
        with pytest.raises(ConfigError, match="want codes=letter_sid"):
            configure(name, {"two_level.codes": "letter_sid"})


@pytest.mark.parametrize("token", ["<b_99999999999>", 2_000_000_000])
def test_a_stray_large_code_is_one_clear_message(token: str | int):
    first = "<a_1>" if isinstance(token, str) else 1
    with pytest.raises(DataError, match=r"item 'y': want codes below 1,048,576, got"):
        codes_of_tokens([[first, first if isinstance(token, int) else "<b_1>"], [first, token]], IdMap(["x", "y"]), "codes")


def test_columns_of_published_codes_are_no_text():
    table = pa.table({"title": ["a", "b"], "tokens": [["<a_1>", "<b_2>"], ["<a_1>", "<b_3>"]], "tags": [["red"], ["blue"]]})
    assert list(texts(table, None, "items")) == ["title", "tags"]
    assert list(texts(table, ["tokens"], "items")) == ["tokens"]
