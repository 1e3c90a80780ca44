"""The command line: a closed list of verbs, each a thin function over the Python API.

Results go to stdout (tables, or with --json one JSON value and nothing else); progress, warnings and errors go to stderr. With --json a
mistake is {"error": message} on stdout as well.
Exit codes: 0 done; 2 a mistake that the user can mend, told in one message; 130 interrupted (Ctrl-C, SIGTERM), with the command that goes
on; 1 a defect. torch, DuckDB and Arrow are imported inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import json as json_text
import logging
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.text import Text
from tyro.conf import arg

from semid import flags
from semid.errors import ConfigError, MissingExtra, RunError, SemidError, did_you_mean
from semid.serving.limits import Limits

if TYPE_CHECKING:
    from rich.console import RenderableType

    from semid.comparison import Table
    from semid.serving.contract import Change, History, Request
    from semid.serving.engine import Engine
    from semid.training.log import Log
    from semid.training.progress import Progress
    from semid.types import Protocol, Split

Recipe = Annotated[str, arg(metavar="RECIPE")]
RunFolder = Annotated[Path, arg(metavar="RUN")]


# The verbs: each docstring is its help -----------------------------------------------------------------------------------


def demo(*, out: Path = Path("runs/demo"), seed: int = 0, serve: bool = False, json: bool = False, quiet: bool = False) -> int:
    """The main job on bundled real data (MovieLens): check, train, compare, recommend. Under five minutes.

    Its settings are small so that it is quick; the numbers are not those of the results tables. Repeat the command to go on
    after an interruption.

    JSON: {"data", "systems", "comparisons", "report"} as of `semid compare`, and "example": {"user", "history",
    "items"}.

    Args:
        out: folder for the runs and the report
        seed: which user is shown
        serve: serve the page of the trained run afterwards, SASRec beside it, and print its address, until Ctrl-C
        json: print JSON instead of tables
        quiet: no progress
    """
    import numpy as np

    from semid import views
    from semid.comparison import compare as compare_recipes
    from semid.comparison import run_folder
    from semid.data.bundled import movielens
    from semid.run import check_seed
    from semid.types import Protocol

    say = Voice(json)
    check_seed(seed)
    if serve:
        if json:
            raise ConfigError("demo: want either --json, which ends with one value, or --serve, which does not end")
        _serving()  # what is missing is said before the training
    say.step("1. Read and check: semid data check")
    data = movielens()
    split = data.split(Protocol())
    say.about(*views.summary(data, split))
    say.step("2. Train the baselines and semid on the same events, for a few epochs each, ask all the same questions: semid compare")
    with say.progress(quiet) as progress:
        table = compare_recipes(["semid:fusion"], split, out=out, settings=DEMO, log=_logs(out, progress))
    page = _write_comparison(table, out, "MovieLens latest-small, a few epochs")
    for seen in table.comparisons:
        say.show(*views.comparison(table, seen, wide=say.is_wide))
    say.step("3. Recommend: semid recommend")
    run = table.entries[-1].run
    user = str(np.random.default_rng(seed).choice(run.split.source.users.ids))
    answer = run.recommend(user=user, k=5)
    history = [run.catalog.titles[item] for item in run.history(user)]
    say.show(*views.recommendations(answer, f"user {user}", history))
    say.result({"data": "MovieLens latest-small", **views.plain(table), "report": str(page),
                "example": {"user": user, "history": history, "items": answer}})
    rule = "\"'Comedy' in categories and year > 1990\""
    say.next([(f"open {quoted(page)}", "the comparison with pictures"),
              (f"semid recommend {quoted(run.folder)} --user {user} --where {rule}", "the same user under a rule"),
              ("semid data check EVENTS --items ITEMS", "your own tables: CSV, TSV, Parquet or JSON Lines"),
              ("semid compare semid:fusion --data EVENTS --items ITEMS --out runs/mine", "the same on your own tables")])
    return _open_page(run_folder(out, "semid:fusion", 0), run_folder(out, "sasrec", 0)) if serve else 0


def data_check(events: flags.Events, /, *, reading: flags.Reading = flags.AS_GUESSED, bad_rows: Path | None = None,
               json: bool = False) -> int:
    """Read the tables, say which column was taken for what, list every bad row with its line and reason.

    Exit code 2 if there are bad rows and --on-bad-rows is not drop.

    JSON: {"fingerprint", "statistics": {...}, "report": {"event_columns", "item_columns", "guessed", "steps", "notes",
    "warnings", "num_bad_rows", "bad_rows": [{"file", "line", "column", "value", "reason"}], ...}}; the first 20 bad rows.

    Args:
        events: table of events (Parquet, CSV, TSV, JSON Lines, .inter), or a folder with interactions.* and items.*
        reading: how to read the tables
        bad_rows: CSV file for all bad rows
        json: print JSON instead of tables
    """
    from semid.data.check import check
    from semid.data.report import BadRows, write_bad_rows

    say = Voice(json)
    try:
        data = replace(reading, on_bad_rows="drop").read(events)
    except BadRows as error:  # no row is left
        if bad_rows is not None and error.is_whole:
            write_bad_rows(error.table, bad_rows)
        raise
    if bad_rows is not None:
        data.report.write_bad_rows(bad_rows)
    found = check(data)
    say.show(found.render())
    say.result(found.to_dict())
    number = data.report.bad_rows.num_rows
    if number and reading.on_bad_rows == "fail":
        where = f"all of them are in {bad_rows}" if bad_rows else "--bad-rows FILE writes all of them to a CSV file"
        rows = "row" if number == 1 else "rows"
        files = " and ".join(dict.fromkeys(data.report.bad_rows["file"].to_pylist()))
        say.error(f"{files}: {number:,} bad {rows}; mend them, or train with --on-bad-rows drop; {where}")
        return 2
    say.next([(f"semid train semid:fusion --data {shlex.quote(events)}{flags.typed(reading)} --out runs/first", "train on these tables")])
    return 0


def train(recipe: Recipe, /, *, data: flags.Events, out: Path, reading: flags.Reading = flags.AS_GUESSED,
          splitting: flags.Splitting = flags.LEAVE_ONE_OUT, set: flags.Settings = (), seed: int = 0, resume: bool = False,
          device: flags.Device = "auto", json: bool = False, quiet: bool = False) -> int:
    """Train a recipe on your tables into a run folder, from which evaluate and recommend work.

    JSON: {"run", "recipe", "seed", "seconds", "parameters", "protocol_hash", "fingerprint",
    "valid": {"keep" | "remove": {"recall@10", "ndcg@10"}}}; of recipes with codes also "codes_used" and "valid_beams".

    Args:
        recipe: name, or name:variant; see `semid recipes`
        data: table of events, or a folder with interactions.* and items.*
        out: new run folder
        reading: how to read the tables
        splitting: the protocol
        set: change a setting of the recipe, such as epochs=10 or optimization.learning_rate=0.001
        seed: of everything random in training
        resume: go on with the run in OUT where it stopped
        device: auto takes a GPU where there is one
        json: print JSON instead of tables
        quiet: no progress
    """
    from semid import views
    from semid.run import configure
    from semid.run import train as train_recipe
    from semid.training.log import Log
    from semid.validation import measure

    say = Voice(json)
    if resume and not _has_run(out):
        near = did_you_mean(out.name, [each.name for each in out.parent.iterdir()] if out.parent.is_dir() else [])
        raise ConfigError(f"--resume: no run in {out}{near}; name its folder with --out, or leave --resume out to begin one")
    settings, protocol = flags.settings(set), splitting.protocol()
    configure(recipe, settings)  # a misspelt name fails before the data are read
    split = _read_and_split(say, data, reading, protocol)
    with say.progress(quiet) as progress:
        run = train_recipe(recipe, split, out=out, seed=seed, settings=settings, device=device, resume=resume,
                           log=Log(out / "metrics.jsonl", progress.view()))
    valid = {seen: measure(run.recommender, run.split, seen=seen) for seen in ("keep", "remove")}
    say.show(*views.trained(run, valid))
    say.result({"run": str(out), "recipe": recipe, "seed": seed, "seconds": run.about["seconds"],
                "parameters": run.about["parameters"], "protocol_hash": split.protocol.hash, "fingerprint": split.fingerprint,
                "valid": valid})
    user = shlex.quote(str(split.source.users.ids[split.source.user[0]]))
    changed = "".join(f" --set {shlex.quote(f'{recipe}.{pair}')}" for pair in set)
    say.next([(f"semid evaluate {quoted(out)}", "test metrics with intervals, and a page with pictures"),
              (f"semid recommend {quoted(out)} --user {user}", "what one user should see next"),
              (f"semid compare {recipe} --data {shlex.quote(data)}{flags.typed(reading, splitting)}{changed} "
               f"--out {quoted(f'{out}-compared')}",
               "beside honest baselines")])
    return 0


def evaluate(run: RunFolder, /, *, protocol: Annotated[str | None, arg(metavar="SPLIT,NAME=VALUE,...")] = None,
             part: Literal["test", "valid"] = "test", json: bool = False) -> int:
    """Measure a run: item-level metrics with 95 % intervals; writes RUN/metrics.json and RUN/report.html.

    Both with the items of a history in the lists (seen items kept) and without (removed), and apart for answers of the same
    day as the last event. With --part valid or --protocol nothing is written.

    JSON (as in metrics.json): {"run", "recipe", "seed", "part", "protocol", "protocol_hash", "fingerprint", "latency_ms":
    {system: {"p50", "p99"}}, "systems": {system: {"keep" | "remove": {"metrics": {NAME: {"mean", "low", "high"}}, "slices", ...}}}}
    with NAME recall, hit, ndcg, mrr, map, precision, f1 @5, @10, @20; coverage, gini, entropy, novelty, arp, aplt, popularity_lift,
    diversity (items with text), code_diversity (runs with codes), miscalibration and category_entropy (items with categories) @10.

    Args:
        run: run folder
        protocol: ask other questions than the run's own, such as min_history=5 or time,test_from=0.95; refused where the run was
            trained on the answers
        part: choose settings on valid; look at test once per finished configuration
        json: print JSON instead of tables
    """
    from semid import views
    from semid.comparison import measured
    from semid.files import write_json
    from semid.run import load

    say = Voice(json)
    loaded = load(run)
    if protocol is not None:
        loaded = loaded.under(flags.protocol(protocol, loaded.split.protocol))
    entries = measured(loaded, part)
    systems = {entry.name: entry.evaluations for entry in entries}
    say.show(*views.evaluation(systems))
    result = {"run": str(run), "recipe": loaded.recipe, "seed": loaded.about["seed"], "part": part,
              "protocol": asdict(loaded.split.protocol), "protocol_hash": loaded.split.protocol.hash,
              "fingerprint": loaded.split.fingerprint, "latency_ms": {entry.name: entry.latency for entry in entries},
              "systems": {name: {seen: e.to_dict() for seen, e in found.items()} for name, found in systems.items()}}
    if part == "test" and protocol is None:
        from semid.evaluation.report import write
        from semid.reporting import report_of_run

        page = run / "report.html"
        with _unless_read_only(say):
            write_json(run / "metrics.json", result)
            write(report_of_run(loaded, entries), page)
        say.next([*_to_open(page),
                  (f"semid recommend {quoted(run)} --history {_example(loaded.catalog.items.ids)}", "what comes after these items")])
    say.result(result)
    return 0


def compare(recipes: Annotated[tuple[str, ...], arg(metavar="[RECIPE ...]")] = (), /, *, data: flags.Events, out: Path,
            reading: flags.Reading = flags.AS_GUESSED, splitting: flags.Splitting = flags.LEAVE_ONE_OUT,
            set: flags.SettingsOfOne = (), codes: bool = False, seeds: int = 1, no_baselines: bool = False, against: str | None = None,
            name: str | None = None, results: Path | None = None, device: flags.Device = "auto", json: bool = False,
            quiet: bool = False) -> int:
    """Train recipes and the baselines (popularity, item_knn, ease, sasrec) under one protocol; print one table.

    Finished runs in OUT are kept, so the same command goes on after an interruption. Writes OUT/comparison.json and
    OUT/report.html.

    With --codes, compare their ways of making codes instead: collisions, use, neighbours, churn, seconds, and a small generator on
    each, in minutes. Names are those of recipes with codes, codes=COLUMN or codes=X.index.json; without a name a choice of them.
    Writes OUT/codes.json and OUT/codes.html, which ends with advice.

    JSON: {"data", "systems": [{"name", "seeds", "train_seconds", "latency_ms", "parameters", "runs"}], "comparisons": {"keep" |
    "remove": {"protocol_hash", "num_cases", "reference", "rows": [{"name", "num_seeds", "metrics": {"ndcg@10": {"mean", "low",
    "high", "sd", "p", "p_adjusted"}}}]}}, "report"}. With --codes: {"data", "seed", "ground", "ways": [{"name", "source", "seconds",
    "items", "levels", "collisions", "error", "purity", "agreement", "chance", "churn", "head_room", "probe": {"mean", "low", "high",
    "seconds", "p"}, "cpu_seconds"}], "advice": [...], "report"}.

    Args:
        recipes: names, or name:variant; see `semid recipes`
        data: table of events, or a folder with interactions.* and items.*
        out: folder for the runs, one subfolder a recipe and seed
        reading: how to read the tables
        splitting: the protocol
        set: change a setting of one recipe, such as sasrec.epochs=10; with --codes also of the small generator, such as probe.epochs=8
        codes: compare ways of making codes
        seeds: runs of each recipe that has chance in it; with 1 the table says so
        no_baselines: only the recipes named
        against: the system that p-values compare the others with, by default item_knn
        name: of the data set, by default that of the file
        results: folder for one JSON a run
        device: auto takes a GPU where there is one
        json: print JSON instead of tables
        quiet: no progress
    """
    from semid import views
    from semid.comparison import BASELINES
    from semid.comparison import compare as compare_recipes
    from semid.run import configure

    say = Voice(json)
    if codes:
        _want_codes_alone(seeds, no_baselines, against, results)
        return _compare_codes(say, recipes, data, out, reading, splitting, set, name, device, quiet)
    if seeds < 1:
        raise ConfigError(f"--seeds: want 1 or more, got {seeds}")
    if no_baselines and not recipes:
        raise ConfigError("compare: want at least one recipe with --no-baselines; see: semid recipes")
    names = [*recipes, *(() if no_baselines else BASELINES)]
    settings, protocol = flags.settings_by_recipe(set, names), splitting.protocol()
    for each in names:
        configure(each, settings.get(each))  # what is misspelt fails before the data are read
    split = _read_and_split(say, data, reading, protocol)
    name = name or Path(data).name.split(".")[0]
    with say.progress(quiet) as progress:
        table = compare_recipes(recipes, split, seeds=seeds, out=out, name=name, settings=settings, results=results,
                                baselines=not no_baselines, against=against, device=device, log=_logs(out, progress))
    page = _write_comparison(table, out, name)
    for seen in table.comparisons:
        say.show(*views.comparison(table, seen, wide=say.is_wide))
    say.result({"data": name, **views.plain(table), "report": str(page)})
    last = table.entries[-1]
    say.next([(f"open {quoted(page)}", "the same with pictures"),
              (f"semid recommend {quoted(last.run.folder)} --history {_example(split.catalog.items.ids)}", f"ask {last.name}")])
    return 0


def recommend(run: RunFolder, /, *, user: flags.Id = None, history: flags.Items = None,
              users: Annotated[str | None, arg(metavar="all|FILE")] = None, out: Path | None = None, quiet: bool = False,
              k: Annotated[int, arg(aliases=("-k",))] = 10, where: Annotated[str | None, arg(metavar="CONDITION")] = None,
              exclude: flags.Items = None, rule: flags.ListRules = (), seen: Literal["auto", "keep", "remove"] = "auto",
              at: flags.Moment = None, engine: Literal["float", "int8"] = "float", json: bool = False) -> int:
    """Say what a user should see next: item ids, titles and scores, best first. Items added since training are among them.

    With --users the lists of many users become one table: user_id, rank, item_id, score.

    JSON: {"user", "history": [{"item_id", "title"}], "where", "items": [{"item_id", "title", "score"}], "cost": {RULE: mean score given
    up}, "note"}; with --users {"users", "unknown_users", "empty", "rows", "out", "seconds"}.

    Args:
        run: run folder
        user: id of a user in the data
        history: item ids, oldest first, of anybody; "" for somebody new
        users: all users of the data, or a text file with a user id a line; who is not in the data gets the most popular items
        out: file for the lists of --users, .parquet or .csv
        quiet: no progress
        k: how many items
        where: condition over the columns of the items table, such as "category = 'x' and price < 20"
        exclude: item ids that are never shown
        rule: what is done with the list: caps.COLUMN=N (at most N items share a value), diversity=0.3, debias=0.2 (less of the popular),
            freshness=0.2 with fresh_column=COLUMN; as in the service, see `semid.serving.contract.Rules`
        seen: whether items of the history may come again; auto: only where users take items again
        at: when the user asks, which some models read; the service asks now
        engine: int8 computes in 8 bits, and says how often its lists agree with those in full precision
        json: print JSON instead of tables
    """
    from semid import views
    from semid.serving.contract import Request
    from semid.serving.engine import Engine

    say = Voice(json)
    _want_lists(users, out, user, history)
    rules = flags.rules(rule)
    if at is not None and user is None and users is None:
        raise ConfigError("--at: want --user, whose events have times; a history of item ids has none")
    opened = Engine.open(run, engine=engine)
    left_out = tuple(flags.listed(exclude))
    for id_ in left_out:
        opened.snapshot.catalog.items.row(id_, "item")  # a misspelt id would be shown
    ask = Request(at=flags.moment(at, opened.snapshot.run.until), k=k, where=where, exclude=left_out, seen=seen, rules=rules)
    if users is not None and out is not None:
        return _write_lists(say, opened, users, out, ask, quiet)
    past = _past(opened, user, history)
    [answer] = opened.recommend([replace(ask, history=past.item_ids, times=past.times, user=user)])
    if answer.error is not None:
        raise answer.error
    opened.check_where(where)
    found = [{"item_id": item, "title": title, "score": score}
             for item, title, score in zip(answer.item_ids, answer.titles, answer.scores, strict=True)]
    shown = [{"item_id": item, "title": opened.item(item)["title"]} for item in past.item_ids]
    who = f"user {user}" if user is not None else "this history" if past.item_ids else "somebody new"
    say.show(*views.recommendations(found, who, [s["title"] for s in shown], note=answer.note, cost=answer.cost))
    if engine == "int8":
        say.about(Text(f"engine int8: {opened.agreement():.1%} of the top 10 are those of full precision"))
    say.result({"user": user, "history": shown, "where": where, "items": found, "cost": dict(answer.cost), "note": answer.note})
    return 0


def _want_lists(users: str | None, out: Path | None, user: str | None, history: str | None) -> None:
    """Raise `ConfigError` unless one is asked for, or many with a file to write."""
    from semid.lists import check_ending

    if users is None:
        _want_one(user, history)
        if out is not None:
            raise ConfigError("--out: want --users all or --users FILE, whose lists it is for; one list is printed (--json)")
        return
    if user is not None or history is not None:
        raise ConfigError("want --users, --user or --history, got several")
    if out is None:
        raise ConfigError("--users: want a file for the lists, --out FILE.parquet or FILE.csv")
    check_ending(out)


def _write_lists(say: Voice, engine: Engine, users: str, out: Path, ask: Request, quiet: bool) -> int:
    from semid.lists import users_of, write_lists

    named = users_of(engine, users)
    engine.check_where(ask.where)
    with say.progress(quiet) as progress:
        done = write_lists(engine, named, out, ask, progress.view())
    notes = [f"{done[name]:,} {what}" for name, what in (("unknown_users", "not in the data: the most popular items"),
                                                         ("empty", "without any item")) if done[name]]
    say.show(Text(f"{out}: {done['rows']:,} rows of {done['users']:,} users in {done['seconds']:.1f} s"
                  + (f" ({'; '.join(notes)})" if notes else "")))
    say.result(done)
    return 0


def explain(run: RunFolder, /, *, item: Annotated[str, arg(metavar="ID")], user: flags.Id = None, history: flags.Items = None,
            json: bool = False) -> int:
    """Say why an item: its path down the code tree, the history items that mattered, and what lies near it.

    JSON: {"item_id", "title", "score", "scale", "rank", "path": [{"code", "probability", "rank", "siblings", "items", "titles"}],
    "history": [{"item_id", "title", "position", "effect"}], "content" and "together": [{"item_id", "title", "score"}], "note"}.

    Args:
        run: run folder
        item: the item to explain
        user: id of a user in the data
        history: item ids, oldest first, of anybody
        json: print JSON instead of tables
    """
    from semid import views
    from semid.serving.contract import Request
    from semid.serving.engine import Engine

    say = Voice(json)
    _want_one(user, history)
    opened = Engine.open(run)
    past = _past(opened, user, history)
    found = opened.explain(Request(past.item_ids, past.times, at=opened.snapshot.run.until, user=user), item)
    say.show(*views.explanation(found))
    say.result(asdict(found))
    return 0


def add(run: RunFolder, /, *, items: Annotated[str, arg(metavar="NEW")], item_id: flags.Column = None,
        view: Annotated[tuple[str, ...], arg(metavar="NAME=FILE.npy")] = (), skip_known: bool = False, json: bool = False) -> int:
    """Make new items recommendable without training: they get free codes from their content, old items keep theirs.

    All of the table or none of it; written to RUN/changes, the trained files stay as they are.

    JSON: {"kind", "count", "items", "version"}.

    Args:
        run: run folder
        items: table of the new items, with the columns of the run's own
        item_id: id column of the table
        view: text=FILE.npy, one row an item, where the run was trained on vectors of your own
        skip_known: leave out items that the run has, so that NEW may be the table of all
        json: print JSON instead of tables
    """
    from semid.serving.engine import Engine

    opened = Engine.open(run)
    Voice(json).about(Text("the run's text encoder is loaded and checked first; later items of one table take milliseconds", style="dim"))
    done = opened.add(items, item_id=item_id, views=flags.vectors(view), skip_known=skip_known)
    return _tell_change(done, "added", json)


def update(run: RunFolder, /, *, items: Annotated[str, arg(metavar="ITEMS")], item_id: flags.Column = None, skip_unknown: bool = False,
           json: bool = False) -> int:
    """Change columns of items: prices, stock, titles, whatever `--where` and the lists show. Codes stay, nothing is trained.

    All of the table or none of it; written to RUN/changes, the trained files stay as they are.

    JSON: {"kind", "count", "items", "version"}.

    Args:
        run: run folder
        items: table with the ids and the columns to change; other columns stay as they are
        item_id: id column of the table
        skip_unknown: leave out items that the run hasn't, so that ITEMS may be the table of all
        json: print JSON instead of tables
    """
    from semid.serving.engine import Engine

    return _tell_change(Engine.open(run).update(items, item_id=item_id, skip_unknown=skip_unknown), "changed", json)


def remove(run: RunFolder, /, *, items: Annotated[str, arg(metavar="ITEM,ITEM,...|FILE")], item_id: flags.Column = None,
           json: bool = False) -> int:
    """Take items out of the catalogue: they are not recommended until `semid restore`, and stay in the histories that hold them.

    All of them or none; written to RUN/changes, the trained files stay as they are.

    JSON: {"kind", "count", "items", "version"}.

    Args:
        run: run folder
        items: item ids, or a file: a table that holds them
        item_id: id column of the table
        json: print JSON instead of tables
    """
    from semid.serving.engine import Engine

    engine = Engine.open(run)
    return _tell_change(engine.remove(_ids_of(engine, items, item_id)), "removed", json)


def restore(run: RunFolder, /, *, items: Annotated[str, arg(metavar="ITEM,ITEM,...|FILE")], item_id: flags.Column = None,
            json: bool = False) -> int:
    """Recommend removed items again, under their old codes.

    All of them or none; written to RUN/changes, the trained files stay as they are.

    JSON: {"kind", "count", "items", "version"}.

    Args:
        run: run folder
        items: item ids, or a file: a table that holds them
        item_id: id column of the table
        json: print JSON instead of tables
    """
    from semid.serving.engine import Engine

    engine = Engine.open(run)
    return _tell_change(engine.restore(_ids_of(engine, items, item_id)), "restored", json)


def codes(run: RunFolder, /, *, examples: int = 8, export: Path | None = None, json: bool = False) -> int:
    """Say how well the semantic ids of a run are used: use, entropy, collisions, neighbours, purity, room, and what prefixes hold.

    Writes RUN/codes.html, which ends with advice. To compare ways of making codes: semid compare --codes.

    JSON: {"source", "items", "distinct", "collision_rate", "colliding_share", "largest_group", "levels": [{"size", "used",
    "entropy" (nats), "perplexity", "largest_share"}], "prefixes": [{"codes", "items", "titles"}], "ground": {"items", "twins",
    "neighbours", "category", "chance_purity", "earlier"}, "measured": {"collisions", "error", "purity", "agreement", "chance",
    "head_room", ...}, "advice": [...], "report"}. Lists have one entry a length of prefix.

    Args:
        run: run folder
        examples: prefixes to show, the largest first
        export: file for the codes of every item, {"item": ["<a_1>", "<b_2>"]} as X.index.json of LETTER and LC-Rec
        json: print JSON instead of tables
    """
    from semid import views
    from semid.codes import describe, wanted_ids
    from semid.data.letter import write_index_json
    from semid.evaluation.code_report import write
    from semid.laboratory import of_run, report
    from semid.run import load

    if examples < 0:
        raise ConfigError(f"--examples: want 0 or more, got {examples}")
    say = Voice(json)
    loaded = load(run)
    found = describe(loaded, examples)
    measured = of_run(loaded)
    commands = [("semid compare --codes --data EVENTS --items ITEMS --out runs/codes", "other ways of making codes beside this one")]
    page = run / "codes.html"
    with _unless_read_only(say):
        write(report(measured, loaded.split, name=run.name, seed=loaded.about["seed"], commands=commands), page)
    say.show(*views.codes(found), "", *views.kept(measured), *views.advice(measured))
    told = measured.to_dict()
    say.result({**found, "ground": told["ground"], "measured": told["ways"][0], "advice": told["advice"], "report": str(page)})
    if export is not None:
        write_index_json(export, wanted_ids(loaded), loaded.catalog.items)
        again = f"semid train tiger --data EVENTS --items ITEMS --set codes={quoted(export)} --out RUN"
        commands.append((again, "another generator on these codes"))
    say.next([*_to_open(page), *commands])
    return 0


def events(store: Annotated[str, tyro.conf.Positional, arg(metavar="STORE")], /, *, out: Path, data: flags.EarlierEvents = None,
           reading: flags.Reading = flags.AS_GUESSED, json: bool = False) -> int:
    """Write the events that a server stored as a table, to train again on: user_id, item_id, timestamp, action, value.

    With --data the events so far come first, and what is in both is written once.

    JSON: {"events", "earlier", "in_both", "rows", "out"}.

    Args:
        store: SQLite file, or redis://HOST:PORT/DATABASE, of `semid serve`; it may be running
        out: file to write, .parquet or .csv
        data: table of the events so far, or a folder with interactions.* and items.*
        reading: how to read the tables
        json: print JSON instead of a sentence
    """
    from semid.lists import check_ending, write_events
    from semid.serving.histories import shown, stored_events

    say = Voice(json)
    check_ending(out)
    if data is None and reading != flags.AS_GUESSED:
        raise ConfigError(f"{flags.typed(reading).strip()}: want --data, the table that is read so")
    counts = write_events(stored_events(store), out, None if data is None else reading.read(data))
    after = f" after {counts['earlier']:,} of {data}, {counts['in_both']:,} of them in both" if data is not None else ""
    say.show(Text(f"{out}: {counts['events']:,} events of {shown(store)}{after}"))
    say.result({**counts, "out": str(out)})
    if data is not None:
        items = shlex.quote(reading.items) if reading.items else "ITEMS"
        say.next([(f"semid train semid --data {quoted(out)} --items {items} --out RUN", "train again, on both")])
    return 0


def recipes(name: Annotated[str | None, arg(metavar="[RECIPE]")] = None, /, *, results: Path = Path("results"),
            json: bool = False) -> int:
    """List the systems on offer, or one of them with all settings, groups included, and variants.

    JSON: [{"name", "summary", "source", "status", "doc", "settings": {name: [type, default]}, "variants", "read_where": {name:
    "switch is value"}, "measured"}].

    Args:
        name: one recipe; of a variant, the recipe that it belongs to
        results: folder of `semid compare --results`, whose numbers are shown
        json: print JSON instead of tables
    """
    from semid import views
    from semid.recipe_cards import measured, recipe_card, recipe_names, with_values

    say = Voice(json)
    cards = [with_values(recipe_card(name.partition(":")[0]))] if name else [recipe_card(each) for each in recipe_names()]
    numbers = measured(results / "runs")
    say.show(*(views.recipe(cards[0], numbers.get(cards[0].name, [])) if name else views.recipes(cards, numbers)))
    say.result([{**asdict(card), "measured": numbers.get(card.name, [])} for card in cards])
    return 0


def doctor(*, json: bool = False) -> int:
    """Say what is installed, what is missing, and what this machine can do.

    JSON: {"versions", "extras": {name: {"installed", "missing", "install"}}, "machine", "folders", "problems"}.

    Args:
        json: print JSON instead of tables
    """
    from semid import views
    from semid.doctor import examine

    say = Voice(json)
    found = examine()
    say.show(*views.doctor(found))
    say.result(found)
    return 0


def serve(run: RunFolder, /, *, port: int = 8000, host: str = "127.0.0.1", key_file: Path | None = None, store: str | None = None,
          drain: float = 5.0, engine: Literal["float", "int8"] = "float", beside: Annotated[Path | None, arg(metavar="RUN2")] = None,
          limits: Limits = Limits(), json: bool = False) -> int:  # noqa: B008
    """Answer over HTTP: recommendations, events, new items; at / a page to try them. GET /docs shows the commands to paste.

    Without a key it serves this machine alone. SIGHUP reads the run folder again, SIGTERM ends it when all is answered.

    JSON: {"address", "docs", "store"} once it listens. Logs are JSON lines on stderr.

    Args:
        run: run folder
        port: 0 takes a free one
        host: address to listen on; any but this machine's own needs a key
        key_file: file with the key that clients send as "Authorization: Bearer KEY" (default: SEMID_KEY of the environment, if set)
        store: SQLite file, or redis://HOST:PORT/DATABASE, of histories and feedback (default: RUN.histories.sqlite beside it)
        drain: seconds after SIGTERM in which /ready says no and everything is still answered
        engine: int8 computes in 8 bits, and says how many of its top 10 are those of float
        beside: another run, whose lists the page shows next to those of RUN
        limits: what one client may ask for
        json: print JSON instead of text
    """
    from semid.serving.histories import shown
    from semid.serving.security import check_bind, find_key

    say = Voice(json)
    key = find_key(key_file)
    check_bind(host, key)
    serve_engine = _serving()
    import torch

    from semid.serving.engine import Engine

    torch.set_num_threads(1)  # a second thread waits for busy cores more than it computes; take more processes instead
    run = Path(os.path.abspath(run))  # "." has no name; of a link its own is kept
    store = store or str(_store_of(say, run))

    def started(address: str) -> None:
        say.result({"address": address, "docs": f"{address}/docs", "store": shown(store)})
        say.show(Text(f"semid serves {run}; the page: {address}; how to ask: {address}/docs; histories: {shown(store)}; Ctrl-C ends it"))
        sys.stdout.flush()

    opened = Engine.open(run, engine=engine)
    if engine == "int8":
        say.about(Text(f"engine int8: {opened.agreement():.1%} of the top 10 are those of full precision"))
    other = None if beside is None else Engine.open(os.path.abspath(beside))
    serve_engine(opened, run, host=host, port=port, key=key, store=store, drain=drain, limits=limits, beside=other, started=started)
    return 0


VERBS: dict[str, Callable[..., int]] = {
    "demo": demo, "data check": data_check, "train": train, "evaluate": evaluate, "compare": compare, "recommend": recommend,
    "explain": explain, "codes": codes, "add": add, "update": update, "remove": remove, "restore": restore,
    "serve": serve, "events": events, "recipes": recipes, "doctor": doctor}

NARROW: dict[str, object] = {"window": 20, "decay": [0.5, 0.85], "backward": [0.5, 1.0], "norm": [0.5]}
DEMO: dict[str, dict[str, object]] = {
    "item_knn": NARROW,
    "ease": {"regularisation": [400.0]},
    "sasrec": {"epochs": 3},
    "semid:fusion": {"epochs": 5, **{f"scorer.{name}": value for name, value in NARROW.items()}}}
"""Settings that keep the demo short: a narrower search, fewer epochs."""


# What the verbs share ----------------------------------------------------------------------------------------------------


def _serving() -> Callable[..., None]:
    """Return `semid.serving.server.serve`. Raises `MissingExtra`."""
    try:
        from semid.serving.server import serve
    except ModuleNotFoundError as error:
        raise MissingExtra(f"semid serve needs the package {error.name}; install it: pip install \"semid[serve]\"") from None
    return serve


def _read_and_split(say: Voice, data: str, reading: flags.Reading, protocol: Protocol) -> Split:
    """Read the tables as the flags say, and tell what is in them."""
    from semid import views

    dataset = reading.read(data)
    split = dataset.split(protocol)
    say.about(*views.summary(dataset, split))
    return split


def _want_codes_alone(seeds: int, no_baselines: bool, against: str | None, results: Path | None) -> None:
    """Raise `ConfigError` for flags of `compare` that say nothing about codes."""
    for flag, is_given in (("--seeds", seeds != 1), ("--no-baselines", no_baselines), ("--against", against is not None),
                           ("--results", results is not None)):
        if is_given:
            raise ConfigError(f"compare --codes: {flag} is for trained recipes; want it left out: ways of making codes are measured once, "
                              "without baselines")


def _compare_codes(say: Voice, ways: Sequence[str], data: str, out: Path, reading: flags.Reading, splitting: flags.Splitting,
                   settings: Sequence[str], name: str | None, device: str, quiet: bool) -> int:
    """`compare --codes`."""
    from semid import views
    from semid.evaluation.code_report import write
    from semid.files import write_json
    from semid.laboratory import PROBE_NAME, WAYS, check_way, compare_codes, default_ways, report, settings_of

    protocol = splitting.protocol()
    changes = flags.settings_by_recipe(settings, [*(ways or WAYS), PROBE_NAME])
    for way in ways:
        check_way(way, changes.get(way))  # what is misspelt fails before the data are read
    split = _read_and_split(say, data, reading, protocol)
    name = name or Path(data).name.split(".")[0]
    ways = ways or default_ways(split)
    with say.progress(quiet) as progress:
        found = compare_codes(ways, split, out=out, settings=changes, device=device, log=_logs(out, progress))
    top = found.best.name
    what = f"semid --set {shlex.quote(top)}" if top.startswith("codes=") else top
    what += "".join(f" --set {shlex.quote(f'{setting}={value}')}" for setting, value in settings_of(top, changes).items())
    folder = f"runs/{re.sub('[^a-z0-9_]+', '-', top)}"
    commands = [(f"semid train {what} --data {shlex.quote(data)}{flags.typed(reading, splitting)} --out {folder}",
                 "train in full on the codes that scored highest")]
    page = write(report(found, split, name=name, seed=0, commands=commands), out / "codes.html")
    result = {"data": name, "seed": 0, **found.to_dict()}
    write_json(out / "codes.json", result)
    say.show(*views.laboratory(found), "", *views.kept(found), *views.advice(found))
    say.result({**result, "report": str(page)})
    say.next([(f"open {quoted(page)}", "the same with pictures, and items by title"), *commands])
    return 0


def _store_of(say: Voice, run: Path) -> Path:
    """Return where `serve` keeps the events of a run, named as the run is given: a link stays when it is switched to another run."""
    store, earlier = (run.with_name(f"{name}.histories.sqlite") for name in (run.name, run.resolve().name))
    if store.exists() or not earlier.exists():
        return store
    say.about(Text(f"histories: {earlier}, which an earlier semid named after the folder behind the link {run}; start with --store "
                   f"{quoted(earlier)} to keep them when the link is switched", style="yellow"))
    return earlier


def _open_page(run: Path, beside: Path) -> int:
    """Serve a run on this machine, at a port that is free, until Ctrl-C."""
    return serve(run, port=0, beside=beside)


def _want_one(user: str | None, history: str | None) -> None:
    """Raise `ConfigError` unless there is one of the two."""
    if (user is None) == (history is None):
        got = "neither" if user is None else "both"
        raise ConfigError(f"want either --user ID or --history ITEM,ITEM,..., got {got}")


def _past(engine: Engine, user: str | None, history: str | None) -> History:
    """Return whose history is meant: that of a known user, or the one given."""
    from semid.serving.contract import History

    return History(tuple(flags.listed(history)), None) if user is None else engine.history(user)


def _ids_of(engine: Engine, items: str, item_id: str | None) -> list[str]:
    """Return item ids that were listed, or those of a table. What is named like a table and is no item is one that isn't there."""
    from semid.data.formats import ENDINGS
    from semid.data.read import read_items

    is_like_file = items.lower().removesuffix(".gz").endswith(tuple(ENDINGS)) and items not in engine.snapshot.catalog.items
    return read_items(items, item_id=item_id).items.ids.tolist() if os.path.isfile(items) or is_like_file else flags.listed(items)


def _has_run(out: Path) -> bool:
    """Whether a training has begun in a folder."""
    return (out / "config.json").is_file()


def _tell_change(done: Change, what: str, json: bool) -> int:
    """Say what a change of the catalogue did."""
    say = Voice(json)
    say.show(Text(f"{done.count:,} item{'s' if done.count != 1 else ''} {what}, {done.items:,} can be recommended now"))
    say.result(asdict(done))
    return 0


class Voice:
    """Where words go: results to stdout, everything else to stderr. json: stdout gets one JSON value and nothing more."""

    def __init__(self, json: bool = False):
        self.json = json
        self.out, self.err = Console(highlight=False), Console(stderr=True, highlight=False)
        for console in (self.out, self.err):
            if not console.is_terminal and "COLUMNS" not in os.environ:
                console.width = 120  # a pipe has no width; tables need some

    @property
    def is_wide(self) -> bool:
        return self.out.width >= 110

    def step(self, title: str) -> None:
        self.err.print(Text(f"\n{title}", style="bold"), soft_wrap=True)

    def about(self, *parts: RenderableType) -> None:
        """What a person should know while waiting."""
        for part in parts:
            self.err.print(part, soft_wrap=True)

    def show(self, *parts: RenderableType) -> None:
        """A result, for a person."""
        if not self.json:
            for part in parts:
                self.out.print(part, soft_wrap=isinstance(part, Text) and not self.out.is_terminal)

    def result(self, value: object) -> None:
        """The same result, for a program."""
        if self.json:
            self.out.file.write(json_text.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def next(self, commands: Sequence[tuple[str, str]]) -> None:
        """What to type next."""
        if self.json:
            return
        self.out.print(Text("\nNext:", style="bold"))
        for command, purpose in commands:
            self.out.print(Text.assemble("  ", (command, "cyan"), (f"   # {purpose}", "dim")), soft_wrap=True)

    def warn(self, message: str) -> None:
        self.err.print(Text.assemble(("warning: ", "bold yellow"), message), soft_wrap=True)

    def error(self, message: str) -> None:
        self.err.print(Text.assemble(("error: ", "bold red"), (message, "red")), soft_wrap=True)

    def refuse(self, message: str) -> None:
        """An error in place of a result."""
        self.error(message)
        self.result({"error": message})

    def progress(self, quiet: bool) -> Progress:
        from semid.training.progress import Progress

        return Progress(self.err, "quiet" if quiet else None)


@contextmanager
def _unless_read_only(say: Voice) -> Iterator[None]:
    """Write what is good to have beside a result that is told in any case: where it can't be written, a warning says so."""
    try:
        yield
    except RunError as error:
        say.warn(str(error))


def _to_open(page: Path) -> list[tuple[str, str]]:
    return [(f"open {quoted(page)}", "the same with pictures")] if page.exists() else []


def quoted(path: object) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def _example(ids: Iterable[str]) -> str:
    """The first two item ids that --history can name, as one argument; "" where none can."""
    return shlex.quote(",".join(islice((id_ for id_ in ids if flags.listed(id_) == [id_]), 2)))


def _logs(out: Path, progress: Progress) -> Callable[[str, int], Log]:
    """Return what `compare` asks for the log of each run."""
    from semid.comparison import run_folder
    from semid.training.log import Log

    return lambda recipe, seed: Log(run_folder(out, recipe, seed) / "metrics.jsonl", progress.view(f"{recipe}, seed {seed}"))


def _write_comparison(table: Table, out: Path, name: str) -> Path:
    """Write comparison.json and report.html into `out`; return the page."""
    from semid import views
    from semid.evaluation.report import write
    from semid.files import write_json
    from semid.reporting import report_of_table

    write_json(out / "comparison.json", {"data": name, **views.plain(table)})
    return write(report_of_table(table, data=name), out / "report.html")


# Start -------------------------------------------------------------------------------------------------------------------

MENDABLE = {
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a folder that you may write to"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
                    "free some space and repeat the command (train: with --resume); what was saved before is whole"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "choose another path")}
"""What the operating system may refuse, and what a person can do about it."""


class _Warnings(logging.Handler):
    """Warnings of the library as lines on stderr."""

    def __init__(self, say: Voice):
        super().__init__(logging.WARNING)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say.warn(record.getMessage())


def find_verb(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the verb, which may be two words, and what follows it. Raises `ConfigError` with the nearest verb."""
    for length in (2, 1):
        if " ".join(argv[:length]) in VERBS:
            return " ".join(argv[:length]), list(argv[length:])
    tried = " ".join(argv[:2]) if argv[0] == "data" else argv[0]
    raise ConfigError(f"unknown command {tried!r}{did_you_mean(tried, VERBS)}; known: {', '.join(VERBS)}; see: semid --help")


def overview() -> Text:
    """What `semid --help` prints: every verb with the first line of its help."""
    width = max(map(len, VERBS)) + 2
    lines = [Text.assemble("  ", (name.ljust(width), "bold cyan"), (verb.__doc__ or "").split("\n")[0])
             for name, verb in VERBS.items()]
    head = Text("semid: two tables in, a trained and measured generative recommender out\n\nusage: semid COMMAND [OPTIONS]\n")
    return Text("\n").join([head, *lines, Text("\nsemid COMMAND --help says more about one of them. To begin: semid demo")])


def go_on(argv: Sequence[str]) -> str:
    """Return what to tell after an interruption: the command that goes on where `argv` stopped, or begins again."""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--out=") else [word])]
    begun = argv[:1] == ["train"] and "--out" in words[:-1] and _has_run(Path(words[words.index("--out") + 1]))
    again = [*argv, *(["--resume"] if begun and "--resume" not in argv else [])]
    keeps = argv[:1] in (["train"], ["compare"], ["demo"])
    return f"{'nothing is lost, go on with' if keeps else 'again'}: {shlex.join(['semid', *again])}"


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """SIGTERM, as schedulers and `kill` send it, is an interruption too. Signals can be caught in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    say = Voice("--json" in argv)
    warnings = _Warnings(say)
    logging.getLogger("semid").addHandler(warnings)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            say.out.print(overview(), soft_wrap=True)
            return 0
        if argv == ["--version"]:
            from importlib.metadata import version  # a fifth of the time of --help

            say.out.print(version("semid"))
            return 0
        verb, rest = find_verb(argv)
        with _ended_like_ctrl_c():
            return tyro.cli(VERBS[verb], prog=f"semid {verb}", args=rest,
                            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction))
    except SystemExit as done:  # tyro's own --help and refusals
        code = done.code if isinstance(done.code, int) else 2
        if code:
            say.result({"error": f"arguments that don't fit, told on stderr; see: semid {argv[0]} --help"})
        return code
    except SemidError as error:
        say.refuse(str(error))
        return 2
    except KeyboardInterrupt as stop:
        what = f" ({stop})" if str(stop) else ""
        say.err.print(Text.assemble(("interrupted", "bold yellow"), f"{what}; ", go_on(argv)), soft_wrap=True)
        return 130
    except BrokenPipeError:  # `semid ... | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in MENDABLE:
            say.refuse(f"{error.filename or 'the disk'}: {error.strerror}; {MENDABLE[error.errno]}")
            return 2
        traceback.print_exc()
        say.err.print(Text("This is a defect of semid; please report it with the lines above.", style="red"))
        return 1
    finally:
        logging.getLogger("semid").removeHandler(warnings)
