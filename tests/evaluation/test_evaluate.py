"""The evaluator end to end, on recommenders whose answers are known."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semid.data.batch import case_batches
from semid.data.split import split
from semid.errors import ConfigError, DataError, RunError
from semid.evaluation import evaluate as module
from semid.evaluation.beyond_accuracy import category_shares
from semid.evaluation.evaluate import Evaluation, Measure, evaluate, repeat_rate, resolve_seen, truth_of
from semid.evaluation.metrics import RANKING, recall
from semid.types import Cases, Catalog, IdMap, Interactions, Protocol, Recommendations, SemanticIds

N = 60


def events(users=40, seed=0, length=8):
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users, dtype=np.int32), length)
    item = np.concatenate([rng.permutation(N)[:length] for _ in range(users)]).astype(np.int32)
    time = np.sort(rng.integers(0, 40 * 86_400, (users, length))).ravel()
    return Interactions(user, item, time, IdMap([f"u{u}" for u in range(users)]), IdMap([f"i{i}" for i in range(N)]))


@pytest.fixture
def data():
    catalog = Catalog(IdMap([f"i{i}" for i in range(N)]), pa.table({"category": [f"c{i % 7}" for i in range(N)]}))
    return split(events(), catalog, Protocol(), fingerprint="0123456789abcdef")


@dataclass
class Table:
    """Answers from one score an item, float [N]; -inf is never shown."""

    score: np.ndarray

    def recommend(self, histories, *, k, allowed=None, seen="keep"):
        score = np.tile(self.score, (len(histories), 1)).astype(np.float32)
        if seen == "remove":
            for row, history in zip(score, histories.item.numpy()):
                row[history[history >= 0]] = -np.inf
        item = np.argsort(-score, axis=1, kind="stable")[:, :k].astype(np.int32)
        score = np.take_along_axis(score, item, axis=1)
        return Recommendations(histories.user.numpy().astype(np.int32), np.where(score > -np.inf, item, -1), score, "test")


@dataclass
class Edited:
    """A table whose answers are spoilt before they are given."""

    edit: object

    def recommend(self, histories, *, k, allowed=None, seen="keep"):
        answer = Table(np.arange(N)).recommend(histories, k=k)
        return self.edit(answer, histories)


def run(data, recommender, **arguments):
    return evaluate(recommender, data, data.test, case_batches(data, data.test, tokens=64), **arguments)


def test_ranks_are_those_of_the_table(data):
    score = np.random.default_rng(1).permutation(N)
    got = run(data, Table(score))
    rank = np.array([(score > score[t]).sum() for t in data.test.target])
    assert got.metrics["recall@10"].mean == pytest.approx((rank < 10).mean())
    assert got.per_user["mrr@20"] == pytest.approx(np.where(rank < 20, 1 / (rank + 1), 0))
    assert got.num_cases == len(data.test)
    assert got.seconds > 0
    assert got.sid_level == {}
    assert got.num_cut == 0


def test_every_ranking_metric_has_an_interval_around_its_mean(data):
    got = run(data, Table(np.random.default_rng(1).permutation(N)), ks=(5, 20))
    for name in RANKING:
        for k in (5, 20):
            m = got.metrics[f"{name}@{k}"]
            assert m.low <= m.mean <= m.high
            assert m.mean == pytest.approx(got.per_user[f"{name}@{k}"].mean())


def test_equal_scores_give_the_chance_level_and_print_the_sid_level_beside_it(data):
    got = run(data, Table(np.zeros(N)), depth=N)
    assert got.metrics["recall@10"].mean == pytest.approx(10 / N)
    assert got.sid_level["recall@10"] == 1
    assert got.num_cut == 0  # the list is the whole catalogue


def test_groups_cut_by_the_end_of_the_list_are_counted(data):
    assert run(data, Table(np.zeros(N)), depth=50).num_cut == len(data.test)


def test_removing_seen_items_lifts_the_lists_of_a_table_and_changes_the_hash(data):
    kept, removed = (run(data, Table(np.arange(N)), seen=seen) for seen in ("keep", "remove"))
    assert kept.protocol.hash != removed.protocol.hash
    assert kept.protocol.hash == data.protocol.hash
    assert (removed.per_user["recall@20"] >= kept.per_user["recall@20"]).all()
    for case in range(len(data.test)):
        history = data.events.item[data.test.history_begin[case] : data.test.history_end[case]]
        assert not np.isin(removed.recommendations.item[case], history).any()


def test_slices_of_one_slicing_average_to_the_whole(data):
    got = run(data, Table(np.random.default_rng(2).permutation(N)))
    assert set(got.slices) == {"popularity", "history", "target", "day"}
    for slicing in got.slices.values():
        count = sum(s.num_targets for s in slicing.values())
        total = sum(s.num_targets * s.metrics["recall@10"].mean for s in slicing.values())
        assert count == len(data.test)
        assert total / count == pytest.approx(got.metrics["recall@10"].mean)


def test_what_lists_are_like_is_measured_where_its_input_is_given(data):
    rng = np.random.default_rng(3)
    ids = SemanticIds(np.stack([np.arange(N) // 8, np.arange(N) % 8], axis=1).astype(np.int16), (8, 8))
    got = run(data, Table(rng.permutation(N)), ids=ids, vectors=rng.standard_normal((N, 4)),
              categories=category_shares(data.catalog, "category"))
    assert got.metrics["coverage@10"] == Measure(10 / N)  # everybody gets the same ten
    assert got.metrics["gini@10"].mean == pytest.approx(50 / 60)
    assert got.metrics["entropy@10"].mean == pytest.approx(np.log2(10))
    for name in ("novelty", "arp", "aplt", "diversity", "code_diversity", "category_entropy", "miscalibration"):
        m = got.metrics[f"{name}@10"]
        assert m.low <= m.mean <= m.high
    assert "diversity@10" not in run(data, Table(np.arange(N))).metrics


def test_short_and_empty_lists_are_evaluated(data):
    score = np.full(N, -np.inf)
    assert run(data, Table(score)).metrics["recall@10"].mean == 0
    score[7] = 1
    assert run(data, Table(score)).metrics["hit@5"].mean == pytest.approx((data.test.target == 7).mean())


def test_a_file_keeps_everything(data, tmp_path):
    got = run(data, Table(np.zeros(N)), vectors=np.eye(N))
    got.save(tmp_path / "test.parquet")
    back = Evaluation.load(tmp_path / "test.parquet")
    assert back.to_dict() == got.to_dict()
    for name in ("user", "item", "score"):
        np.testing.assert_array_equal(getattr(back.recommendations, name), getattr(got.recommendations, name))
    for name, values in got.per_user.items():
        np.testing.assert_array_equal(back.per_user[name], values)
    assert [f.name for f in tmp_path.iterdir()] == ["test.parquet"]


def test_the_dictionary_is_json_without_nan(data):
    got = run(data, Table(np.full(N, -np.inf)))  # nothing shown: no Gini, no novelty
    text = json.dumps(got.to_dict(), allow_nan=False)
    assert json.loads(text)["metrics"]["gini@10"]["mean"] is None
    assert json.loads(text)["protocol_hash"] == data.protocol.hash


def test_a_file_of_another_kind_or_version_is_refused(tmp_path, data, monkeypatch):
    path = tmp_path / "x.parquet"
    with pytest.raises(RunError, match="evaluate the run again"):
        Evaluation.load(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(RunError, match="another Parquet file"):
        Evaluation.load(path)
    path.write_bytes(b"no Parquet")
    with pytest.raises(RunError, match="evaluate the run again"):
        Evaluation.load(path)
    monkeypatch.setattr(module, "FORMAT", 9)
    run(data, Table(np.arange(N))).save(path)
    monkeypatch.setattr(module, "FORMAT", 1)
    with pytest.raises(RunError, match="upgrade semid"):
        Evaluation.load(path)


def spoil_twice(answer, _):
    item = answer.item.copy()
    item[:, 1] = item[:, 0]
    return replace(answer, item=item)


def spoil_unknown(answer, _):
    item = answer.item.copy()
    item[0, 0] = N
    return replace(answer, item=item)


def spoil_score(answer, _):
    score = answer.score.copy()
    score[0, 3] = np.nan
    return replace(answer, score=score)


def spoil_rows(answer, _):
    return Recommendations(answer.user[:-1], answer.item[:-1], answer.score[:-1], "test")


def spoil_nothing(answer, _):
    return answer


@pytest.mark.parametrize(("edit", "seen", "message"), [
    (spoil_twice, "keep", "twice"), (spoil_unknown, "keep", "below 60, got 60"), (spoil_score, "keep", "NaN"),
    (spoil_rows, "keep", "lists of at most 50"), (spoil_nothing, "remove", "no item of the history"),
])
def test_a_recommender_that_breaks_its_contract_is_named(data, edit, seen, message):
    with pytest.raises(DataError, match=message):
        run(data, Edited(edit), seen=seen)


def test_what_was_cut_from_a_history_must_not_be_shown_either(data):
    """`Table` hides what it reads, here the last item alone."""
    short = split(events(), data.catalog, Protocol(max_history=1))
    with pytest.raises(DataError, match="no item of the history"):
        run(short, Table(np.arange(N)), seen="remove")


def test_a_case_without_answer_or_with_two_is_an_error(data):
    batches = list(case_batches(data, data.test, tokens=64))
    for wrong in (batches[1:], batches + batches[:1]):
        with pytest.raises(DataError, match="every case once"):
            evaluate(Table(np.arange(N)), data, data.test, wrong)


def test_a_list_no_longer_than_k_is_refused(data):
    with pytest.raises(ConfigError, match="larger depth"):
        run(data, Table(np.arange(N)), depth=20)


def test_an_item_taken_twice_is_one_target_at_its_first_time():
    cases = Cases(np.array([0, 1], np.int32), np.zeros(2, np.int64), np.ones(2, np.int64), np.array([5, 3, 5, 5], np.int32),
                  np.array([0, 3, 4]), np.array([10, 20, 30, 40]))
    truth, time = truth_of(cases)
    assert truth.item.tolist() == [5, 3, 5]
    assert truth.offsets.tolist() == [0, 2, 3]
    assert time.tolist() == [10, 20, 40]


def test_several_targets_count_in_their_own_slices(data):
    cut = split(events(), data.catalog, Protocol(split="time"))
    got = evaluate(Table(np.arange(N)), cut, cut.test, case_batches(cut, cut.test))
    truth, _ = truth_of(cut.test)
    assert sum(s.num_targets for s in got.slices["popularity"].values()) == len(truth.item)
    np.testing.assert_array_equal(got.per_user["recall@5"], recall(got.recommendations, truth, 5))


def interactions(user, item):
    ids = lambda n: IdMap([str(i) for i in range(n)])
    return Interactions(np.array(user, np.int32), np.array(item, np.int32), np.arange(len(user)), ids(9), ids(9))


def test_repeat_rate_counts_events_after_the_first():
    assert repeat_rate(interactions([0, 0, 0, 1], [5, 5, 5, 5])) == 1 / 2
    assert repeat_rate(interactions([0, 1], [5, 5])) == 0
    assert repeat_rate(interactions([], [])) == 0


def test_auto_removes_where_nothing_repeats():
    assert resolve_seen("auto", interactions([0, 0], [1, 2])) == "remove"
    assert resolve_seen("auto", interactions([0, 0], [1, 1])) == "keep"
    assert resolve_seen("keep", interactions([0, 0], [1, 2])) == "keep"


def test_an_unknown_rule_for_seen_items_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'remove'"):
        resolve_seen("removed", interactions([0], [1]))
