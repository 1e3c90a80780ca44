"""The page of a run and of a comparison holds what was measured, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import semid
from semid.comparison import METRICS, Table, compare, measured
from semid.evaluation.report import render
from semid.protocols import Recommender
from semid.reporting import categories, label, report_of_run, report_of_table
from semid.run import Run, describe_protocol, train
from semid.types import Protocol

KNN = {"decay": [0.5], "backward": [0.5], "norm": [0.5]}


@pytest.fixture(scope="module")
def data(toy: Path):
    return semid.read(toy / "events.csv", toy / "items.csv")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("sasrec") / "run"
    return train("sasrec", data, out=out, settings={"epochs": 2, "width": 16}, device="cpu")


@pytest.fixture(scope="module")
def table(data, tmp_path_factory: pytest.TempPathFactory) -> Table:
    out = tmp_path_factory.mktemp("table")
    return compare(["popularity", "item_knn"], data, out=out, baselines=False, settings={"item_knn": KNN})


def test_the_page_of_a_run_has_its_numbers_curves_slices_users_and_latency(run: Run):
    entries = measured(run)
    report = report_of_run(run, entries, data="toy")
    assert report.comparison
    own = report.comparison.own.scores["seen items kept"]
    measure = entries[0].evaluations["keep"].metrics["ndcg@10"]
    assert (own["NDCG@10"].mean, own["NDCG@10"].low, own["NDCG@10"].high) == (measure.mean, measure.low, measure.high)
    assert report.training
    assert {"loss", "lr"} <= report.training.records[0].keys()
    assert not any("steps" in record for record in report.training.records)
    assert report.slices
    assert {"popularity of the item", "day of the answer"} <= {part.title for part in report.slices}
    assert sum(next(part for part in report.slices if part.title == "day of the answer").counts) == len(run.split.test)
    assert report.latency
    assert len(report.latency.stages["sasrec"]) == 100
    assert report.codes is None
    assert report.tree is None
    page = render(report)
    assert "sasrec" in page
    assert run.split.protocol.hash in page


def test_the_users_of_the_page_are_those_of_the_evaluation(run: Run):
    entries = measured(run)
    report = report_of_run(run, entries)
    assert report.users
    assert len(report.users) == 10
    answer = entries[0].evaluations[run.resolve_seen("auto")].recommendations
    for example in report.users:
        events = run.history(example.user)
        assert list(example.truth) == [run.catalog.titles[events[-1]]]
        assert list(example.history) == [run.catalog.titles[item] for item in events[:-1][-8:]]
        assert example.history_length == len(events) - 1
        row = int(np.flatnonzero(run.split.test.user == run.split.events.users.row(example.user))[0])
        assert [s.title for s in example.suggestions] == [run.catalog.titles[item] for item in answer.item[row, :10]]
        assert [s.is_hit for s in example.suggestions] == [item == events[-1] for item in answer.item[row, :10]]


def test_the_page_of_a_comparison_tests_every_system_against_its_subject(table: Table):
    report = report_of_table(table, data="toy")
    assert report.comparison
    assert report.comparison.subject == "item_knn"
    assert report.comparison.protocols == ["seen items kept", "seen items removed"]
    assert report.comparison.metrics == [label(metric) for metric in METRICS]
    by_name = {system.name: system.scores["seen items kept"]["NDCG@10"] for system in report.comparison.systems}
    assert by_name["item_knn"].p is None
    assert by_name["popularity"].p is not None
    assert by_name["popularity"].p < 0.01
    assert by_name["item_knn"].mean > 5 * by_name["popularity"].mean
    assert report.latency
    assert set(report.latency.stages) == {"popularity", "item_knn"}
    assert "toy" in render(report)


def test_the_category_column_is_found_whatever_its_case(data):
    found = categories(data.catalog)
    assert found
    assert found[:4] == ["tool", "toy", "book", "tool"]


def test_a_protocol_is_said_in_words():
    assert describe_protocol(Protocol()) == "leave one out, history at most 50, all items ranked"
    shuffled = describe_protocol(Protocol(split="time", max_history=20, shuffle_ties=3))
    assert shuffled == "time, history at most 20, all items ranked, equal times shuffled with seed 3"


def test_the_page_of_a_fusion_says_how_its_parts_are_weighed(data):
    small = {"text": "hashed", "cf_dim": 8, "size": 4, "width": 16, "heads": 1, "feedforward": 32, "epochs": 1, "epoch_steps": 2}
    run = train("semid:fusion", data, settings=small | {f"scorer.{name}": values for name, values in KNN.items()}, device="cpu")
    fusion = replace(run.recommender, weights=(0.5, 0.4, 0.1), later=(0.0, 0.3, 0.7))

    def said(fusion: Recommender) -> list[str]:
        changed = replace(run, recommender=fusion)
        return report_of_run(changed, measured(changed), data="toy").notes

    assert ("Fusion, seed 0: generator 0.5, item_knn 0.4, recent 0.1 within a day of the last event, item_knn 0.3, recent 0.7 later."
            in said(fusion))
    assert "Fusion, seed 0: generator 0.5, item_knn 0.4, recent 0.1." in said(replace(fusion, later=None))
