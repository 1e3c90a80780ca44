"""Semid's fusion: what is tried on validation is what lists are worth, and a trained voice is pooled as counts are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

import semid
from semid.data.batch import case_batches, history_batch
from semid.data.split import split
from semid.errors import ConfigError
from semid.files import write_json
from semid.generators.two_level import TwoLevel
from semid.newcomers import Near
from semid.nn.hstu import HSTU
from semid.protocols import Recommender
from semid.recipes import semid as recipe
from semid.recipes.semid import choose_weights
from semid.recommenders import CodeRecommender, Fusion, ItemRecommender, is_later
from semid.run import configure, write_manifest
from semid.scorers.item_knn import ItemKNN
from semid.scorers.sasrec import SASRec
from semid.scorers.shares import Shares
from semid.serving.contract import Request
from semid.serving.engine import Engine
from semid.serving.quantized import quantized
from semid.training.job import Job
from semid.training.log import Log
from semid.tree import CodeTree
from semid.types import Batch, Catalog, IdMap, Interactions, Protocol, Split
from tests.objectives.generators import path_codes
from tests.toyworld.world import walk


@pytest.mark.parametrize("is_known", [True, False])
def test_every_weight_is_worth_what_its_lists_are_and_no_tie_is_won_by_the_target(is_known: bool):
    """Where item-kNN knows none of the candidates all are equal: a weight of 1 is then worth what the order of the rows is."""
    world, ids, records = walk(users=60), path_codes(), []
    torch.manual_seed(0)
    generator = TwoLevel(ids, width=16, heads=2, feedforward=32, max_length=20).eval()
    first = CodeRecommender(generator, ids, CodeTree.build(ids), beams=64, normalise="children")
    scorer = ItemKNN.fit(world.train, neighbours=1, profile=1)
    second = ItemRecommender(scorer if is_known else replace(scorer, weight=torch.zeros_like(scorer.weight)), "weighted co-occurrence")
    chosen = choose_weights(first, {"item_knn": second}, world, Job(log=Log(view=records.append)))
    tried, seen = records[-1]["tried"], records[-1]["seen"]
    for weights in ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0)):
        found = worth(replace(chosen, weights=weights, later=None), world, seen)
        assert tried[" ".join(map(str, weights))] == pytest.approx(found, abs=1e-4)
    assert tried[" ".join(map(str, chosen.weights))] == max(tried.values())


@pytest.mark.parametrize(("depth", "seen", "is_int8"),
                         [(8, "keep", False), (8, "remove", False), (64, "remove", False), (64, "keep", True)])
def test_every_candidate_is_there_once_with_the_exact_scores_of_all(depth: int, seen: str, is_int8: bool):
    """Also where the beams hold all there are, in 8 bits as well."""
    world, ids = walk(users=60), path_codes()
    torch.manual_seed(0)
    first = CodeRecommender(TwoLevel(ids, width=16, heads=2, feedforward=32, max_length=20).eval(), ids, CodeTree.build(ids), beams=8,
                            normalise="children")
    scorers = {"item_knn": ItemRecommender(ItemKNN.fit(world.train), ""), "sasrec": ItemRecommender(Shares(Successor(world), len(ids)), "")}
    first, allowed = quantized(first) if is_int8 else first, np.arange(len(ids)) % 5 > 0
    for _, batch in case_batches(world, world.valid):
        item, parts = Fusion(first, scorers, (0.2, 0.3, 0.5)).candidates(batch, allowed=allowed, seen=seen, depth=depth)
        for row in range(len(batch)):
            listed = item[row][item[row] >= 0]
            wanted = [recommender.recommend(batch, k=depth, allowed=allowed, seen=seen).item[row]
                      for recommender in (first, *scorers.values())]
            assert sorted(listed.tolist()) == sorted({int(i) for i in np.concatenate(wanted) if i >= 0})
        assert all(torch.equal(part == -torch.inf, item < 0) for part in parts)
        torch.testing.assert_close(parts[0], first.score_items(batch, item), rtol=1e-5, atol=1e-5)
        for part, scorer in zip(parts[1:], scorers.values(), strict=True):
            share = scorer.score(batch) / scorer.score(batch).sum(1, keepdim=True).clamp_min(1e-12)
            want = (share + 1e-6).log().gather(1, item.clamp_min(0)).masked_fill(item < 0, -torch.inf)
            torch.testing.assert_close(part, want)


def worth(recommender: Recommender, world: Split, seen: str) -> float:
    """NDCG@10 of lists on validation."""
    gains: list[float] = []
    for rows, batch in case_batches(world, world.valid):
        place = recommender.recommend(batch, k=10, seen=seen).item == world.valid.target[rows, None]
        gains += (place / np.log2(np.arange(10) + 2)).sum(1).tolist()
    return float(np.mean(gains))


def test_a_third_voice_is_heard():
    """A scorer that knows every answer decides, beside a generator and an item-kNN that know nothing."""
    world, ids, records = walk(users=60), path_codes(), []
    torch.manual_seed(0)
    first = CodeRecommender(TwoLevel(ids, width=16, heads=2, feedforward=32, max_length=20).eval(), ids, CodeTree.build(ids), beams=8,
                            normalise="children")
    nothing = ItemKNN.fit(world.train, neighbours=1, profile=1)
    nothing = replace(nothing, weight=torch.zeros_like(nothing.weight))
    voices = {"item_knn": ItemRecommender(nothing, ""), "sasrec": ItemRecommender(Shares(Successor(world), len(ids)), "")}
    chosen = choose_weights(first, voices, world, Job(log=Log(view=records.append)))
    assert set(records[-1]["chosen"]) == {"generator", "item_knn", "sasrec"}
    assert len(records[-1]["tried"]) == 66
    assert worth(replace(chosen, weights=(1.0, 0.0, 0.0), later=None), world, records[-1]["seen"]) < 0.5
    assert worth(chosen, world, records[-1]["seen"]) == 1


def test_what_comes_on_another_day_is_weighed_otherwise(monkeypatch, tmp_path):
    """One voice knows the answers of the same day and is wrong later, the other the reverse; too few cases have no weights of their own."""
    world, ids = walk(users=60), path_codes()
    world = replace(world, valid=replace(world.valid, target_time=world.valid.target_time - 3600 * (world.valid.user % 2)))
    torch.manual_seed(0)
    first = CodeRecommender(TwoLevel(ids, width=16, heads=2, feedforward=32, max_length=20).eval(), ids, CodeTree.build(ids), beams=8,
                            normalise="children")
    voices = {name: ItemRecommender(Shares(OnDays(world, is_wrong_later), len(ids)), "")
              for name, is_wrong_later in (("item_knn", True), ("recent", False))}
    together = choose_weights(first, voices, world, Job())
    assert together.weights == together.later
    assert worth(together, world, "keep") < 0.9
    monkeypatch.setattr(recipe, "FEWEST", 30)
    apart = choose_weights(first, voices, world, Job())
    assert worth(apart, world, "keep") == 1
    assert apart.weights[1] > apart.weights[2]
    assert apart.later is not None
    assert apart.later[1] < apart.later[2]
    write_json(tmp_path / "fusion.json", {"voices": list(voices), "weights": apart.weights, "later": apart.later})
    assert Fusion.load(tmp_path, first, lambda name, file: voices[name], ()) == apart
    nobody_said = replace(next(iter(case_batches(world, world.valid)))[1], extra={})
    assert not is_later(nobody_said).any()


class OnDays(nn.Module):
    """Knows the answers within a day and is wrong by a row later, or the reverse."""

    def __init__(self, world: Split, is_wrong_later: bool):
        super().__init__()
        self.successor, self.is_wrong_later = Successor(world), is_wrong_later

    def score(self, batch: Batch) -> Tensor:
        is_wrong = is_later(batch) == self.is_wrong_later
        return torch.where(is_wrong[:, None], self.successor.score(batch).roll(-1, 1), self.successor.score(batch))


class Successor(nn.Module):
    """Knows which item follows each."""

    def __init__(self, world: Split):
        super().__init__()
        item = torch.from_numpy(world.events.item.astype(np.int64)).view(-1, 12)  # a row is a user's walk
        self.table = nn.Parameter(torch.zeros(len(world.catalog), len(world.catalog)))
        self.table.data[item[:, :-1].flatten(), item[:, 1:].flatten()] = 9.0

    def score(self, batch: Batch) -> Tensor:
        last = batch.item.gather(1, (batch.length - 1).clamp_min(0)[:, None]).squeeze(1)
        return self.table[last.clamp_min(0)].masked_fill(last[:, None] < 0, 0.0)


def test_shares_of_a_grown_catalogue_are_those_of_the_old_one_and_later_items_are_left_out_of_histories():
    torch.manual_seed(0)
    model = SASRec(64, width=16, feedforward=32, max_length=8).eval()
    asked = lambda *items: history_batch([np.array(i, np.int64) for i in items], [np.arange(len(i)) for i in items], max_history=8)
    with torch.no_grad():
        old = Shares(model, 64).score(asked([1, 2], [3], []))
        new = Shares(model, 64).with_items(2).with_items(1).score(asked([1, 66, 2, 64], [65, 3], [64]))
    assert old.sum(1).tolist() == pytest.approx([1, 1, 0])  # nothing read, nothing said
    torch.testing.assert_close(new, torch.cat([old, torch.zeros(3, 3)], 1))


def test_an_ensemble_comes_back_as_it_was_and_goes_on_without_its_generator_training_again(tmp_path, monkeypatch):
    """The generator of `semid:ensemble` is that of `semid:timely`, so `trained_in` takes it; weights and lists survive the folder."""
    world = walk(users=60)
    voice = {"sasrec.width": 16, "sasrec.heads": 1, "sasrec.epochs": 1, "sasrec.epoch_steps": 2}
    alone = semid.train("semid:timely", world, out=tmp_path / "alone", settings=SMALL)
    monkeypatch.setattr(recipe, "train_on_histories", None)
    run = semid.train("semid:ensemble", world, out=tmp_path / "run", settings={**SMALL, **voice, "trained_in": str(tmp_path / "alone")})
    again = semid.load(tmp_path / "run")
    _, batch = next(case_batches(world, world.test))
    assert list(again.systems) == ["semid:timely", "semid:ensemble"]
    assert again.recommender.named_weights == run.recommender.named_weights
    for name, found in again.systems.items():
        assert np.array_equal(found.recommend(batch, k=5).item, run.systems[name].recommend(batch, k=5).item)
    assert np.array_equal(again.systems["semid:timely"].recommend(batch, k=5).item, alone.recommender.recommend(batch, k=5).item)


@pytest.mark.parametrize(("written", "voices", "weights"), [
    ('{"weight": 0.3}', ["item_knn"], (0.7, 0.3)), ('{"weights": [0.5, 0.2, 0.3]}', ["item_knn", "sasrec"], (0.5, 0.2, 0.3)),
    ('{"weights": [0.6, 0.4], "voices": ["sasrec"]}', ["sasrec"], (0.6, 0.4))])
def test_weights_of_earlier_layouts_are_read(written: str, voices: list[str], weights: tuple[float, ...], tmp_path):
    (tmp_path / "fusion.json").write_text(written)
    opened = lambda name, file: cast("ItemRecommender", file.name)
    found = Fusion.load(tmp_path, cast("CodeRecommender", None), opened, ("item_knn", "sasrec"))
    assert (list(found.scorers), found.weights) == (voices, weights)
    assert list(found.scorers.values()) == ["scorer.safetensors", "scorer_1.safetensors"][: len(voices)]


SMALL = {"text": "none", "cf_dim": 8, "size": 4, "width": 16, "heads": 1, "feedforward": 32, "epochs": 1, "epoch_steps": 2}


def months(time_unit: Literal["seconds", "ordinal"] = "seconds") -> Split:
    """Everybody takes one of the month's four items, whatever they had; 120 users, who come in six months of a year of theirs."""
    rng = np.random.default_rng(0)
    month = np.stack([rng.integers(12) + np.sort(rng.permutation(12)[:6]) for _ in range(120)])
    item, time = 4 * month + rng.integers(4, size=month.shape), month * 30 * 86_400 + rng.integers(25 * 86_400, size=month.shape)
    users, items = IdMap([f"u{u}" for u in range(120)]), IdMap([f"i{i}" for i in range(96)])
    events = Interactions(np.repeat(np.arange(120, dtype=np.int32), 6), item.ravel().astype(np.int32), time.ravel().astype(np.int64),
                          users, items, time_unit=time_unit)
    return split(events, Catalog(items, pa.table({"x": list(range(96))})), Protocol(), "months")


def test_the_time_of_the_request_is_heard_where_it_tells_the_answer(tmp_path):
    world = months()
    run = semid.train("semid:fusion", world, out=tmp_path / "run", settings=SMALL)
    assert isinstance(run.recommender, Fusion)
    assert run.recommender.weights[list(run.recommender.scorers).index("recent") + 1] > 0
    without = semid.train("semid:fusion_timeless", world, settings=SMALL)
    assert without.recommender.later is None
    found, timeless = (each.evaluate()["keep"].metrics["recall@10"].mean for each in (run, without))
    assert found > timeless + 0.2
    again = semid.load(tmp_path / "run")
    _, batch = next(case_batches(world, world.test))
    np.testing.assert_array_equal(again.recommender.recommend(batch, k=5).item, run.recommender.recommend(batch, k=5).item)


def test_a_run_of_before_there_was_recent_popularity_goes_on(tmp_path):
    run = semid.train("semid", months(), out=tmp_path / "run", settings=SMALL)
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    about["config"] = {**about["config"], "voices": ["item_knn"]}
    for later in ("recent", "has_request_gap"):
        del about["config"][later]
    (tmp_path / "run" / "config.json").write_text(json.dumps(about))
    write_manifest(tmp_path / "run")
    assert semid.train("semid", months(), out=tmp_path / "run", settings=SMALL, resume=True).about["seconds"] == run.about["seconds"]


def test_without_times_recent_popularity_is_left_out_and_that_is_said(tmp_path, monkeypatch):
    notes: list[dict] = []
    run = semid.train("semid:fusion", months("ordinal"), out=tmp_path / "run", settings=SMALL, log=Log(view=notes.append))
    assert list(cast("Fusion", run.recommender).scorers) == ["item_knn"]
    assert any("no times" in str(record.get("note")) for record in notes)
    assert list(cast("Fusion", semid.load(tmp_path / "run").recommender).scorers) == ["item_knn"]
    assert run.recommender.later is None  # an order has no days
    semid.train("semid:timely", months("ordinal"), out=tmp_path / "alone", settings=SMALL)
    again = semid.train("semid:fusion", months("ordinal"), settings={**SMALL, "trained_in": str(tmp_path / "alone")})
    assert again.recommender.named_weights == run.recommender.named_weights
    monkeypatch.setattr(recipe, "with_views", None)  # refused before anything trains
    with pytest.raises(ConfigError, match="no times"):
        semid.train("semid:fusion", months("ordinal"), settings={**SMALL, "voices": ("recent",)})


@pytest.mark.parametrize("settings", [
    {"voices": ()}, {"voices": ("sasrec", "sasrec")}, {"voices": ("sasrek",)}, {"fusion": False, "voices": ("sasrec",)},
    {"voices": ("sasrec",), "sasrec.loss": "sampled"}, {"recent.days": None}, {"recent.days": 0},
    {"scorer.recent": (0.5,)},
])
def test_what_cannot_be_pooled_is_refused_before_anything_trains(settings):
    with pytest.raises(ConfigError, match="setting (voices|sasrec|recent|days|scorer)"):
        configure("semid:fusion", settings)


def test_a_voice_that_cannot_be_built_is_told_before_anything_trains(monkeypatch):
    monkeypatch.setattr(recipe, "with_views", None)
    with pytest.raises(ConfigError, match="a width that 3 heads divide"):
        semid.train("semid:ensemble", walk(users=60), settings={"sasrec.width": 16, "sasrec.heads": 3})


def test_an_item_that_came_later_is_scored_as_what_is_near_it_is():
    """A twin in content of a known item has that item's scores in every voice, not those of something that nobody takes."""
    world = walk(users=60)
    run = semid.train("semid:fusion", world, settings=SMALL)
    first = run.recommender.first
    content = first.generator.input.content.numpy()
    twins = run.recommender.with_items(first.ids.codes[[5]] * 0, content[[5]]).with_items(first.ids.codes[[9]] * 0, content[[9]])
    _, batch = next(case_batches(world, world.test))
    for name, scorer in run.recommender.scorers.items():
        before, after = scorer.score(batch), twins._scores(twins.scorers[name], batch)
        torch.testing.assert_close(after[:, :64], before)
        near = Near.of(torch.from_numpy(content[[5, 9]]), torch.from_numpy(content))
        assert near.item[:, 0].tolist() == [5, 9]
        for column, (items, share) in enumerate(zip(near.item, near.share, strict=True)):
            torch.testing.assert_close(after[:, 64 + column], (before[:, items] * share).sum(1))


@pytest.mark.parametrize("has_times", [True, False])
def test_hstu_reads_the_history_of_semid_and_comes_back_as_it_was(tmp_path, has_times):
    world = walk(users=60)
    if not has_times:
        events = replace(world.source, time=np.arange(len(world.source)), time_unit="ordinal")
        world = split(events, world.catalog, world.protocol)
    settings = {name: value for name, value in SMALL.items() if name != "feedforward"}  # HSTU has none
    run = semid.train("semid:hstu", world, out=tmp_path / "run", settings=settings)
    assert isinstance(run.recommender.generator.temporal, HSTU)
    assert run.recommender.generator.temporal.has_time_bias == has_times
    _, batch = next(case_batches(world, world.test))
    ours, theirs = (each.recommender.recommend(batch, k=10) for each in (run, semid.load(tmp_path / "run")))
    np.testing.assert_array_equal(ours.item, theirs.item)
    engine = Engine.open(tmp_path / "run")
    assert engine.snapshot.takes_items is False
    history = world.catalog.items.ids[:3].tolist()
    [answer] = engine.recommend([Request(tuple(history), k=5)])
    assert answer.error is None
    assert list(answer.item_ids) == [row["item_id"] for row in run.recommend(history=history, k=5)]
    with pytest.raises(ConfigError, match="this run can't make codes of new items"):
        Engine.open(tmp_path / "run").add({"item_id": ["new"], "title": ["x"]})
