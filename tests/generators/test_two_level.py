"""The two-level generator: stepping equals teacher forcing, only real children get probability, padding changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.data.batch import SequenceBatches, history_batch
from semid.decoding.beam import beam_search
from semid.decoding.exhaustive import exhaustive
from semid.errors import ConfigError
from semid.generators.history import GAPS, gap_bucket, gaps
from semid.generators.two_level import TwoLevel
from semid.nn.hstu import HSTU
from semid.nn.transformer import last_state
from semid.objectives.next_codes import NextCodes
from semid.types import SemanticIds
from tests.toyworld.world import walk

N, SIZES = 64, (5, 6, 7)


def some_ids(seed: int = 0) -> SemanticIds:
    every = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), axis=-1).reshape(-1, 3)
    return SemanticIds(np.random.default_rng(seed).permutation(every)[:N].astype(np.int16), SIZES)


@pytest.fixture
def model() -> TwoLevel:
    torch.manual_seed(0)
    model = TwoLevel(some_ids(), width=16, heads=2, feedforward=32, max_length=20, start=torch.randn(N, 16),
                     content=torch.randn(N, 9)).eval()
    for table in model.node:
        torch.nn.init.normal_(table)
    return model


@torch.no_grad()
def test_only_existing_children_have_probability(model):
    batch = SequenceBatches(walk().train, max_length=20, tokens=128, seed=0).at(0)
    logits = model.logits(batch)
    codes = model.codes[batch.target[batch.target >= 0]].long()
    assert torch.equal(logits > -torch.inf, model.tree.child_mask(codes))


@torch.no_grad()
def test_the_vector_of_an_item_is_the_sum_of_its_parts_times_the_root_of_the_width(model):
    item = torch.tensor([[3, 7, -1]])
    tokens = model.codes[item.clamp_min(0)].long() + model.offset
    found, numpy_of = model.input(item, tokens)[0].numpy(), lambda tensor: tensor.double().numpy()
    for place, row in enumerate([3, 7]):
        codes = numpy_of(model.input.code.weight)[tokens[0, place].numpy()].sum(0)
        content = numpy_of(model.input.project.weight) @ numpy_of(model.input.content[row]) + numpy_of(model.input.project.bias)
        np.testing.assert_allclose(found[place], 4 * (numpy_of(model.input.item.weight)[row] + codes + content), rtol=1e-4, atol=1e-5)
    assert not found[2].any()


@torch.no_grad()
@pytest.mark.parametrize("has_time_gaps", [True, False])
def test_an_empty_history_has_read_no_item(has_time_gaps):
    torch.manual_seed(0)
    model = TwoLevel(some_ids(), width=16, heads=2, feedforward=32, max_length=20, start=torch.randn(N, 16), content=torch.randn(N, 9),
                     has_time_gaps=has_time_gaps).eval()
    batch = history_batch([np.array([], np.int64), np.array([3, 5])], max_history=20)
    before, own = model.start(batch).user, model.input.item.weight[0].clone()
    assert torch.allclose(last_state(model.states(batch), batch.length).float(), before, atol=1e-5)  # the layers of torch
    assert torch.allclose(model.read(batch)[0], before, atol=1e-5)
    model.input.item.weight[0], model.input.content[0] = own + 1, -model.input.content[0]
    model.input.code.weight[model.codes[0].long() + model.offset] += 1
    assert torch.equal(model.start(batch).user[0], before[0])
    assert torch.allclose(model.read(batch)[0][0], before[0], atol=1e-5)


@torch.no_grad()
def test_steps_equal_teacher_forcing(model):
    world = walk(users=8)
    batch = SequenceBatches(world.train, max_length=20, tokens=1000, seed=0).at(0)
    histories = history_batch([row[: int(n)].numpy() for row, n in zip(batch.item, batch.length, strict=True)], max_history=20)
    histories.time.copy_(batch.time)
    last = batch.target[torch.arange(len(batch)), batch.length - 1]
    forced = model.logits(batch).view(*batch.target.shape, 3, -1)[torch.arange(len(batch)), batch.length - 1]
    state, codes = model.start(histories), None
    for level in range(3):
        logits, state = model.step(state, codes)
        assert torch.allclose(logits, forced[:, level], atol=1e-5)
        codes = model.codes[last, level].long()


@torch.no_grad()
def test_the_probabilities_of_all_items_sum_to_one(model):
    scores = exhaustive(model, history_batch([np.array([1, 2, 3]), np.array([], np.int64)], max_history=20), model.tree)
    assert torch.allclose(scores.exp().sum(1), torch.ones(2), atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(model):
    alone = model.start(history_batch([np.array([4, 9])], max_history=20)).user
    padded = model.start(history_batch([np.array([4, 9]), np.arange(15)], max_history=20)).user
    assert torch.allclose(alone[0], padded[0], atol=1e-5)


def test_the_loss_is_the_negative_log_probability_of_the_target(model):
    batch = SequenceBatches(walk(users=4).train, max_length=20, tokens=1000, seed=0).at(0)
    row = torch.zeros(1, dtype=torch.int64)
    single = type(batch)(item=batch.item[row], time=batch.time[row], length=batch.length[row], user=batch.user[row],
                         target=torch.where(torch.arange(batch.item.shape[1]) == batch.length[row] - 1, batch.target[row], -1))
    loss = NextCodes()(model, single).total
    history = history_batch([single.item[0].numpy()], max_history=20)
    history.time.copy_(single.time)
    target = single.target[0, int(single.length[0]) - 1]
    assert torch.allclose(-loss, exhaustive(model, history, model.tree)[0, target], atol=1e-4)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_without_node_vectors_siblings_are_told_apart_by_code_alone():
    torch.manual_seed(0)
    model = TwoLevel(some_ids(), width=16, heads=2, feedforward=32, max_length=20, has_node_vectors=False, has_time_gaps=False)
    assert not list(model.node)
    assert model.input.item is None


def test_padded_codes_are_refused():
    codes = some_ids().codes.copy()
    codes[3, 2] = -1
    with pytest.raises(ConfigError, match="codes of one length"):
        TwoLevel(SemanticIds(codes, SIZES))


def test_gaps_double():
    day = 86_400
    time = torch.tensor([[0, 5, day + 5, 3 * day + 5, 7 * day + 6, 10_000 * day]])
    assert gap_bucket(gaps(time)).tolist() == [[0, 0, 1, 2, 3, GAPS - 1]]


@torch.no_grad()
def test_the_wait_for_the_request_is_read_as_it_was_in_training():
    """What training makes of position s is what a request at the time of the next event finds, also from a kept state."""
    torch.manual_seed(0)
    model = TwoLevel(some_ids(), width=16, heads=2, feedforward=32, max_length=9, has_request_gap=True).eval()
    assert model.wait is not None
    torch.nn.init.normal_(model.wait.weight)
    item, time = np.arange(9) * 3, np.cumsum([0, 1, 90_000, 400_000, 10, 10**7, 10**6, 5, 300_000])
    whole = history_batch([item[:8]], [time[:8]], max_history=9, requests=time[8:])
    trained = model.states(whole)[0]
    for end in range(1, 9):
        asked = history_batch([item[:end]], [time[:end]], max_history=9, requests=time[end : end + 1])
        torch.testing.assert_close(model.user(asked)[0], trained[end - 1], rtol=1e-4, atol=1e-5)
        asked.extra["state"] = model.read(asked)[0]
        torch.testing.assert_close(model.user(asked)[0], trained[end - 1], rtol=1e-4, atol=1e-5)
    at_once = history_batch([item[:8]], [time[:8]], max_history=9)
    torch.testing.assert_close(model.user(at_once), model.left(at_once) + model.wait.weight[:1])


@torch.no_grad()
def test_hstu_takes_the_transformers_place():
    """The same claims with another temporal model; times and the request now move the state."""
    torch.manual_seed(0)
    temporal = HSTU(16, layers=2, heads=2, head_width=8, dropout=0.0, max_length=20)
    model = TwoLevel(some_ids(), width=16, start=torch.randn(N, 16), temporal=temporal).eval()
    history = history_batch([np.array([1, 2, 3]), np.array([4, 9])], [np.array([0, 5, 10**6]), np.array([7, 9])], max_history=20)
    scores = exhaustive(model, history, model.tree)
    assert torch.allclose(scores.exp().sum(1), torch.ones(2), atol=1e-5)
    alone = history_batch([np.array([4, 9])], [np.array([7, 9])], max_history=20)
    assert torch.allclose(exhaustive(model, alone, model.tree)[0], scores[1], atol=1e-4)
    history.extra["request"] = torch.tensor([10**8, 9])
    later = exhaustive(model, history, model.tree)
    assert not torch.allclose(later[0], scores[0], rtol=0, atol=1e-6)
    assert torch.allclose(later[1], scores[1], atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("split", [(0, 0, 0, 0), (1, 4, 0, 3), (2, 1, 5, 7)])
def test_a_history_read_in_two_parts_has_the_state_of_one_reading(model, split):
    lengths = (3, 5, 6, 8)
    rng = np.random.default_rng(1)
    items = [rng.integers(N, size=n) for n in lengths]
    times = [np.cumsum(rng.integers(0, 9 * 86_400, size=n)) for n in lengths]
    whole = history_batch(items, times, max_history=20)
    first = history_batch([i[:n] for i, n in zip(items, split)], [t[:n] for t, n in zip(times, split)], max_history=20)
    _, kept = model.read(first)
    state, kept = model.read(whole, kept)
    once, kept_once = model.read(whole)
    expected = model.start(whole).user
    assert torch.allclose(state, expected, atol=2e-6)
    assert torch.allclose(once, expected, atol=2e-6)
    for row, n in enumerate(lengths):
        assert torch.allclose(kept.key_value[:, row, :, :, :n], kept_once.key_value[:, row, :, :, :n], atol=2e-6)
    whole.extra["state"] = state
    assert model.start(whole).user is state


@torch.no_grad()
def test_new_items_get_shared_vectors_alone_and_old_ones_keep_their_odds():
    every = np.stack(np.meshgrid(*map(np.arange, SIZES), indexing="ij"), axis=-1).reshape(-1, 3)
    codes = np.random.default_rng(3).permutation(every)[: N + 9].astype(np.int16)
    torch.manual_seed(0)
    content = torch.randn(N + 9, 9)
    old = TwoLevel(SemanticIds(codes[:N], SIZES), width=16, heads=2, feedforward=32, max_length=20, start=torch.randn(N, 16),
                   content=content[:N]).eval()
    for table in old.node:
        torch.nn.init.normal_(table)
    ids = SemanticIds(codes, SIZES)
    grown = old.with_items(ids, old.tree.insert(ids), content[N:])
    histories = history_batch([np.array([1, 2, 3]), np.array([7, 8])], max_history=20)
    assert torch.equal(grown.start(histories).user, old.start(histories).user)
    user = old.start(histories).user
    for level, (before, after) in enumerate(zip(old.node, grown.node, strict=True), 1):
        is_old = torch.zeros(len(after), dtype=torch.bool)
        is_old[old.tree.renumbered(level, grown.tree)] = True
        assert torch.equal(after[is_old], before)
        assert not after[~is_old].any()
        assert int((~is_old).sum()) > 0
    # Under the root, a code that both trees have keeps its logit; the new items' scores sum with the old ones' to one.
    root = torch.zeros(2, dtype=torch.int64)
    logits = [model.level_logits(0, user, torch.zeros_like(user), root) for model in (old, grown)]
    both = torch.isfinite(logits[0])
    assert torch.equal(logits[0][both], logits[1][both])
    scores = exhaustive(grown, history_batch([np.array([1, N + 2])], max_history=20), grown.tree, normalise="children")
    assert scores.shape == (1, N + 9)
    assert torch.allclose(scores.exp().sum(1), torch.ones(1), atol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_a_search_of_several_users_finds_what_each_alone_finds(seed):
    """Rows with fewer open beams than others are filled up with forced ones, stepped or not at the level before."""
    rng = np.random.default_rng(seed)
    every = np.stack(np.meshgrid(*[np.arange(6)] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    ids = SemanticIds(rng.permutation(every)[:40].astype(np.int16), (6,) * 4)
    torch.manual_seed(seed)
    model = TwoLevel(ids, width=8, heads=1, feedforward=8, max_length=20, start=torch.randn(40, 8)).eval()
    histories = [rng.integers(40, size=n) for n in (1, 4, 9)]
    constraint = model.tree.allow(rng.random(40) < 0.6)
    seen = torch.from_numpy(rng.integers(40, size=(3, 12)))
    search = lambda rows: beam_search(model, history_batch([histories[row] for row in rows], max_history=20), model.tree, beams=12, k=6,
                                      constraint=constraint, seen=seen[rows], normalise="children")
    together = search([0, 1, 2])
    for row in range(3):
        alone = search([row])
        assert torch.equal(together.item[row], alone.item[0])
        assert torch.allclose(together.logp[row], alone.logp[0], atol=1e-5)


def test_a_history_longer_than_the_model_reads_is_one_clear_message(model):
    with torch.no_grad(), pytest.raises(ConfigError, match="want at most 20 items, got 21"):
        model.user(history_batch([np.arange(21)], max_history=21))
