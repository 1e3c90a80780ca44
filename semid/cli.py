"""The command line: a closed list of verbs, each a thin function over the Python API.

Results go to stdout (tables, or JSON with --json and then nothing else); progress, warnings and errors go to stderr.
Exit codes: 0 done, 2 a mistake that the user can mend (one message), 130 interrupted (with the command that goes on), 1 a defect.
torch, DuckDB and Arrow are imported inside the verbs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import json as json_text
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.text import Text
from tyro.conf import arg

from semid.errors import ConfigError, RunError, SemidError, did_you_mean

if TYPE_CHECKING:
    from rich.console import RenderableType

    from semid.data.read import Dataset
    from semid.training.log import Log
    from semid.training.progress import Progress
    from semid.types import Protocol

Column = Annotated[str | None, arg(metavar="COLUMN", help_behavior_hint="(default: guessed by name)")]
Setting = Annotated[tuple[str, ...], arg(metavar="NAME=VALUE")]
Device = Annotated[str, arg(metavar="auto|cpu|cuda")]


@dataclass(frozen=True)
class Reading:
    """How to read the tables; `semid data check` shows what was guessed."""

    items: Annotated[str | None, arg(metavar="ITEMS", help_behavior_hint="(default: none, or items.* in the folder)")] = None
    """table of items: ids, titles, attributes"""
    user: Column = None
    """column with user ids"""
    item: Column = None
    """column with item ids"""
    time: Column = None
    """column with times: seconds, milliseconds, dates or ISO 8601"""
    position: Column = None
    """column with the place of an event in its user's history; wins over the time"""
    action: Column = None
    """column with the kind of event"""
    value: Column = None
    """column with a rating or amount"""
    split_column: Column = None
    """column with train, valid or test"""
    item_id: Column = None
    """id column of the items table"""
    text: Annotated[tuple[str, ...], arg(metavar="COLUMN", help_behavior_hint="(repeatable; default: all strings that are no ids)")] = ()
    """column of the items table that a text encoder reads"""
    view: Annotated[tuple[str, ...], arg(metavar="NAME=FILE.npy")] = ()
    """vectors of the items, one row an item"""
    order: Literal["time", "file"] = "time"
    """file: the rows stand in the order of time already"""
    on_bad_rows: Literal["fail", "drop"] = "fail"
    """drop: leave bad rows out, and say so"""
    duplicates: Literal["keep", "first", "last", "error"] = "keep"
    """what to do with repeated (user, item) pairs"""
    user_core: int = 0
    """users with fewer events leave (repeated with --item-core until none does)"""
    item_core: int = 0
    """items with fewer events leave"""
    min_events: int = 0
    """users with fewer events leave, once, at the end"""


@dataclass(frozen=True)
class Splitting:
    """What trains, what is asked, and what a model may see. Numbers are comparable only under one protocol."""

    split: Literal["leave_one_out", "time", "column", "cold_items", "cold_users"] = "leave_one_out"
    """leave_one_out: the last event is the test, the one before validation; time: a global cut; column: --split-column"""
    max_history: int = 50
    """last events of a history that a model sees"""
    seen: Literal["keep", "remove"] = "keep"
    """whether validation ranks items of the history too (test is always measured both ways)"""
    shuffle_ties: Annotated[int | None, arg(metavar="SEED", help_behavior_hint="(default: the order of the source)")] = None
    """seed of a random order among a user's events of equal time"""
    valid_from: float = 0.8
    """--split time: quantile of the times where validation begins"""
    test_from: float = 0.9
    """--split time: quantile of the times where the test begins"""
    held_out: float = 0.1
    """--split cold_items or cold_users: share that never trains"""
    split_seed: int = 0
    """--split cold_items or cold_users: which ones"""
    min_history: int = 1
    """cases with a shorter history are not asked"""

    def protocol(self) -> Protocol:
        """Return the library's value; raises `ConfigError` for numbers out of range."""
        from semid.types import Protocol

        if self.max_history < 1:
            raise ConfigError(f"--max-history: want 1 or more, got {self.max_history}")
        if not 0 < self.valid_from < self.test_from < 1:
            raise ConfigError(f"--valid-from, --test-from: want 0 < valid < test < 1, got {self.valid_from} and {self.test_from}")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"--held-out: want a share between 0 and 1, got {self.held_out}")
        return Protocol(split=self.split, max_history=self.max_history, seen=self.seen, shuffle_ties=self.shuffle_ties,
                        valid_from=self.valid_from, test_from=self.test_from, held_out=self.held_out, seed=self.split_seed,
                        min_history=self.min_history)


# The verbs: each docstring is its help -----------------------------------------------------------------------------------


def demo(*, out: Path = Path("runs/demo"), seed: int = 0, json: bool = False, quiet: bool = False) -> int:
    """Check, train, compare and report on bundled real data (MovieLens latest-small). About five minutes on two cores.

    JSON: {"table": as of `semid compare`, "report": path, "example": {"user", "history", "recommendations"}}.

    Args:
        out: folder for the runs and the report; repeat the command to go on after an interruption
        seed: of the order among equal times and of the user shown
        json: print JSON instead of tables
        quiet: no progress
    """
    import numpy as np

    from semid import views
    from semid.compare import compare as compare_recipes
    from semid.data.bundled import movielens
    from semid.data.check import check
    from semid.types import Protocol

    say = Voice(json)
    say.step("1. Check the data: semid data check")
    data = movielens()
    say.about(check(data).render())
    say.step("2. Train and compare: semid compare")
    with say.progress(quiet) as progress:
        table = compare_recipes(["semid"], data, protocol=Protocol(), out=out, name="ml-latest-small", settings=DEMO,
                                log=_log_in(out, progress))
    page = _write_comparison(table, out, "MovieLens latest-small", data)
    for seen in table.comparisons:
        say.show(views.comparison(table, seen))
    say.step("3. Recommend: semid recommend")
    run = table.entries[-1].run
    user = str(np.random.default_rng(seed).choice(run.split.source.users.ids))
    answer = run.recommend(user=user, k=5)
    history = [run.catalog.titles[item] for item in run.history(user)]
    say.show(views.recommendations(answer, f"user {user}", history))
    say.result({"table": _table_dict(table), "report": str(page),
                "example": {"user": user, "history": history, "recommendations": answer}})
    say.next([(f"open {page}", "the whole comparison with pictures"),
              (f"semid recommend {run.folder} --user {user} --where \"'Comedy' in categories and year > 1990\"", "obey a rule"),
              ("semid data check EVENTS --items ITEMS", "your own tables: CSV, TSV, Parquet or JSON Lines"),
              ("semid compare semid --data EVENTS --items ITEMS --out runs/mine", "the same on your own tables")])
    return 0


def data_check(events: Annotated[str, arg(metavar="EVENTS")], /, *, reading: Reading = Reading(), bad_rows: Path | None = None,
               json: bool = False) -> int:
    """Read the tables, say which column was taken for what, list every bad row with its line and reason.

    Exit code 2 if there are bad rows and --on-bad-rows is not drop.
    JSON: {"fingerprint", "statistics", "report": {"event_columns", "guessed", "steps", "warnings", "num_bad_rows", "bad_rows"}}.

    Args:
        events: table of events (Parquet, CSV, TSV, JSON Lines, .inter), or a folder with interactions.* and items.*
        reading: how to read the tables
        bad_rows: CSV file for all bad rows
        json: print JSON instead of tables
    """
    from dataclasses import replace

    from semid.data.check import check

    say = Voice(json)
    data = read_tables(events, replace(reading, on_bad_rows="drop"))
    found = check(data)
    if bad_rows is not None:
        data.report.write_bad_rows(bad_rows)
    say.show(found.render())
    say.result(found.to_dict())
    number = data.report.bad_rows.num_rows
    if number and reading.on_bad_rows == "fail":
        say.error(f"{number:,} bad {'row' if number == 1 else 'rows'} in {events}: mend them, or train with --on-bad-rows drop"
                  + (f"; all of them are in {bad_rows}" if bad_rows else "; --bad-rows FILE writes all of them to a CSV file"))
        return 2
    return 0


def train(recipe: Annotated[str, arg(metavar="RECIPE")], /, *, data: Annotated[str, arg(metavar="EVENTS|DIR")], out: Path,
          reading: Reading = Reading(), splitting: Splitting = Splitting(), set: Setting = (), seed: int = 0, resume: bool = False,
          device: Device = "auto", json: bool = False, quiet: bool = False) -> int:
    """Train a recipe on your tables. The run folder OUT holds everything that evaluate and recommend need.

    JSON: {"run", "recipe", "seed", "seconds", "parameters", "protocol_hash", "fingerprint", "valid": {"keep", "remove"}}.

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
    from semid.run import find_recipe
    from semid.run import train as train_recipe
    from semid.training.log import Log
    from semid.validation import measure

    say = Voice(json)
    find_recipe(recipe)  # a misspelt name fails before the data are read
    dataset = read_tables(data, reading)
    split = dataset.split(splitting.protocol())
    say.about(*views.summary(dataset, split))
    with say.progress(quiet) as progress:
        run = train_recipe(recipe, split, out=out, seed=seed, settings=_settings(set), device=device, resume=resume,
                           log=Log(out / "metrics.jsonl", progress.view()))
    valid = {seen: measure(run.recommender, run.split, seen=seen) for seen in ("keep", "remove")}
    say.show(views.trained(run, valid))
    say.result({"run": str(out), "recipe": recipe, "seed": seed, "seconds": run.about["seconds"], "parameters": run.about["parameters"],
                "protocol_hash": split.protocol.hash, "fingerprint": split.fingerprint, "valid": valid})
    user = split.source.users.ids[split.source.user[0]]
    say.next([(f"semid evaluate {out}", "test metrics with intervals, and a page with pictures"),
              (f"semid recommend {out} --user {shlex.quote(str(user))}", "what one user should see next"),
              (f"semid compare {recipe} --data {data}{f' --items {reading.items}' if reading.items else ''} --out {out}-compared",
               "beside honest baselines")])
    return 0


def evaluate(run: Annotated[Path, arg(metavar="RUN")], /, *, part: Literal["test", "valid"] = "test", json: bool = False) -> int:
    """Measure a run: item-level metrics with 95 % intervals, seen items kept and removed. Writes RUN/metrics.json and RUN/report.html.

    JSON: {"run", "part", "protocol_hash", "fingerprint", "latency_ms", "systems": {name: {"keep" | "remove": {"metrics":
    {"ndcg@10": {"mean", "low", "high"}}, "slices", ...}}}}. With --part valid nothing is written.

    Args:
        run: run folder
        part: choose settings on valid; look at test once per finished configuration
        json: print JSON instead of tables
    """
    from semid import views
    from semid.compare import measured
    from semid.run import load, write_json

    say = Voice(json)
    loaded = load(run)
    entries = measured(loaded, loaded.recipe, loaded.about["seed"]) if part == "test" else []
    systems = {entry.name: entry.evaluations for entry in entries} or {loaded.recipe: loaded.evaluate(part)}
    say.show(*views.evaluation(systems))
    result = {"run": str(run), "recipe": loaded.recipe, "seed": loaded.about["seed"], "part": part,
              "protocol_hash": loaded.split.protocol.hash, "fingerprint": loaded.split.fingerprint,
              "latency_ms": {entry.name: entry.latency for entry in entries},
              "systems": {name: {seen: e.to_dict() for seen, e in evaluations.items()} for name, evaluations in systems.items()}}
    if part == "test":
        from semid.evaluation.report import write
        from semid.reporting import report_of_run

        write_json(run / "metrics.json", result)
        page = write(report_of_run(loaded, entries), run / "report.html")
        say.next([(f"open {page}", "the same with pictures"), (f"semid recommend {run} --history ITEM,ITEM", "what comes after these items")])
    say.result(result)
    return 0


def compare(recipes: Annotated[tuple[str, ...], arg(metavar="RECIPE")], /, *, data: Annotated[str, arg(metavar="EVENTS|DIR")], out: Path,
            reading: Reading = Reading(), splitting: Splitting = Splitting(),
            set: Annotated[tuple[str, ...], arg(metavar="RECIPE.NAME=VALUE")] = (), seeds: int = 1, no_baselines: bool = False,
            name: str | None = None, results: Path | None = None, device: Device = "auto", json: bool = False, quiet: bool = False) -> int:
    """Train recipes and the baselines (popularity, item_knn, ease, sasrec) under one protocol and print one table.

    Finished runs in OUT are kept: the same command goes on after an interruption. Writes OUT/comparison.json and OUT/report.html.
    JSON: {"data", "systems": [{"name", "seeds", "train_seconds", "latency_ms", "parameters"}], "comparisons": {"keep" | "remove":
    {"reference", "rows": [{"name", "metrics": {"ndcg@10": {"mean", "low", "high", "sd", "p", "p_adjusted"}}}]}}, "report"}.

    Args:
        recipes: names, or name:variant; see `semid recipes`
        data: table of events, or a folder with interactions.* and items.*
        out: folder for the runs, one subfolder a recipe and seed
        reading: how to read the tables
        splitting: the protocol
        set: change a setting of one recipe, such as sasrec.epochs=10
        seeds: runs of each recipe that has chance in it; with 1 the table says so
        no_baselines: only the recipes named
        name: of the data set in results, by default that of the file
        results: folder for one JSON a run
        device: auto takes a GPU where there is one
        json: print JSON instead of tables
        quiet: no progress
    """
    from semid import views
    from semid.compare import BASELINES
    from semid.compare import compare as compare_recipes
    from semid.run import find_recipe

    say = Voice(json)
    if seeds < 1:
        raise ConfigError(f"--seeds: want 1 or more, got {seeds}")
    if no_baselines and not recipes:
        raise ConfigError("compare: want at least one recipe with --no-baselines; see: semid recipes")
    for recipe in recipes:
        find_recipe(recipe)
    settings = _settings_by_recipe(set, [*recipes, *(() if no_baselines else BASELINES)])
    dataset = read_tables(data, reading)
    split = dataset.split(splitting.protocol())
    say.about(*views.summary(dataset, split))
    name = name or Path(data).name.split(".")[0]
    with say.progress(quiet) as progress:
        table = compare_recipes(list(recipes), split, seeds=seeds, out=out, name=name, settings=settings, results=results,
                                baselines=not no_baselines, device=device, log=_log_in(out, progress))
    page = _write_comparison(table, out, name, dataset)
    for seen in table.comparisons:
        say.show(views.comparison(table, seen))
    say.result({"data": name, **_table_dict(table), "report": str(page)})
    say.next([(f"open {page}", "the same with pictures")]
             + [(f"semid recommend {entry.run.folder} --history ITEM,ITEM", f"ask {entry.name}") for entry in table.entries[-1:]])
    return 0


def recommend(run: Annotated[Path, arg(metavar="RUN")], /, *, user: Annotated[str | None, arg(metavar="ID")] = None,
              history: Annotated[str | None, arg(metavar="ITEM,ITEM,...")] = None,
              k: Annotated[int, arg(aliases=("-k",))] = 10, where: Annotated[str | None, arg(metavar="CONDITION")] = None,
              exclude: Annotated[str | None, arg(metavar="ITEM,ITEM,...")] = None,
              seen: Literal["auto", "keep", "remove"] = "auto", json: bool = False) -> int:
    """Say what a user should see next: item ids, titles and scores, best first.

    JSON: {"user", "history": [{"item_id", "title"}], "where", "recommendations": [{"item_id", "title", "score"}]}.

    Args:
        run: run folder
        user: id of a user in the data
        history: item ids, oldest first, for anybody else; "" for a new user
        k: how many items
        where: condition over the columns of the items table, such as "category = 'x' and price < 20"
        exclude: item ids that are never shown
        seen: whether items of the history may come again; auto: only where users take items again
        json: print JSON instead of tables
    """
    from semid import views
    from semid.run import load

    say = Voice(json)
    if (user is None) == (history is None):
        raise ConfigError("recommend: want either --user ID or --history ITEM,ITEM,..., got " + ("neither" if user is None else "both"))
    loaded = load(run)
    given = None if history is None else _listed(history)
    answer = loaded.recommend(user, given, k=k, where=where, exclude=_listed(exclude or ""), seen=seen)
    catalog = loaded.catalog
    rows = loaded.history(user) if user is not None else [catalog.items.row(item, "item") for item in given or []]
    titles = [catalog.titles[row] for row in rows]
    say.show(views.recommendations(answer, f"user {user}" if user is not None else "this history", titles, k=k))
    say.result({"user": user, "history": [{"item_id": str(catalog.items.ids[row]), "title": title} for row, title in zip(rows, titles)],
                "where": where, "recommendations": answer})
    return 0


def codes(run: Annotated[Path, arg(metavar="RUN")], /, *, examples: int = 8, json: bool = False) -> int:
    """Say how well the semantic ids of a run are used: each level's use, entropy and perplexity, collisions, and what prefixes hold.

    JSON: {"source", "items", "distinct", "collision_rate", "colliding_share", "largest_group", "levels": [{"size", "used",
    "entropy" (nats), "perplexity", "largest_share"}], "prefixes": [{"codes", "items", "titles"}]}.

    Args:
        run: run folder
        examples: prefixes to show, the largest first
        json: print JSON instead of tables
    """
    from semid import views
    from semid.codes import describe
    from semid.run import load

    say = Voice(json)
    found = describe(load(run), examples)
    say.show(*views.codes(found))
    say.result(found)
    return 0


def recipes(name: Annotated[str | None, arg(metavar="RECIPE")] = None, /, *, results: Path = Path("results"), json: bool = False) -> int:
    """List the systems on offer, or one of them with its settings and variants.

    JSON: [{"name", "summary", "source", "status", "settings": {name: [type, default]}, "variants", "measured"}].

    Args:
        name: one recipe
        results: folder with the JSON files that `semid compare --results` writes
        json: print JSON instead of tables
    """
    from dataclasses import asdict

    from semid import views
    from semid.recipe_cards import measured, recipe_card, recipe_names

    say = Voice(json)
    cards = [recipe_card(each) for each in ([name] if name else recipe_names())]
    numbers = measured(results)
    say.show(views.recipe(cards[0]) if name else views.recipes(cards, numbers))
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


VERBS: dict[str, Callable[..., int]] = {
    "demo": demo, "data check": data_check, "train": train, "evaluate": evaluate, "compare": compare, "recommend": recommend,
    "codes": codes, "recipes": recipes, "doctor": doctor}

DEMO: dict[str, dict[str, object]] = {"sasrec": {"epochs": 8}}
"""Settings that keep the demo under five minutes; its numbers are not those of the results tables."""


# What the verbs share ----------------------------------------------------------------------------------------------------


@dataclass
class Voice:
    """Where words go: results to stdout, everything else to stderr. json: stdout gets one JSON value and nothing more."""

    json: bool
    out: Console = field(default_factory=lambda: Console(highlight=False))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))

    def step(self, title: str) -> None:
        self.err.print(Text(f"\n{title}", style="bold"))

    def about(self, *parts: RenderableType) -> None:
        """What a person should know while waiting."""
        self.err.print(*parts, sep="\n", soft_wrap=True)

    def show(self, *parts: RenderableType) -> None:
        """A result, for a person."""
        if not self.json:
            self.out.print(*parts, sep="\n")

    def result(self, value: object) -> None:
        """The same result, for a program."""
        if self.json:
            self.out.file.write(json_text.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")

    def next(self, commands: Sequence[tuple[str, str]]) -> None:
        if self.json:
            return
        self.out.print(Text("\nNext:", style="bold"))
        for command, purpose in commands:
            self.out.print(Text.assemble("  ", (command, "cyan"), (f"   # {purpose}", "dim")), soft_wrap=True)

    def error(self, message: str) -> None:
        self.err.print(Text.assemble(("error: ", "bold red"), (message, "red")), soft_wrap=True)

    def progress(self, quiet: bool) -> Progress:
        from semid.training.progress import Progress

        return Progress(self.err, "quiet" if quiet else None)


def read_tables(events: str, reading: Reading) -> Dataset:
    """Read what the flags say."""
    from semid.data.read import read

    vectors = dict(_pair(each, "--view", "NAME=FILE.npy") for each in reading.view)
    return read(events, reading.items, user=reading.user, item=reading.item, time=reading.time, position=reading.position,
                action=reading.action, value=reading.value, split=reading.split_column, item_id=reading.item_id,
                text=reading.text or None, views=vectors or None, order=reading.order, on_bad_rows=reading.on_bad_rows,
                duplicates=reading.duplicates, user_core=reading.user_core, item_core=reading.item_core,
                min_history=reading.min_events)


def _pair(text: str, flag: str, shape: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"{flag} {text!r}: want {shape}")
    return name, value


def _settings(pairs: Sequence[str]) -> dict[str, object]:
    return dict(_pair(each, "--set", "NAME=VALUE, such as epochs=10") for each in pairs)


def _settings_by_recipe(pairs: Sequence[str], known: Sequence[str]) -> dict[str, dict[str, object]]:
    """{"sasrec": {"epochs": "10"}} from ["sasrec.epochs=10"]."""
    settings: dict[str, dict[str, object]] = {}
    for path, value in _settings(pairs).items():
        recipe, dot, name = path.partition(".")
        if recipe not in known or not dot:
            raise ConfigError(f"--set {path}: want RECIPE.NAME=VALUE with a recipe of this comparison, got {recipe!r}"
                              f"{did_you_mean(recipe, known)}; it has: {', '.join(dict.fromkeys(known))}")
        settings.setdefault(recipe, {})[name] = value
    return settings


def _listed(text: str) -> list[str]:
    """Ids between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _log_in(out: Path, progress: Progress) -> Callable[[str, int], Log]:
    """Return what `compare` asks for the log of each run."""
    from semid.compare import run_folder
    from semid.training.log import Log

    return lambda recipe, seed: Log(run_folder(out, recipe, seed) / "metrics.jsonl", progress.view(f"{recipe} (seed {seed})"))


def _table_dict(table: Any) -> dict:
    from semid.views import by_system

    return {"systems": by_system(table), "comparisons": {seen: c.to_dict() for seen, c in table.comparisons.items()}}


def _write_comparison(table: Any, out: Path, name: str, dataset: Dataset) -> Path:
    """Write comparison.json and report.html into `out`; return the page."""
    from semid.evaluation.report import write
    from semid.reporting import report_of_table
    from semid.run import write_json

    write_json(out / "comparison.json", {"data": name, **_table_dict(table)})
    return write(report_of_table(table, data=name), out / "report.html")


MENDABLE = dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a folder that you may write to") | dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space and repeat the command (train: with --resume); what was saved before is whole"
) | dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "choose another path")
"""What the operating system may refuse, and what a person can do about it."""


class _Warnings(logging.Handler):
    """Warnings of the library as lines on stderr."""

    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(Text.assemble(("warning: ", "bold yellow"), record.getMessage()), soft_wrap=True)


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
    lines = [Text.assemble("  ", (verb.ljust(width), "bold cyan"), (run.__doc__ or "").split("\n")[0]) for verb, run in VERBS.items()]
    head = Text("semid: two tables in, a trained and measured generative recommender out\n\nusage: semid COMMAND [OPTIONS]\n")
    return Text("\n").join([head, *lines, Text("\nsemid COMMAND --help says more about one of them. To begin: semid demo")])


def go_on(argv: Sequence[str]) -> str:
    """Return the command that goes on where `argv` was interrupted."""
    again = [*argv, *(["--resume"] if argv[:1] == ["train"] and "--resume" not in argv else [])]
    return shlex.join(["semid", *again])


# Start -------------------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    say = Voice(False)
    warnings = _Warnings(say.err)
    logging.getLogger("semid").addHandler(warnings)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            say.out.print(overview(), soft_wrap=True)
            return 0
        if argv == ["--version"]:
            say.out.print(version("semid"))
            return 0
        verb, rest = find_verb(argv)
        return tyro.cli(VERBS[verb], prog=f"semid {verb}", args=rest,
                        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction))
    except SystemExit as done:  # tyro's own --help and its refusals
        return done.code if isinstance(done.code, int) else 2
    except SemidError as error:
        say.error(str(error))
        return 2
    except KeyboardInterrupt as stop:
        what = f" {stop}" if str(stop) else ""
        again = "go on with" if argv[:1] in (["train"], ["compare"], ["demo"]) else "again"
        say.err.print(Text.assemble(("interrupted", "bold yellow"), f"{what}; {again}: ", (go_on(argv), "cyan")), soft_wrap=True)
        return 130
    except BrokenPipeError:  # `semid ... | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in MENDABLE:
            say.error(f"{error.filename or 'the disk'}: {error.strerror}; {MENDABLE[error.errno]}")
            return 2
        traceback.print_exc()
        say.err.print(Text("This is a defect of semid; please report it with the lines above.", style="red"))
        return 1
    finally:
        logging.getLogger("semid").removeHandler(warnings)
