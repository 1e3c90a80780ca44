"""A scorer with heads: one list of many, the items of one prior alone, heads that are off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.errors import ConfigError
from semid.nn.prior_heads import FreeHeads, PriorHeads
from semid.nn.transformer import last_state
from semid.scorers.prior_heads import PRIOR_EVENTS, PriorHeadScorer
from tests.objectives.test_prior_futures import WIDTH, batch_of, scorer, two_tags


def cosines(model: PriorHeadScorer, batch) -> np.ndarray:
    """float64 [H, B, N]: scale times cosine, in numpy."""
    state = last_state(model.states(batch), batch.length)
    z = np.stack([h.detach().double().numpy() for h in model.heads(state)])
    table = model.body.item_vectors().detach().double().numpy()
    unit = lambda a: a / np.linalg.norm(a, axis=-1, keepdims=True)
    return 20 * unit(z) @ unit(table).T


def heads() -> PriorHeads:
    torch.manual_seed(1)
    made = PriorHeads(WIDTH, 2, 2)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


BATCH = batch_of([[1, 2, 3], [12, 13, -1]])


@pytest.mark.parametrize("merge", ["combine", "average"])
def test_merged_scores_are_the_best_or_the_mean_of_the_heads_that_rank_an_item(merge):
    model = scorer(heads(), two_tags(), merge=merge)
    every, tags = cosines(model, BATCH), two_tags().numpy()
    ranks = tags.T[model.heads.prior.numpy()][:, None].repeat(2, axis=1)  # [H, B, N]
    wanted = np.where(ranks, every, -np.inf).max(0) if merge == "combine" else (every * ranks).sum(0) / ranks.sum(0)
    np.testing.assert_allclose(model.score(BATCH).detach().numpy(), wanted, rtol=1e-4)


def test_combine_is_the_pooled_deduplicated_list_of_all_heads():
    model = scorer(heads(), two_tags())
    every, tags, k = cosines(model, BATCH)[:, 0], two_tags().numpy(), 5
    pooled: dict[int, float] = {}
    for head, prior in enumerate(model.heads.prior.tolist()):
        score = np.where(tags[:, prior], every[head], -np.inf)
        for item in np.argsort(-score)[:k]:
            pooled[item] = max(pooled.get(item, -np.inf), score[item])
    wanted = sorted(pooled, key=lambda item: -pooled[item])[:k]
    assert model.score(BATCH)[0].topk(k).indices.tolist() == wanted


def test_a_mixture_weighs_heads_by_the_tags_of_the_history():
    """In numpy, from its definition. With no history the weights are the catalogue's."""
    model, tags = scorer(heads(), two_tags(), merge="mixture"), two_tags().numpy()
    batch = history_batch([np.array([1, 2, 3]), np.array([12, 13]), np.array([], np.int64)], max_history=8)
    every = cosines(model, batch)
    wanted = np.zeros(every.shape[1:])
    for row, items in enumerate(batch.item.tolist()):
        history = [item for item in items if item >= 0]
        for head, prior in enumerate(model.heads.prior.tolist()):
            mass = np.where(tags[:, prior], np.exp(every[head, row]), 0)
            weight = (tags[history, prior].sum() + PRIOR_EVENTS * tags[:, prior].mean()) / (len(history) + PRIOR_EVENTS)
            wanted[row] += weight * mass / mass.sum()
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(model.score(batch).detach().numpy(), np.log(wanted / wanted.sum(1, keepdims=True)), rtol=1e-4, atol=1e-4)


def test_the_heads_of_a_prior_rank_its_items_alone():
    model = scorer(heads(), two_tags())
    for prior in (0, 1):
        score = model.score_of(BATCH, prior)
        assert torch.equal(torch.isfinite(score), two_tags()[:, prior].expand(2, -1))
        wanted = cosines(model, BATCH)[2 * prior : 2 * prior + 2].max(0)
        np.testing.assert_allclose(score.detach().numpy()[:, two_tags()[:, prior]], wanted[:, two_tags()[:, prior]], rtol=1e-4)


def test_one_horizon_can_answer_alone():
    model = scorer(heads(), two_tags(), horizon=0)
    assert model.answering == [0, 2]
    wanted = np.where(two_tags().numpy().T[:, None], cosines(model, BATCH)[[0, 2]], -np.inf).max(0)
    np.testing.assert_allclose(model.score(BATCH).detach().numpy(), wanted, rtol=1e-4)
    assert scorer(PriorHeads(WIDTH, 2, 2, composition="additive"), two_tags(), horizon=1).answering == [1, 2, 3]
    with pytest.raises(ConfigError, match="want a horizon that some head answers for, got 2"):
        scorer(heads(), two_tags(), horizon=2)


def test_heads_of_unlikely_priors_are_off_and_the_likeliest_stays_on():
    model = scorer(heads(), two_tags(), gate=0.5)
    torch.nn.init.zeros_(model.gate.weight)
    only = lambda prior: (two_tags()[:, prior]).expand(2, -1)
    for bias, ranked in (([1.0, -1.0], only(0)), ([1.0, 1.0], only(0) | only(1)), ([-2.0, -1.0], only(1))):
        model.gate.bias.data = torch.tensor(bias)
        assert torch.equal(torch.isfinite(model.score(BATCH)), ranked)
    assert torch.isfinite(model.score_of(BATCH, 0)).any()  # who asks for a prior gets it


def test_the_learnt_scale_stops_at_100_and_comes_back_at_once():
    model = scorer(heads(), two_tags())
    optimizer = torch.optim.SGD([model.log_scale], lr=0.01)
    found = []
    for sign in [-1] * 8 + [1]:  # a loss that falls with the scale, then one that rises
        optimizer.zero_grad()
        (sign * model.scale()).backward()
        optimizer.step()
        found.append(model.scale().item())
    assert found[-3:] == pytest.approx([100, 100, 100 / np.e], rel=1e-4)


def test_heads_without_priors_cannot_be_asked_for_one():
    model = scorer(FreeHeads(WIDTH, 3), two_tags())
    assert torch.isfinite(model.score(BATCH)).all()
    with pytest.raises(ConfigError, match="no head answers for prior 0"):
        model.score_of(BATCH, 0)
