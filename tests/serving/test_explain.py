"""Explanations add up: probabilities along the path give the score, leaving an item out gives its effect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.errors import ConfigError, UnknownId
from semid.recommenders import CodeRecommender
from semid.serving.contract import Request
from semid.serving.engine import Engine
from tests.serving import world

REQUEST = Request(("i6", "i12", "i0"), (1_600_000_000, 1_600_100_000, 1_600_300_000))


def test_the_path_multiplies_to_the_score_and_narrows_to_the_item(engine):
    found = engine.explain(REQUEST, "i18")
    assert math.prod(level.probability for level in found.path) == pytest.approx(math.exp(found.score), rel=1e-4)
    codes = engine.snapshot.codes.ids.codes[18]
    assert [level.code for level in found.path] == codes.tolist()
    assert [level.items for level in found.path] == sorted((level.items for level in found.path), reverse=True)
    assert found.path[-1].items == 1
    assert found.path[-1].titles == (engine.snapshot.catalog.titles[18],)
    alone = next(level for level in found.path if level.siblings == 1) if any(lv.siblings == 1 for lv in found.path) else None
    assert alone is None or (alone.probability, alone.rank) == (1.0, 1)


def test_score_and_rank_are_those_of_the_list(engine):
    [answer] = engine.recommend([Request(REQUEST.history, REQUEST.times, k=57, beams=60)])
    for place in (0, 9, 30):
        found = engine.explain(REQUEST, answer.item_ids[place])
        assert found.rank == place + 1
        assert found.score == pytest.approx(answer.scores[place], abs=1e-5)


def test_effects_are_what_leaving_the_item_out_changes(engine):
    found = engine.explain(REQUEST, "i18")
    code = engine.snapshot.codes
    for influence in found.history:
        rows = np.delete(np.array([6, 12, 0]), influence.position)
        times = np.delete(np.array(REQUEST.times), influence.position)
        score = float(code.score_items(history_batch([rows], [times], max_history=50), torch.tensor([[18]]))[0, 0])
        assert influence.effect == pytest.approx(found.score - score, abs=1e-5)
    effects = [abs(influence.effect) for influence in found.history]
    assert effects == sorted(effects, reverse=True)
    assert {influence.item_id for influence in found.history} == set(REQUEST.history)


def test_what_the_user_has_and_what_was_removed_is_said(copied):
    engine = Engine.open(copied)
    assert "has the item already" in engine.explain(REQUEST, "i6").note
    engine.remove(["i18"])
    assert "was removed" in engine.explain(REQUEST, "i18").note
    assert engine.explain(REQUEST, "i18").rank is None
    [answer] = engine.recommend([Request(REQUEST.history, REQUEST.times, k=56, beams=60)])
    assert [found.rank for found in engine.explain_all(REQUEST, answer.item_ids)] == list(range(1, 57))
    engine.add(world.items(range(60, 61)))
    found = engine.explain(REQUEST, "i60")
    assert "came after training: nobody took it yet, what is known of it comes from its content" in found.note
    assert found.together == ()
    assert found.content[0].title.endswith("garden hose")


def test_the_list_is_decoded_once_for_all_that_is_explained(engine, monkeypatch):
    decoded, original = [], CodeRecommender.recommend
    monkeypatch.setattr(CodeRecommender, "recommend", lambda self, *args, **kwargs: (decoded.append(1), original(self, *args, **kwargs))[1])
    together = engine.explain_all(REQUEST, ["i18", "i7"])
    assert decoded == [1]
    assert together == [engine.explain(REQUEST, "i18"), engine.explain(REQUEST, "i7")]


def test_a_history_of_one_has_nothing_to_leave_out(engine):
    found = engine.explain(Request(("i6",)), "i18")
    assert found.history == ()
    assert "nothing to leave out" in found.note


def test_items_ranked_directly_have_no_path_but_the_rest(knn_folder):
    found = Engine.open(knn_folder).explain(REQUEST, "i18")
    assert found.path == ()
    assert found.content == ()
    assert found.scale == "weighted co-occurrence"
    assert sum(influence.effect > 0 for influence in found.history) >= 1


def test_what_cannot_be_explained_is_refused(engine):
    with pytest.raises(ConfigError, match="at least one item"):
        engine.explain(Request(), "i18")
    with pytest.raises(UnknownId, match="unknown item 'nope'"):
        engine.explain(REQUEST, "nope")


def test_positions_are_those_of_the_whole_history_though_the_model_reads_its_end(engine):
    history = tuple(f"i{item}" for item in range(56))
    found = engine.explain(Request(history), "i58")
    assert sorted(influence.position for influence in found.history) == list(range(6, 56))
    assert all(history[influence.position] == influence.item_id for influence in found.history)
