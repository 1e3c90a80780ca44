"""Every sentence of advice follows from a number, and goes away with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from semid.evaluation.code_advice import advise, best, even, rank_correlation
from semid.evaluation.code_values import Ground, Measured, Probe

GROUND = Ground(items=1000, twins={"content": 0}, neighbours=10, category=None, chance_purity=None, earlier=(0.8, 900))


def way(name: str, mean: float = 0.04, *, p: float | None = None, seconds: float | None = 10.0, **changes) -> Measured:
    level = {"size": 16, "used": 16, "entropy": 2.7, "perplexity": 15.0, "largest_share": 0.1}
    calm = Measured(name, "test", seconds, 1000, [level, level], {"colliding_share_before": 0.01, "colliding_share_after": 0.0,
                                                                 "added_levels": 0, "moved": 0},
                    {}, None, {}, [0.1, 0.01], [0.1, 0.1], {"least": 3, "median": 9.0, "full": 0.0},
                    Probe(mean, mean - 0.002, mean + 0.002, 30.0, p))
    return replace(calm, **changes)


def said(*ways: Measured, ground: Ground = GROUND) -> str:
    return " ".join(advise(ways, ground)).replace("\u202f", " ")


def test_calm_codes_alone_ask_for_nothing():
    assert said(way("a")).startswith("Nothing here asks for a change")


def test_the_highest_probe_is_named_first_and_whether_the_others_are_lower_by_more_than_chance():
    low, high = way("low", 0.03, p=0.001), way("high", 0.05)
    assert best([low, high]) is high
    assert said(low, high).startswith("Begin with high: a small generator on its codes reaches the highest validation NDCG@10, .0500 "
                                      "(.0480 to .0520); all others are lower by more than chance.")


def test_what_the_probe_cannot_tell_apart_is_decided_by_seconds_and_by_more_seeds():
    first, tied, lower = way("first", 0.05, seconds=40.0), way("tied", 0.049, p=0.4, seconds=3.0), way("lower", 0.03, p=0.01)
    assert even([first, tied, lower]) == [tied]
    text = said(first, tied, lower)
    assert text.startswith("Begin with first")
    assert "cannot tell tied from first (p ≥ .05); the quickest of them to make is tied, 3 s." in text
    assert "train in full with three seeds: first and tied first." in text
    alone = said(replace(first, seconds=1.0), tied)
    assert alone.startswith("The probe finds no difference by more than chance; the highest validation NDCG@10 of a small generator is "
                            "that on the codes of first, .0500")
    assert "train both kinds in full" in alone


def test_published_codes_have_no_seconds_and_win_no_race():
    text = said(way("first", 0.05), way("codes=sid", 0.049, p=0.4, seconds=None))
    assert "cannot tell codes=sid from first (p ≥ .05); train both kinds in full" in text


def test_a_dear_way_that_scores_lower_is_called_dear():
    text = said(way("quick", 0.05, seconds=4.0), way("slow", 0.04, p=0.001, seconds=120.0))
    assert "slow (2 min) took more than 5 times the 4 s of quick" in text
    assert "took more than" not in said(way("quick", 0.05, seconds=4.0), way("slow", 0.04, p=0.001, seconds=19.0))


def test_the_probe_follows_neighbours_only_where_their_ranks_agree_over_enough_ways():
    rising = [way(f"w{k}", 0.03 + k / 1000, p=0.01, agreement={"behaviour": [k / 10, 0.0], "content": [(5 - k) / 10, 0.0]})
              for k in range(5)]
    text = said(*rising)
    assert "rises where items that the same users take share their first code (rank correlation 1.00 over 5 ways)" in text
    assert "rank correlation" not in said(*rising[:4])
    mixed = [replace(each, agreement={"behaviour": [(k * 2 % 5) / 10, 0.0]}) for k, each in enumerate(rising)]
    assert "rank correlation" not in said(*mixed)


@pytest.mark.parametrize(("changes", "ground", "sentence"), [
    ({"collisions": {"colliding_share_before": 0.3, "added_levels": 0, "moved": 90}}, GROUND, "shared all their codes under a (30 %)"),
    ({"collisions": {"colliding_share_before": 0.0, "added_levels": 1, "moved": 9}}, GROUND, "a needed one more level to tell items apart"),
    ({"levels": [{"size": 256, "perplexity": 40.0}]}, GROUND, "as unevenly as if only some of its codes were there: a (40 of 256)"),
    ({"head_room": {"least": 0, "median": 0.0, "full": 0.25}}, GROUND, "25 % of the items sit under a prefix without a free code"),
    ({"churn": [0.6, 0.8]}, GROUND, "a gives 60 % of the old items another first code"),
    ({}, replace(GROUND, twins={"content": 12}), "12 of 1 000 items have exactly the content of another"),
])
def test_each_number_out_of_range_has_its_sentence_and_no_other(changes: dict, ground: Ground, sentence: str):
    found = advise([way("a", **changes)], ground)
    assert len(found) == 1
    assert sentence in found[0].replace("\u202f", " ")


def test_codes_of_which_nothing_is_known_but_themselves_are_judged_by_that():
    alone = way("run", probe=None, collisions=None, churn=None, head_room={"least": 0, "median": 1.0, "full": 0.5})
    assert "new items like them will be refused" in said(alone)


def test_rank_correlation_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40).astype(float), rng.integers(0, 6, 40) + rng.normal(size=40)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(np.ones(4), b[:4]) == 0.0
