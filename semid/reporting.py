"""From measured runs to the values that `evaluation.report` draws: report.html of `evaluate`, `compare` and `demo`."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semid.codes import ids_of
from semid.comparison import METRICS, Entry, Table
from semid.evaluation.beyond_accuracy import category_column
from semid.evaluation.charts import Score
from semid.evaluation.compare import compare_runs
from semid.evaluation.evaluate import Evaluation, Measure
from semid.evaluation.report_values import (
    CodeUse,
    Comparison,
    Header,
    Latency,
    Report,
    Slice,
    Suggestion,
    System,
    Training,
    UserExample,
)
from semid.evaluation.tree_chart import Tree
from semid.recommenders import Fusion
from semid.run import Run, describe_protocol
from semid.training.log import read_records
from semid.types import Catalog, SemanticIds

SEEN = {"keep": "seen items kept", "remove": "seen items removed"}
SLICES = {"popularity": ("popularity of the item", "Tenths of the catalogue, 1 holds the most popular items."),
          "history": ("length of the history", ""),
          "target": ("cold and warm items", "Cold items have no training event."),
          "day": ("day of the answer", "Same day: as the last event of the history.")}
USERS = 10
HISTORY = 8


def report_of_run(run: Run, entries: Sequence[Entry], *, data: str | None = None) -> Report:
    """Return the page of one run. entries: as of `comparison.measured(run)`; the last one is the system under report."""
    folder = str(run.folder)
    commands = [(f"semid recommend {shlex.quote(folder)} --user ID", "what one user should see next; --where obeys a rule"),
                (f"semid compare {run.recipe} --data EVENTS --out runs/comparison", "this recipe beside tuned baselines"),
                *([(f"semid codes {shlex.quote(folder)}", "the semantic ids in detail")] if ids_of(run) else [])]
    notes = ["No baseline was trained in this run: semid compare puts them beside it."] if len(entries) == 1 else []
    return _report(entries, data or "your data", commands, notes)


def report_of_table(table: Table, *, data: str) -> Report:
    """Return the page of a comparison; the recipe named last is the system under report. data: name of the data set."""
    run = table.entries[-1].run
    commands = [(f"semid recommend {shlex.quote(str(run.folder))} --user ID", f"ask {run.recipe}; --where obeys a rule"),
                (f"semid evaluate {shlex.quote(str(run.folder))}", "a page of its own")]
    return _report(table.entries, data, commands, [])


def _report(entries: Sequence[Entry], data: str, commands: Sequence[tuple[str, str]], notes: Sequence[str]) -> Report:
    systems: dict[str, list[Entry]] = {}
    for entry in entries:
        systems.setdefault(entry.name, []).append(entry)
    subject = entries[-1].name
    run = systems[subject][0].run
    ids = ids_of(run)
    return Report(
        header=_header(run, [entry.seed for entry in systems[subject]], subject, data),
        comparison=_comparison(systems, subject),
        training=_training(run.folder),
        codes=None if ids is None else code_use(ids),
        tree=None if ids is None or ids.order == "set" else code_tree(ids, run.catalog, run.split.train.counts),
        slices=_slices(systems, subject),
        latency=_latency(systems),
        users=_users(run, systems[subject][0].evaluations[run.resolve_seen("auto")]),
        commands=commands, notes=[*notes, *_fusions(systems[subject]), *_promotions(systems[subject]), *_experts(systems[subject])])


def _fusions(entries: Sequence[Entry]) -> list[str]:
    """How each seed's parts are weighed."""
    said = []
    for entry in entries:
        recommender = entry.run.systems[entry.name]
        if isinstance(recommender, Fusion):
            parts = {when: ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight)
                     for when, weights in recommender.named_weights.items()}
            same = parts["same day"] if parts["same day"] == parts["later"] else (
                f"{parts['same day']} within a day of the last event, {parts['later']} later")
            said.append(f"Fusion, seed {entry.seed}: {same}.")
    return said


def _promotions(entries: Sequence[Entry]) -> list[str]:
    """Whether the aligned weights of each seed were kept, and why."""
    return [f"Alignment, seed {entry.seed}: {entry.run.promotion['note']}." for entry in entries if entry.run.promotion]


def _experts(entries: Sequence[Entry]) -> list[str]:
    """How the load of each seed's experts was spread in the end, layer by layer, with advice where they collapsed."""
    said = []
    for entry in entries:
        found = read_records(entry.run.folder / "metrics.jsonl") if entry.run.folder else []
        last = {record["layer"]: record["note"] for record in found if record["stage"] == "experts"}
        said += [f"Experts, seed {entry.seed}, {note}." for note in last.values()]
    return said


def _header(run: Run, seeds: Sequence[int], name: str, data: str) -> Header:
    about = run.about
    machine, sizes = about["machine"], about["data"]
    said = machine["gpu"] or machine["cpu"]
    return Header(recipe=name, data=data, date=datetime.date.today().isoformat(),
                  protocol=describe_protocol(run.split.protocol), protocol_hash=run.split.protocol.hash,
                  fingerprint=run.split.fingerprint, seeds=list(seeds),
                  machine=f"{said}, {machine['cores']} cores, {machine['threads']} threads", train_seconds=about["seconds"],
                  parameters=about["parameters"], version=about["versions"]["semid"],
                  facts={"Users": f"{sizes['users']:,}", "Items": f"{sizes['items']:,}", "Events": f"{sizes['events']:,}",
                         "Test cases": f"{len(run.split.test):,}"})


def label(metric: str) -> str:
    """Return a metric's name as papers write it.

    >>> label("ndcg@10"), label("recall@5")
    ('NDCG@10', 'Recall@5')
    """
    name, at, k = metric.partition("@")
    return (name.upper() if name in ("ndcg", "mrr", "map") else name.capitalize()) + at + k


def _comparison(systems: dict[str, list[Entry]], subject: str) -> Comparison:
    """The p-values of the page are against its subject, those of the terminal's table against item-kNN."""
    tables = {seen: compare_runs([(name, [entry.evaluations[seen] for entry in entries]) for name, entries in systems.items()],
                                 reference=subject, metrics=METRICS) for seen in SEEN}
    rows = []
    for place, (name, entries) in enumerate(systems.items()):
        scores = {}
        for seen, table in tables.items():
            metrics = table.rows[place].metrics
            scores[SEEN[seen]] = {label(metric): Score(m.mean, m.low, m.high, m.p_adjusted) for metric, m in metrics.items()}
        about = entries[0].run.about
        rows.append(System(name, scores, seeds=len(entries), train_seconds=about["seconds"],
                           ms_per_user=entries[0].latency["p50"], parameters=entries[0].parameters))
    return Comparison(subject, rows)


def _training(folder: Path | None) -> Training | None:
    """Curves of the records that have any; None where nothing was trained in steps."""
    if folder is None:
        return None
    curves = []
    for record in read_records(folder / "metrics.jsonl"):
        if "step" in record and ("loss" in record or "valid" in record):
            curves.append({{"rate": "lr"}.get(key, key): value for key, value in record.items() if key != "steps"})
    return Training(curves) if curves else None


def code_use(ids: SemanticIds) -> CodeUse:
    """Return how often each code is used, as the page draws it."""
    counts = [np.bincount(codes[codes >= 0], minlength=size) for codes, size in zip(ids.codes.T, ids.sizes)]
    return CodeUse(counts, len(ids), ids.num_distinct)


def code_tree(ids: SemanticIds, catalog: Catalog, popularity: np.ndarray) -> Tree:
    """Return the code tree as the page draws it. popularity: int64 [N], the width of an item."""
    return Tree(ids.codes, catalog.titles, popularity.astype(float), categories(catalog), levels=min(3, ids.levels),
                weight_name="events")


def categories(catalog: Catalog) -> list[str] | None:
    """Return N category names ('' unknown) from the category column; of a list, its first entry."""
    column = category_column(catalog)
    if column is None:
        return None
    first = [value[0] if isinstance(value, list) and value else value for value in catalog.table[column].to_pylist()]
    return [value if isinstance(value, str) else "" for value in first]


def _slices(systems: dict[str, list[Entry]], subject: str) -> list[Slice]:
    """Recall of each system's first seed, seen items kept, over the groups of the test cases."""
    ordered = [subject, *(name for name in systems if name != subject)]
    evaluations = {name: systems[name][0].evaluations["keep"] for name in ordered}
    ours = evaluations[subject]
    metric = f"recall@{ours.k}"
    found = []
    for kind, (title, note) in SLICES.items():
        parts = ours.slices.get(kind, {})
        if len(parts) > 1:
            scores: dict[str, Sequence[Score]] = {name: [_score(e.slices[kind][group].metrics[metric]) for group in parts]
                                                  for name, e in evaluations.items()}
            found.append(Slice(title, label(metric), list(parts), [part.num_cases for part in parts.values()], scores, note))
    return found


def _score(measure: Measure) -> Score:
    return Score(measure.mean, measure.low, measure.high)


def _latency(systems: dict[str, list[Entry]]) -> Latency:
    times = {name: entries[0].milliseconds for name, entries in systems.items()}
    return Latency(times, "One user a request, the best 50 of all items, seen items removed, history included; one process.")


def _users(run: Run, evaluation: Evaluation) -> list[UserExample]:
    """The same users each time, as they were answered in the evaluation."""
    cases, titles = run.split.test, run.catalog.titles
    answer = evaluation.recommendations
    shown = []
    for row in np.sort(np.random.default_rng(0).permutation(len(cases))[:USERS]):
        truth = cases.target[cases.target_offsets[row] : cases.target_offsets[row + 1]].tolist()
        begin, end = int(cases.history_begin[row]), int(cases.history_end[row])
        best = zip(answer.item[row, :10].tolist(), answer.score[row, :10].tolist())
        shown.append(UserExample(
            user=str(run.split.events.users.ids[cases.user[row]]),
            history=[titles[item] for item in run.split.events.item[max(begin, end - HISTORY) : end]],
            suggestions=[Suggestion(titles[item], score, item in truth) for item, score in best if item >= 0],
            truth=[titles[item] for item in truth], history_length=end - begin, scale=answer.scale))
    return shown
