"""Tables of several systems."""

import json
from dataclasses import replace

import numpy as np
import pytest

from semid.errors import ConfigError, DataError
from semid.evaluation.compare import compare_runs
from semid.evaluation.evaluate import Evaluation
from semid.evaluation.statistics import bootstrap, holm, paired_permutation
from semid.types import Protocol, Recommendations

B = 300


def evaluation(hits, **changes):
    """An evaluation with given recall values; NDCG is half of them."""
    lists = Recommendations(np.arange(len(hits), dtype=np.int32), np.zeros((len(hits), 1), np.int32),
                            np.zeros((len(hits), 1), np.float32), "test")
    plain = Evaluation("test", Protocol(), "data", 10, {}, {}, {}, 0, 3.0, {"recall@10": hits, "ndcg@10": hits / 2}, lists)
    return replace(plain, **changes)


def hits(share, seed):
    return np.random.default_rng(seed).binomial(1, share, B).astype(float)


def test_rows_hold_mean_interval_spread_and_tests():
    ours, base, other = [hits(0.3, 0), hits(0.32, 1)], hits(0.1, 2), hits(0.12, 3)
    runs = [("ours", [evaluation(v) for v in ours]), ("base", [evaluation(base)]), ("other", [evaluation(other)])]
    table = compare_runs(runs, reference="base")
    row = {r.name: r for r in table.rows}
    mean = np.mean(ours, axis=0)
    got = row["ours"].metrics["recall@10"]
    assert got.mean == pytest.approx(mean.mean())
    assert (got.low, got.high) == bootstrap(mean)
    assert got.sd == pytest.approx(np.std([v.mean() for v in ours], ddof=1))
    p = [paired_permutation(mean, base), paired_permutation(other, base)]
    assert [row[name].metrics["recall@10"].p for name in ("ours", "other")] == p
    assert [row[name].metrics["recall@10"].p_adjusted for name in ("ours", "other")] == holm(p).tolist()
    assert row["base"].metrics["recall@10"].p is row["base"].metrics["recall@10"].sd is None
    assert (row["ours"].num_seeds, row["base"].num_seeds) == (2, 1)
    assert row["ours"].seconds_per_case == 3 / B
    assert table.protocol_hash == Protocol().hash
    json.dumps(table.to_dict(), allow_nan=False)


def test_the_first_row_is_the_reference_by_default():
    table = compare_runs([("a", [evaluation(hits(0.1, 0))]), ("b", [evaluation(hits(0.5, 1))])])
    assert table.reference == "a"
    assert table.rows[1].metrics["ndcg@10"].p_adjusted < 0.01


def test_one_system_alone_is_a_table():
    assert compare_runs([("a", [evaluation(hits(0.1, 0))])]).rows[0].metrics["recall@10"].p is None


def test_cases_without_a_value_in_any_row_are_left_out_of_that_metric():
    a, b = hits(0.2, 0), hits(0.2, 1)
    a[:10], b[5:20] = np.nan, np.nan
    table = compare_runs([("a", [evaluation(a)]), ("b", [evaluation(b)])], metrics=["recall@10"])
    assert table.rows[0].metrics["recall@10"].mean == pytest.approx(a[20:].mean())


@pytest.mark.parametrize(("change", "message"), [
    ({"protocol": Protocol(seen="remove")}, "one protocol.*seen keep / remove"),
    ({"fingerprint": "other"}, "one data for all rows, got data in 'a' and other in 'b'"),
    ({"part": "valid"}, "one part .* got test in 'a' and valid in 'b'"),
])
def test_numbers_of_different_questions_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        compare_runs([("a", [evaluation(hits(0.1, 0))]), ("b", [evaluation(hits(0.1, 0), **change)])])


def test_other_cases_are_refused():
    a, b = evaluation(hits(0.1, 0)), evaluation(hits(0.1, 0)[:-1])
    with pytest.raises(DataError, match=r"number of cases .* 300 .* 299"):
        compare_runs([("a", [a]), ("b", [b])])
    lists = a.recommendations
    turned = replace(a, recommendations=Recommendations(lists.user[::-1].copy(), lists.item, lists.score, "test"))
    with pytest.raises(DataError, match="same users in the same order"):
        compare_runs([("a", [a]), ("b", [turned])])


def test_wrong_names_and_missing_runs_are_refused():
    a = evaluation(hits(0.1, 0))
    with pytest.raises(ConfigError, match="did you mean 'item_knn'"):
        compare_runs([("item_knn", [a])], reference="itemknn")
    with pytest.raises(ConfigError, match="did you mean 'recall@10'"):
        compare_runs([("a", [a])], metrics=["recal@10"])
    with pytest.raises(ConfigError, match="evaluate the runs first"):
        compare_runs([("a", [])])
    with pytest.raises(ConfigError, match="one name a system"):
        compare_runs([("a", [a]), ("a", [a])])
