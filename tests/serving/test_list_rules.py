"""Rules over a list: each does what it says, and its cost is the score it gave up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from semid.serving.contract import Request, Rules
from semid.serving.list_rules import leading, select, unit
from tests.serving import world

REQUEST = Request(("i6", "i12", "i0"), k=10)
DAY = 86_400


def ask(engine, rules: Rules, k: int = 10):
    [answer] = engine.recommend([replace(REQUEST, rules=rules, k=k)])
    assert answer.error is None, answer.error
    return answer


def mean_cost(engine, answer) -> float:
    return float(np.mean(ask(engine, Rules()).scores) - np.mean(answer.scores))


def test_no_rule_costs_nothing(engine):
    assert ask(engine, Rules()).cost == {}


def test_caps_pass_over_what_would_exceed_them_and_look_deeper(engine):
    plain = ask(engine, Rules(), k=57)
    answer = ask(engine, Rules(caps={"category": 2}))
    taken: dict[str, int] = {}
    expected = []
    for id_ in plain.item_ids:
        kind = world.KINDS[int(id_[1:]) % 6]
        taken[kind] = taken.get(kind, 0) + 1
        if taken[kind] <= 2:
            expected.append(id_)
    assert list(answer.item_ids) == expected[:10]
    assert answer.cost["caps"] == pytest.approx(mean_cost(engine, answer), abs=1e-5)
    short = ask(engine, Rules(caps={"category": 1}))
    assert len(short.item_ids) == 6
    assert short.note == "the caps leave 6 items, 10 were asked for"


def test_a_cap_counts_every_value_of_a_list(engine):
    answer = ask(engine, Rules(caps={"tags": 1}), k=8)
    tags = [tag for id_ in answer.item_ids for tag in engine.item(id_)["attributes"]["tags"]]
    assert len(tags) == len(set(tags))


def test_full_debiasing_lowers_the_mean_popularity(engine):
    counts = engine.snapshot.popularity
    mean = lambda answer: np.mean([counts[int(id_[1:])] for id_ in answer.item_ids])
    answer = ask(engine, Rules(debias=1.0))
    assert mean(answer) < mean(ask(engine, Rules()))
    assert answer.cost["debias"] == pytest.approx(mean_cost(engine, answer), abs=1e-5)
    assert answer.cost["debias"] > 0


def test_freshness_lifts_the_new_and_half_lives_halve(engine):
    rules = Rules(freshness=1.0, fresh_column="since", half_life=1.0, now=19_059.0 * DAY)
    answer = ask(engine, rules)
    plain = ask(engine, Rules(), k=57)
    worth = unit(np.array(plain.scores)) + 0.5 ** (59.0 - np.array([int(id_[1:]) for id_ in plain.item_ids]))
    assert list(answer.item_ids) == [plain.item_ids[place] for place in np.argsort(-worth, kind="stable")[:10]]
    assert answer.cost["freshness"] > 0


@pytest.mark.parametrize("by", ["codes", "content"])
def test_diversity_makes_lists_less_alike_the_more_of_it(engine, by):
    codes, content = engine.snapshot.codes.ids.codes, engine.snapshot.content.numpy()

    def alike(answer) -> float:
        rows = engine.snapshot.catalog.items.rows(answer.item_ids)
        near = content[rows] @ content[rows].T if by == "content" else np.stack([leading(codes[rows], codes[row]) for row in rows])
        return float((near.sum() - len(rows)) / (len(rows) * (len(rows) - 1)))

    found = [ask(engine, Rules(diversity=value, diversity_by=by)) for value in (0.0, 0.5, 1.0)]
    assert alike(found[2]) < alike(found[0])
    assert alike(found[1]) <= alike(found[0])
    assert found[1].item_ids[0] == found[0].item_ids[0]
    assert 0 <= found[1].cost["diversity"] <= found[2].cost["diversity"] + 1e-6


def test_marginal_relevance_by_hand():
    """Worth .9 .8 .5; 0 and 1 alike (.9), 2 like nobody: 0 first, then 1 has .5 (.8 - .9) = -.05 against .5 (.5) = .25."""
    like = np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1.0]])
    chosen = select(np.array([0.9, 0.8, 0.5]), 3, shares=[], caps=[], diversity=0.5, likeness=lambda one: like[one])
    assert chosen.tolist() == [0, 2, 1]


def test_rules_apply_together_and_every_cost_is_shown(engine):
    answer = ask(engine, Rules(debias=0.3, freshness=0.2, fresh_column="since", now=19_059.0 * DAY, caps={"category": 3}, diversity=0.3))
    assert set(answer.cost) == {"debias", "freshness", "caps", "diversity"}
    assert sum(answer.cost.values()) == pytest.approx(mean_cost(engine, answer), abs=1e-4)
    kinds = [int(id_[1:]) % 6 for id_ in answer.item_ids]
    assert max(kinds.count(kind) for kind in kinds) <= 3
