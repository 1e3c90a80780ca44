"""OneRec as a recipe: slates of real, different items; sessions that know their own items; alignment towards a known reward."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
import torch

from semid.config import override
from semid.data.batch import SessionBatches, case_batches, history_batch, latest
from semid.data.split import split
from semid.decoding.session import session_search
from semid.errors import ConfigError
from semid.generators.session import SessionGenerator
from semid.nn.dropout import without_dropout
from semid.objectives.paths import frozen
from semid.objectives.session import NextSession, SessionPreference
from semid.recipes import onerec
from semid.run import train
from semid.training.fit import Optimization, fit
from semid.training.job import Job
from semid.training.log import Log
from semid.training.session_pairs import SessionPairs
from semid.tree import CodeTree
from semid.types import Catalog, IdMap, Protocol, SemanticIds, Split
from tests.toyworld.world import events_of, walk

ITEMS, FAST = 64, Optimization(learning_rate=5e-3, warmup=20, weight_decay=0.0)
SHORT = replace(onerec.smoke(), steps=10, look_every=10, ipa=replace(onerec.smoke().ipa, steps=3, look_every=3, reward_steps=5))


def four_ways(seed: int = 0, users: int = 1000) -> Split:
    """From item i people go on to one of 5 i + 1 .. 5 i + 4 (mod 64), each as likely."""
    rng = np.random.default_rng(seed)
    item = [rng.integers(ITEMS, size=users)]
    for _ in range(11):
        item.append((5 * item[-1] + 1 + rng.integers(4, size=users)) % ITEMS)
    names = IdMap([f"i{i}" for i in range(ITEMS)])
    return split(events_of(np.stack(item, axis=1), names), Catalog(names, pa.table({"item": list(range(ITEMS))})), Protocol())


def sessions(seed: int = 0) -> SessionBatches:
    return SessionBatches(four_ways(seed).train, max_length=1, items=2, batch_size=64, seed=seed, is_whole=True)


@cache
def supervised() -> tuple[SessionGenerator, CodeTree]:
    ids = SemanticIds(np.stack(np.divmod(np.arange(ITEMS), 8), axis=1).astype(np.int16), (8, 8))
    torch.manual_seed(0)
    model = SessionGenerator(ids, width=32, heads=2, head_width=16, encoder_layers=1, decoder_layers=1, feedforward=32, dropout=0.0,
                             experts=4, active=2)
    fit(model, NextSession(), sessions(), steps=300, optimization=FAST)
    return model, CodeTree.build(ids)


def test_a_session_knows_its_own_items():
    """The item after next is one of 16 for whoever sees the history alone (log 16 nats at best), one of 4 for whoever knows the next."""
    model, _ = supervised()
    with torch.no_grad():
        loss = NextSession(balance=0.0)(model, sessions(seed=1).at(0))
    assert math.log(4) - 0.1 < loss.parts["item_1"] < math.log(4) + 0.5
    assert math.log(4) - 0.1 < loss.parts["item_2"] < math.log(16) - 0.8


def test_written_sessions_are_ways_on_from_the_history():
    """Sixteen of 4,032 are. Who knows the history but not the session's first item goes on rightly every fourth time."""
    model, tree = supervised()
    histories = torch.arange(ITEMS)
    with without_dropout(model):
        found = session_search(model, history_batch(histories[:, None].numpy(), max_history=1), tree, items=2, beams=16).item
    goes_on = lambda before, after: (after - 5 * before - 1) % ITEMS < 4
    first, second = found.unbind(2)
    assert (goes_on(histories[:, None], first) & goes_on(first, second)).float().mean() > 0.6


def greedy_reward(model: SessionGenerator, tree: CodeTree, worth: torch.Tensor) -> float:
    data = four_ways(seed=2, users=200)
    _, batch = next(case_batches(data, data.test))
    batch = latest(batch, 1)
    with without_dropout(model):
        best = session_search(model, batch, tree, items=2, beams=4).item[:, 0]
    return worth[best].mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_alignment_follows_a_known_reward_and_more_supervision_alone_does_not(seed):
    worth = torch.rand(ITEMS, generator=torch.Generator().manual_seed(seed))
    value = lambda batch, written: worth[written.clamp_min(0)].mean(2)
    start, tree = supervised()
    reached, margins = {}, []
    for ratio in (0.0, 0.5):
        model = frozen(start).requires_grad_(True)
        torch.manual_seed(seed)

        def propose(batch, model=model):
            with without_dropout(model):
                return session_search(model, batch, tree, items=2, beams=8).item

        pairs = SessionPairs(sessions(), propose, value, items=2, ratio=ratio, gap=0.1, seed=seed)
        log = Log(view=lambda record, ratio=ratio: margins.append(record["margin"]) if ratio and "margin" in record else None)
        for _ in range(2):
            fit(model, SessionPreference(frozen(model), NextSession(), beta=0.1, weight=4.0), pairs, steps=60, log=log,
                optimization=replace(FAST, learning_rate=2e-3))
        reached[ratio] = greedy_reward(model, tree, worth)
    before = greedy_reward(start, tree, worth)
    assert abs(reached[0.0] - before) < 0.1
    assert reached[0.5] > max(before, reached[0.0]) + 0.1
    assert margins[1] > margins[0]  # each round begins at its own reference
    assert margins[3] > margins[2]


def test_a_slate_holds_real_items_once_and_obeys_rules():
    world = walk(users=60)
    recommender = train("onerec", world, settings=dataclasses.asdict(replace(SHORT, session=4))).recommender
    allowed = np.arange(64) % 2 == 0
    for rows, batch in case_batches(world, world.test):
        slate = recommender.slate(batch, allowed=allowed, seen="remove")
        assert slate.item.shape == (len(rows), 4)
        assert (slate.item % 2 == 0).all()
        for items, history in zip(slate.item.tolist(), batch.item.tolist(), strict=True):
            assert len(set(items)) == 4
            assert not set(items) & set(history)


def test_the_log_tells_the_load_of_the_experts_the_judgement_and_the_promotion():
    records = []
    onerec.run(SHORT, walk(users=60), Job(log=Log(view=records.append)))
    experts = [record for record in records if record["stage"] == "experts"]
    assert len(experts) == 2  # before alignment and after it
    assert all("of 4 experts in use in effect" in record["note"] for record in experts)
    assert all(sum(record["load"]) == pytest.approx(1, abs=1e-3) for record in experts)
    judged = [record for record in records if record["stage"] == "sessions"]
    assert [record["note"] for record in judged] == ["before alignment", "after alignment"]
    assert set(judged[0]) >= {"hit", "reward_taken", "judge_taken"}
    assert [record["stage"] for record in records].count("promotion") == 1
    told = next(record for record in records if record["stage"] == "ipa round 1" and "parts" in record)
    assert set(told["parts"]) == {"supervised", "preference"}
    assert "pairs" in told


def test_the_judge_never_sees_the_users_that_the_reward_learns_from(monkeypatch):
    world, users, sessions_of = walk(users=60), [], onerec.sessions_of
    monkeypatch.setattr(onerec, "sessions_of", lambda config, data, seed: users.append(set(data.train.user.tolist())) or sessions_of(
        config, data, seed))
    config = replace(SHORT, ipa=replace(SHORT.ipa, reward_steps=1))
    for half in (0, 1):
        onerec.train_reward(config, world, Job(), half)
    reward, judge = users
    assert not reward & judge
    assert reward | judge == set(world.train.user.tolist())
    assert abs(len(reward) - len(judge)) <= 1


def test_the_sessions_of_a_round_are_written_by_its_frozen_reference(monkeypatch):
    writers, references = [], []

    def pairs(batches, propose, *rest, **options):
        writers.append(propose.func.__self__.generator)
        return SessionPairs(batches, propose, *rest, **options)

    def preference(reference, *rest):
        references.append(reference)
        return SessionPreference(reference, *rest)

    monkeypatch.setattr(onerec, "SessionPairs", pairs)
    monkeypatch.setattr(onerec, "SessionPreference", preference)
    recommender = onerec.run(replace(SHORT, ipa=replace(SHORT.ipa, rounds=2)), walk(users=60), Job())
    assert len(writers) == 2
    assert writers[0] is not writers[1]
    for writer, reference in zip(writers, references, strict=True):
        assert writer is reference
        assert writer is not recommender.generator
        assert not any(parameter.requires_grad for parameter in writer.parameters())


def test_a_mixture_that_collapsed_is_told_with_advice():
    records = []
    config = replace(SHORT, ipa=replace(SHORT.ipa, rounds=0))
    world, job = walk(users=60), Job(log=Log(view=records.append))
    recommender = onerec.run(config, world, job)
    [mixture] = recommender.generator.mixtures
    mixture.gate.data *= 0
    mixture.active = 1  # equal gates: the first expert takes all
    onerec.report_experts(recommender.generator, onerec.sessions_of(config, world, 0).at(0), job)
    note = records[-1]["note"]
    assert note.startswith("decoder layer 1: 1.0 of 4 experts in use in effect, 3 idle, the busiest has 100% of the load")
    assert "the mixture collapsed" in note
    assert "raise balance" in note


@pytest.mark.parametrize("variant", ["plain", "greedy", "item_wise", "no_moe", "no_balance_loss", "ntp_only", "no_ipa"])
def test_variants_train_and_write_slates(variant):
    world, stages = walk(users=60), set()
    own = onerec.VARIANTS[variant]
    run = train(f"onerec:{variant}", world, settings=dataclasses.asdict(override(SHORT, own)),
                log=Log(view=lambda record: stages.add(record["stage"])))
    assert ("promotion" in stages) == (variant != "no_ipa")
    _, batch = next(case_batches(world, world.test))
    assert (run.recommender.slate(batch).item >= 0).all()


@pytest.mark.parametrize(("changes", "message"), [
    ({"group": 1}, "want two sessions at least, a best and a worst, got 1"),
    ({"ratio": 1.5}, r"want a share in \[0, 1\], got 1.5"),
])
def test_alignment_that_cannot_work_is_refused_before_anything_else(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SHORT.ipa, **changes)


def test_a_lone_user_is_told_that_two_reward_models_need_two():
    world, records = walk(users=30), []
    lone = replace(world, train=world.train.take(world.train.user == 1))
    with pytest.raises(ConfigError, match=r"want two users at least with sessions.*set ipa.rounds=0"):
        onerec.run(SHORT, lone, Job(log=Log(view=records.append)))
    assert records == []


@pytest.mark.parametrize(("changes", "message"), [
    ({"bad_share": 0.5}, "leaves out sessions of low value, but these events have no values"),
    ({"active": 5}, "want 1 to 4 active ones of 4, got 5"),
])
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        onerec.run(replace(SHORT, **changes), walk(users=30), Job())
