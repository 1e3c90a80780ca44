"""The engine: rules hold exactly, batches equal single requests, kept states equal reading anew, a bad request stays alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.decoding.exhaustive import exhaustive
from semid.errors import ConfigError, DataError, SemidError, UnknownId
from semid.recommenders import Fusion
from semid.run import write_manifest
from semid.serving import snapshot
from semid.serving.contract import Answer, Request, Rules
from semid.serving.engine import Engine
from semid.serving.recent import Recent
from tests.serving import world

HISTORY = ("i6", "i12", "i0")
TIMES = (1_600_000_000, 1_600_100_000, 1_600_300_000)
WIDE = Request(HISTORY, TIMES, k=20, beams=world.ITEMS)


def ranking(engine: Engine, request: Request) -> list[tuple[str, float]]:
    """Every item with its exact score, best first, ties to the lower row."""
    snapshot = engine.snapshot
    assert snapshot.codes is not None
    rows = snapshot.catalog.items.rows(request.history)
    batch = history_batch([rows], [np.asarray(request.times)], max_history=50)
    scores = exhaustive(snapshot.codes.generator, batch, snapshot.codes.tree, normalise="children")[0].detach().numpy()
    order = np.argsort(-scores, kind="stable")
    return [(str(snapshot.catalog.items.ids[row]), float(scores[row])) for row in order]


def one(engine: Engine, request: Request) -> Answer:
    [answer] = engine.recommend([request])
    assert answer.error is None, answer.error
    return answer


RULES = {
    "nothing": (Request(seen="keep"), lambda row: True),
    "seen": (Request(seen="remove"), lambda row: f"i{row}" not in HISTORY),
    "where": (Request(where="price < 3 and category = 'hose'", seen="keep"), lambda row: row % 9 < 3 and row % 6 == 0),
    "list": (Request(where="list_contains(tags, 'sale')", seen="keep"), lambda row: row % 4 == 0),
    "exclude": (Request(exclude=("i1", "i18", "no such item"), seen="keep"), lambda row: row not in (1, 18)),
    "only": (Request(include_only=("i1", "i7", "i9", "unknown"), seen="keep"), lambda row: row in (1, 7, 9)),
    "all": (Request(where="price >= 2", include_only=tuple(f"i{i}" for i in range(40)), exclude=("i2", "i3"), seen="remove"),
            lambda row: row % 9 >= 2 and row < 40 and row not in (2, 3, 6, 12, 0)),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_what_filtering_the_ranking_of_all_items_gives(engine, name):
    rule, admits = RULES[name]
    request = replace(rule, history=HISTORY, times=TIMES, k=20, beams=world.ITEMS)
    expected = [(id_, score) for id_, score in ranking(engine, request) if admits(int(id_[1:]))]
    answer = one(engine, request)
    assert list(answer.item_ids) == [id_ for id_, _ in expected[:20]]
    assert np.allclose(answer.scores, [score for _, score in expected[:20]], atol=1e-5)
    assert answer.left == len(expected)
    assert ("asked for" in answer.note) == (len(expected) < 20)


def test_a_condition_is_asked_of_the_catalogue_once(run_folder, monkeypatch):
    engine, asked, original = Engine.open(run_folder), [], snapshot.matches
    monkeypatch.setattr(snapshot, "matches", lambda catalog, where: (asked.append(where), original(catalog, where))[1])
    for where in ("price < 3", "price < 4", "price < 3"):
        engine.recommend([Request(HISTORY, where=where), Request(HISTORY[:1], where=where)])
    assert asked == ["price < 3", "price < 4"]


def test_the_memory_of_rules_counts_the_ids_that_were_asked_for(engine):
    snapshot = replace(engine.snapshot, rules=Recent(10_000))
    for first in range(300):
        snapshot.admitted(None, [f"{first} {'x' * 1000}", "i1"])
    assert snapshot.remembered(None, [f"299 {'x' * 1000}", "i1"]) is not None
    assert 0 < len(snapshot.rules) < 10


def test_too_few_items_are_returned_and_said(engine):
    answer = one(engine, replace(WIDE, where="price = 3 and category = 'hose'"))
    rows = [row for row in range(world.ITEMS) if row % 9 == 3 and row % 6 == 0]
    left = [f"i{row}" for row in rows if f"i{row}" not in HISTORY]
    assert sorted(answer.item_ids) == sorted(left)
    assert answer.note == f"{len(left)} items satisfy the rules, 20 were asked for"
    nothing = one(engine, replace(WIDE, where="price > 1000"))
    assert (nothing.item_ids, nothing.left) == ((), 0)
    assert nothing.note == "0 items satisfy the rules, 20 were asked for"


def test_a_batch_of_mixed_lengths_equals_single_requests(engine):
    rng = np.random.default_rng(0)
    requests = []
    for place in range(24):
        rows = rng.integers(world.ITEMS, size=int(rng.integers(0, 14)))
        times = tuple(np.sort(rng.integers(10**6, size=len(rows))).tolist())
        requests.append(Request(tuple(f"i{row}" for row in rows), times, k=int(rng.choice([5, 10])),
                                where=[None, "price < 5"][place % 2], exclude=("i3",) * (place % 3 == 0)))
    together = engine.recommend(requests)
    fresh = Engine(engine.snapshot.run)
    for request, answer in zip(requests, together, strict=True):
        alone = one(fresh, request)
        assert answer.item_ids == alone.item_ids
        assert np.allclose(answer.scores, alone.scores, atol=1e-5)
        assert (answer.left, answer.note) == (alone.left, alone.note)


@torch.no_grad()
def test_kept_states_equal_reading_the_history_anew(run_folder):
    engine = Engine.open(run_folder)
    code = engine.snapshot.codes
    assert code is not None
    states = engine._serving.states
    rng = np.random.default_rng(1)
    rows, times = rng.integers(world.ITEMS, size=60), np.cumsum(rng.integers(0, 5 * 86_400, size=60))
    for length in range(1, 61):  # past the 50 that the model reads: the window slides and is read anew
        batch = history_batch([rows[:length]], [times[:length]], max_history=50)
        state = states.of(code.generator, batch)
        assert torch.allclose(state, code.generator.start(batch).user, atol=3e-6), length
        assert states.of(code.generator, batch) is not state
        assert torch.equal(states.of(code.generator, batch), state)


def test_one_more_event_reads_one_position(run_folder, monkeypatch):
    engine = Engine.open(run_folder)
    read: list[int] = []
    temporal = engine.snapshot.codes.generator.temporal
    original = temporal.extend
    monkeypatch.setattr(temporal, "extend", lambda x, kept: (read.append(x.shape[1]), original(x, kept))[1])
    history = tuple(f"i{row}" for row in range(12))
    for length in (10, 10, 11, 12):
        engine.recommend([Request(history[:length])])
    assert read == [10, 1, 1]


@pytest.mark.parametrize(("bad", "kind", "words"), [
    (Request(HISTORY, k=0), ConfigError, "k: want a whole number in [1, 10,000], got 0"),
    (Request(HISTORY, k=10**9), ConfigError, "got 1000000000"),
    (Request(HISTORY, beams=0), ConfigError, "beams: want"),
    (Request(HISTORY, (1, 2)), ConfigError, "times: want one for each of 3 items"),
    (Request(HISTORY, (3, 2, 4)), ConfigError, "oldest first"),
    (Request(HISTORY, (1, 2, 2**60)), ConfigError, "times: want whole UTC seconds"),
    (Request(HISTORY, TIMES, at=2**70), ConfigError, "at: want whole UTC seconds"),
    (Request(HISTORY, TIMES, at=1.5), ConfigError, "at: want whole UTC seconds"),  # pyright: ignore[reportArgumentType]
    (Request(("i6", "i999")), UnknownId, "unknown item 'i999'"),
    (Request(("i6",) * 100_001), ConfigError, "at most 100,000"),
    (Request(HISTORY, where="prise < 3"), DataError, "did you mean 'price'"),
    (Request(HISTORY, where="1); drop table x; --"), DataError, "--where"),
    (Request(HISTORY, where="price < (select 1)"), DataError, "--where"),
    (Request(HISTORY, seen="never"), ConfigError, "seen: want auto, keep or remove"),
    (Request(HISTORY, rules=Rules(diversity=math.nan)), ConfigError, "rules.diversity"),
    (Request(HISTORY, rules=Rules(caps={"categry": 1})), DataError, "did you mean 'category'"),
    (Request(HISTORY, rules=Rules(freshness=0.5)), ConfigError, "fresh_column"),
    (Request(HISTORY, rules=Rules(freshness=0.5, fresh_column="title")), DataError, "want dates"),
])
def test_a_bad_request_says_what_is_wrong_and_harms_no_neighbour(engine, bad, kind, words):
    first, broken, last = engine.recommend([WIDE, bad, WIDE])
    assert isinstance(broken.error, kind)
    assert words in str(broken.error)
    assert broken.item_ids == ()
    alone = one(engine, WIDE)
    for neighbour in (first, last):
        assert replace(neighbour, scores=alone.scores) == alone
        np.testing.assert_allclose(neighbour.scores, alone.scores, atol=1e-5)  # sums of float32 in another order


def test_a_request_that_breaks_the_model_stays_alone(engine, monkeypatch):
    serving = engine._serving
    original = type(serving)._ranked

    def poisoned(self, group):
        if any(asked.request.history == ("i5",) for asked in group):
            raise RuntimeError("boom")
        return original(self, group)

    monkeypatch.setattr(type(serving), "_ranked", poisoned)
    answers = engine.recommend([WIDE, replace(WIDE, history=("i5",), times=(0,)), WIDE])
    assert isinstance(answers[1].error, SemidError)
    assert answers[0] == answers[2]
    assert answers[0].item_ids


def test_unknown_history_items_are_skipped_on_request(engine):
    answer = one(engine, Request((*HISTORY, "i999"), (*TIMES, TIMES[-1]), unknown="skip", k=20, beams=world.ITEMS))
    assert answer.item_ids == one(engine, WIDE).item_ids
    assert answer.note == "1 of 4 items of the history are not in the catalogue and were left out"


def test_no_history_gets_the_most_popular_that_satisfy_the_rules(engine):
    answer = one(engine, Request(k=5, where="category = 'vase'", exclude=("i5",)))
    counts = engine.snapshot.popularity
    vases = [row for row in range(world.ITEMS) if row % 6 == 5 and row != 5]
    assert list(answer.item_ids) == [f"i{row}" for row in sorted(vases, key=lambda row: (-counts[row], row))[:5]]
    assert "the most popular" in answer.note
    assert answer.scale == "training events"


def test_a_run_that_ranks_items_directly_obeys_the_same_rules(knn_folder):
    engine = Engine.open(knn_folder)
    answer = one(engine, Request(HISTORY, k=30, where="category = 'hose'"))
    expected = engine.snapshot.recommender.recommend(
        history_batch([engine.snapshot.catalog.items.rows(HISTORY)], max_history=50), k=world.ITEMS)
    ids = [f"i{row}" for row in expected.item[0] if row % 6 == 0 and f"i{row}" not in HISTORY]
    assert list(answer.item_ids) == ids
    assert answer.scale == "weighted co-occurrence"


def test_similar_by_content_is_of_the_same_kind(engine):
    assert {n.title.split(" ", 1)[1] for n in engine.similar("i8", 5)} == {"wool scarf"}
    assert engine.similar("i8", 3)[0].score <= 1.00001


def test_similar_by_common_users_is_the_cosine_of_their_sets(engine):
    train = engine.snapshot.run.split.train
    takers = {row: set(train.user[train.item == row].tolist()) for row in range(world.ITEMS)}
    for near in engine.similar("i8", 10, by="together"):
        other = takers[int(near.item_id[1:])]
        assert near.score == pytest.approx(len(takers[8] & other) / math.sqrt(len(takers[8]) * len(other)))


def test_search_finds_titles_with_every_word_best_known_first(engine):
    found = [near.item_id for near in engine.search("LAMP gr", 10)]
    counts = engine.snapshot.popularity
    assert found == [f"i{row}" for row in sorted((16, 40), key=lambda row: (-counts[row], row))]
    assert engine.search("", 3) == []


def test_search_finds_letters_that_fold_into_two(copied):
    engine = Engine.open(copied)
    engine.update({"item_id": ["i9"], "title": ["Große Straße"]})
    for text in ("Straße", "große", "STRAßE gro"):
        assert [near.item_id for near in engine.search(text)] == ["i9"]


def test_a_nearness_that_a_run_lacks_is_a_mistake_of_the_question(knn_folder):
    engine = Engine.open(knn_folder)
    for by in ("content", "codes"):
        with pytest.raises(ConfigError, match=f"similar by {by}: .*; want by together$"):
            engine.similar("i8", by=by)


def test_a_short_list_blames_caps_only_where_there_are_any(engine):
    serving = engine._serving
    asked = engine._understand(engine.snapshot, WIDE)
    assert serving.finish(asked, np.array([1, 2]), np.array([-1.0, -2.0]), "").note == "the search found 2 items, 20 were asked for"


def test_columns_say_what_where_may_ask(engine):
    columns = {column.name: column for column in engine.columns()}
    assert set(columns["category"].values) == {"hose", "table", "scarf", "kettle", "lamp", "vase"}
    assert "sale" in columns["tags"].values
    assert (columns["price"].low, columns["price"].high) == (0.0, 8.0)
    assert columns["since"].low == "2022-01-08"


def test_int8_lists_mostly_the_same_items(run_folder):
    engine = Engine.open(run_folder, engine="int8")
    assert 0.8 <= engine.agreement(k=10) <= 1
    assert Engine.open(run_folder).agreement(k=10) == 1
    assert Engine.open(run_folder).agreement(k=100) == 1  # longer than the catalogue
    assert len(one(engine, WIDE).item_ids) == 20


def test_int8_is_refused_where_nothing_can_be_quantised(knn_folder):
    with pytest.raises(ConfigError, match="no generator to quantise"):
        Engine.open(knn_folder, engine="int8")


def test_a_fusion_is_told_when_it_is_asked(tmp_path: Path):
    """Within a day the generator alone is heard, later item-kNN alone; whose times are unknown is taken to be asked at once."""
    run = world.train("semid:fusion", tmp_path / "run", world.SMALL)
    about = {"voices": ["item_knn", "recent"], "weights": [1, 0, 0], "later": [0, 1, 0]}
    (tmp_path / "run" / "fusion.json").write_text(json.dumps(about))
    write_manifest(tmp_path / "run")
    opened = Engine.open(tmp_path / "run")
    fusion = opened.snapshot.recommender
    assert isinstance(fusion, Fusion)
    now = Request(HISTORY, TIMES, at=TIMES[-1] + 3600, k=5, seen="remove")
    requests = [now, replace(now, at=TIMES[-1] + 86_400), replace(now, at=None), replace(now, times=None)]
    answers = [answer.item_ids for answer in opened.recommend(requests)]
    batch = history_batch([run.catalog.items.rows(HISTORY)], [np.asarray(TIMES)], max_history=50)
    first, later = (tuple(run.catalog.items.ids[part.recommend(batch, k=5, seen="remove").item[0]])
                    for part in (fusion.first, fusion.scorers["item_knn"]))
    assert answers[:3] == [first, later, later]
    assert answers[3] == tuple(opened.recommend([replace(now, times=(0, 0, 0), at=0)])[0].item_ids)
    assert set(answers[3]) != set(later)
    told = [opened.explain(request, later[0]) for request in requests[:3]]
    assert told[0].score != told[1].score == told[2].score
    assert told[1].rank == told[2].rank == 1


def test_a_swap_changes_the_run_between_two_answers_and_never_within_one(run_folder, knn_folder):
    engine = Engine.open(run_folder)
    scales, named, stop = set(), set(), []

    def ask() -> None:
        while not stop:
            answers = engine.recommend([WIDE] * 3)
            assert len({(answer.scale, answer.version, answer.item_ids) for answer in answers}) == 1
            named.add((answers[0].version, answers[0].model))
            scales.add(answers[0].scale)

    asking = Thread(target=ask)
    asking.start()
    engine.swap(knn_folder)
    engine.swap(run_folder)
    while len(scales) < 1:
        pass
    stop.append(True)
    asking.join()
    assert named <= {(version, snapshot.model_name(folder)) for version, folder in enumerate([run_folder, knn_folder, run_folder], 1)}
    assert engine.snapshot.version == 3


def test_history_of_a_known_user_is_oldest_first(engine):
    history = engine.history("u3")
    assert list(history.times) == sorted(history.times)
    with pytest.raises(UnknownId, match="unknown user 'nobody'"):
        engine.history("nobody")


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(SemidError, match="not a run folder"):
        Engine.open(tmp_path)


def test_a_model_that_knows_users_is_told_whose_history_it_is(tmp_path: Path):
    run = world.train("lightgcn", tmp_path / "run", {"width": 8})
    engine = Engine(run)
    past = engine.history("u3")
    known, anybody, new = (replace(Request(past.item_ids, past.times, k=5), user=user) for user in ("u3", None, "nobody"))
    direct = run.recommend(user="u3", k=5)
    found = one(engine, known)
    assert list(found.item_ids) == [each["item_id"] for each in direct]
    np.testing.assert_allclose(found.scores, [each["score"] for each in direct], rtol=1e-5)
    assert one(engine, new).scores == one(engine, anybody).scores
    assert found.scores != one(engine, anybody).scores
    item = found.item_ids[0]
    assert math.isclose(engine.explain(known, item).score, found.scores[0], rel_tol=1e-5)
