"""A run: one recipe trained on one data set, in a folder from which everything else follows.

The folder holds config.json (recipe, every value resolved, protocol, seed, data fingerprint), catalog.parquet,
interactions.parquet (the histories `recommend --user` reads, and what `evaluate` splits again), the weights as safetensors,
codes.parquet, metrics.json, metrics.jsonl, report.html and manifest.json (SHA-256 and size of every file). Loading executes no code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import logging
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from semid.config import override, refuse_unread, settings_named
from semid.data.split import held_back
from semid.data.split import split as split_events
from semid.errors import ConfigError, RunError, SemidError, did_you_mean
from semid.files import write_atomically, write_json
from semid.recipe_cards import recipe_names
from semid.training.checkpoint import time_spent
from semid.training.job import Job
from semid.training.log import Log
from semid.types import Catalog, IdMap, Interactions, Protocol, Recommendations, Split

if TYPE_CHECKING:
    from semid.evaluation.evaluate import Evaluation
    from semid.serving.engine import Engine

FORMAT = 1
"""Version of the folder's layout; a newer one is refused."""

FUSED = {"fusion": ":timely", "recent": ":timely", "ensemble": ":timely", "fusion_timeless": ""}
"""Variants with a fusion, and the variant that their generator alone is."""

BOUNDS = ("batch_size", "tokens", "max_tokens", "group", "beams")
"""Settings that bound how much is held at a time."""

CHECKPOINTS = ".*.checkpoint.safetensors"
"""What a run that isn't finished goes on from, one file a stage."""


def find_recipe(name: str) -> tuple[ModuleType, Mapping[str, object]]:
    """Return the recipe's module and the settings of its variant. name: `letter` or `letter:no_cf`."""
    stem, _, variant = name.partition(":")
    if stem not in recipe_names():
        raise ConfigError(f"unknown recipe {stem!r}{did_you_mean(stem, recipe_names())}; known: {', '.join(recipe_names())}")
    module = importlib.import_module(f"semid.recipes.{stem}")
    if variant and variant not in module.VARIANTS:
        known = ", ".join(f"{stem}:{v}" for v in module.VARIANTS) or "none"
        raise ConfigError(f"recipe {stem!r} has no variant {variant!r}{did_you_mean(variant, module.VARIANTS)}; known: {known}")
    return module, module.VARIANTS[variant] if variant else {}


def configure(recipe: str, settings: Mapping[str, object] | None = None) -> tuple[ModuleType, Any]:
    """Return the recipe's module and its `Config` with the variant's and the given settings. Raises `ConfigError`."""
    module, variant = find_recipe(recipe)
    default = override(module.Config(), variant)
    config = override(default, settings or {})
    refuse_unread(config, settings or {}, default)
    return module, config


@dataclass
class Run:
    """A trained recommender with what it was trained on. Made by `train` and `load`."""

    recipe: str
    config: Any
    split: Split
    recommender: Any
    about: dict
    folder: Path | None = None

    @property
    def catalog(self) -> Catalog:
        return self.split.catalog

    @cached_property
    def repeats(self) -> bool:
        """Whether users take items again (at least 1 % of training rows do); where not, `seen="auto"` removes seen items."""
        from semid.evaluation.evaluate import resolve_seen

        return resolve_seen("auto", self.split.train) == "keep"

    def resolve_seen(self, seen: str) -> str:
        from semid.evaluation.evaluate import resolve_seen

        if seen == "auto":  # counted once
            return "keep" if self.repeats else "remove"
        return resolve_seen(seen, self.split.train)

    @property
    def promotion(self) -> dict | None:
        """What held-out cases said of the aligned weights: the values of `alignment.Decision` and a note; None without an alignment."""
        file = self.folder / "promotion.json" if self.folder else None
        return read_json(file) if file is not None and file.exists() else None

    def history(self, user: str) -> np.ndarray:
        """Return the item rows of a known user, oldest first. Raises `UnknownId`."""
        events = self.split.source
        row = events.users.row(user, "user")
        return events.item[events.offsets[row] : events.offsets[row + 1]]

    def recommend(self, user: str | None = None, history: Sequence[str] | None = None, *, k: int = 10, where: str | None = None,
                  exclude: Sequence[str] = (), seen: str = "auto", at: int | None = None) -> list[dict]:
        """Return up to k {"item_id", "title", "score"}, best first, for a known user or any history of item ids (oldest first).

        where: a condition over catalogue columns; one that no item satisfies is a `DataError`, over HTTP an empty list with a note.
        exclude: item ids never shown. No model learns from a history without events, so an empty one gets the most popular items, with
        their training events as scores. Items that were added to the run, changed or removed (`semid add` and so on) until it first
        answers count; all else of a run is as it was trained. at: when the user asks, UTC seconds, which some models read; None = when the
        run's data end (a service asks now: `at=int(time.time())`).
        """
        if at is not None and user is None:
            raise ConfigError("recommend: at wants a user, whose events have times; a history of item ids has none")
        if (user is None) == (history is None):
            raise ConfigError("recommend: want either a user or a history, got " + ("both" if user is not None else "neither"))
        if not 1 <= k <= 10_000:
            raise ConfigError(f"recommend: want k in [1, 10000], got {k}")
        for name, ids in (("history", history), ("exclude", exclude)):
            if isinstance(ids, str):
                raise ConfigError(f"recommend: want {name} as a list of item ids, got the text {ids!r}; write {name}={[ids]!r}")
        if self._changed is not None:
            return self._changed_answer(user, history, k=k, where=where, exclude=exclude, seen=seen, at=at)
        items = self.catalog.items
        rows = self.history(str(user)) if user is not None else np.array([items.row(i, "item") for i in history or []], np.int64)
        times = users = None
        events = self.split.source
        if user is not None:
            u = events.users.row(str(user), "user")
            times, users = [events.time[events.offsets[u] : events.offsets[u + 1]]], np.array([u])
        run = self if len(rows) else dataclasses.replace(self, recommender=self._most_popular)
        answer = run.recommend_rows([rows], times=times, users=users, k=k, allowed=self.allowed(where, exclude), seen=seen, at=at)
        return [{"item_id": str(items.ids[item]), "title": self.catalog.titles[item], "score": float(score)}
                for item, score in zip(answer.item[0], answer.score[0], strict=True) if item >= 0]

    @cached_property
    def _changed(self) -> Engine | None:
        """What answers where the catalogue was changed after training; None where it wasn't."""
        from semid.serving.journal import Journal

        if self.folder is None or not Journal(self.folder).folder.is_dir():
            return None
        from semid.serving.engine import Engine

        return Engine(load(self.folder))

    def _changed_answer(self, user: str | None, history: Sequence[str] | None, *, k: int, where: str | None, exclude: Sequence[str],
                        seen: str, at: int | None) -> list[dict]:
        from semid.serving.contract import History, Request

        assert self._changed is not None
        for id_ in exclude:
            self._changed.snapshot.catalog.items.row(id_, "item")
        past = History(tuple(history or ()), None) if user is None else self._changed.history(str(user))
        [answer] = self._changed.recommend([Request(past.item_ids, past.times, at=self.until if at is None else at, k=k, where=where,
                                                    exclude=tuple(exclude), seen=cast("Any", seen), user=user)])
        if answer.error is not None:
            raise answer.error
        self._changed.check_where(where)
        return [{"item_id": item, "title": title, "score": score}
                for item, title, score in zip(answer.item_ids, answer.titles, answer.scores, strict=True)]

    def recommend_rows(self, histories: Sequence[np.ndarray], *, times: Sequence[np.ndarray] | None = None,
                       users: np.ndarray | None = None, k: int, allowed: np.ndarray | None = None, seen: str = "auto",
                       at: int | None = None) -> Recommendations:
        """`recommend` for many histories of item rows at once, asked `at` a UTC second or when the run's data end (`until`), or at a
        history's own last time if that is later. times: int64 of each history. users: integer [B], whose they are, for models that know
        users."""
        from semid.data.batch import history_batch

        requests = None
        if times is not None and self.until is not None:
            requests = np.array([max([self.until if at is None else at, *time[-1:].tolist()]) for time in times], np.int64)
        batch = history_batch(list(histories), None if times is None else list(times), users,
                              max_history=self.split.protocol.max_history, requests=requests)
        return self.recommender.recommend(batch, k=k, allowed=allowed, seen=self.resolve_seen(seen))

    @cached_property
    def until(self) -> int | None:
        """The second after the last event of the run's data, UTC; None where events have an order alone."""
        events = self.split.source
        return int(events.time.max()) + 1 if len(events) and events.time_unit == "seconds" else None

    def asked(self, prior: str) -> Run:
        """Return this run answering with the heads of one prior alone, such as "categories=Makeup": every item of its lists carries it.

        Raises `ConfigError` where the recipe has no heads of priors, `DataError` for an unknown one, with the nearest name.
        """
        from semid.recipes.human_priors import PriorRecommender

        if not isinstance(self.recommender, PriorRecommender):
            raise ConfigError(f"prior {prior!r}: {self.recipe} has no heads of priors; train human_priors, or use where=...")
        return dataclasses.replace(self, recommender=self.recommender.asked(prior), folder=None)

    def allowed(self, where: str | None, exclude: Sequence[str] = ()) -> np.ndarray | None:
        """Return the bool [N] mask of items that a rule admits, None if every item is."""
        if where is None and not len(exclude):
            return None
        from semid.data.where import mask

        allowed = np.ones(len(self.catalog), bool) if where is None else mask(self.catalog, where)
        allowed[[self.catalog.items.row(i, "item") for i in exclude]] = False
        return allowed

    @property
    def _most_popular(self) -> Any:
        from semid.recipes import popularity

        return popularity.run(popularity.Config(), self.split, Job())

    @property
    def systems(self) -> dict[str, Any]:
        """{name: recommender} of all that the run can answer with: a fused system after its generator alone."""
        from semid.recommenders import Fusion

        if not isinstance(self.recommender, Fusion):
            return {self.recipe: self.recommender}
        stem, _, variant = self.recipe.partition(":")
        alone = stem + FUSED[variant] if variant in FUSED else f"{self.recipe}:generator"
        return {alone: self.recommender.first, self.recipe: self.recommender}

    def evaluate(self, part: str = "test", *, system: str | None = None) -> dict[str, Evaluation]:
        """Return {"keep" | "remove": Evaluation} of a part, seen items kept and removed.

        system: one of `systems`, by default the run's own. The test under the run's own protocol is measured once and kept in
        the folder. Lists are measured for diversity too where items have text, for calibration where they have categories.
        """
        from semid.codes import ids_of
        from semid.data.batch import LISTED, case_batches
        from semid.evaluation.beyond_accuracy import known_categories
        from semid.evaluation.evaluate import Evaluation, evaluate

        system = system or self.recipe
        parts = {"test": self.split.test, "valid": self.split.valid}
        for what, name, known in (("part", part, parts), ("system", system, self.systems)):
            if name not in known:
                raise ConfigError(f"evaluate: want {what} {' or '.join(known)}, got {name!r}{did_you_mean(name, known)}")
        cases = parts[part]
        is_kept = self.folder is not None and part == "test" and dataclasses.asdict(self.split.protocol) == self.about["protocol"]
        found = {}
        for seen in ("keep", "remove"):
            file = self.folder / f"{system.replace(':', '.')}.{seen}.parquet" if self.folder and is_kept else None
            if file is not None and file.exists():
                found[seen] = Evaluation.load(file)
                continue
            with memory_explained(self.config):
                batches = case_batches(self.split, cases, most=LISTED)
                found[seen] = evaluate(self.systems[system], self.split, cases, batches, part=part, seen=seen, ids=ids_of(self),
                                       vectors=self.text_vectors, categories=known_categories(self.catalog))
            if file is not None:
                try:
                    found[seen].save(file)
                except RunError as error:  # a folder that is read alone: what was measured is returned all the same
                    logging.getLogger(__name__).warning("%s", error)
        return found

    def under(self, protocol: Protocol) -> Run:
        """Return the same recommender before the questions of another protocol.

        Raises `ConfigError` where the model knows what that protocol holds back, or reads shorter histories than it asks with.
        """
        own = self.split
        if protocol.max_history > own.protocol.max_history:
            raise ConfigError(f"protocol: want max_history of at most {own.protocol.max_history}, which the run was trained with, got "
                              f"{protocol.max_history}; train under that protocol instead")
        asked = split_events(own.source, own.catalog, protocol, own.fingerprint)
        trained, chosen_on = held_back(own, asked)
        if trained or chosen_on:
            raise ConfigError(f"protocol {describe_protocol(protocol)}: want a model that knows nothing of its answers, but it holds "
                              f"back {trained:,} of the run's {len(own.train):,} training events, and {chosen_on:,} of its "
                              f"{len(asked.test.target):,} answers were the run's validation; train under that protocol instead")
        return dataclasses.replace(self, split=asked)

    @cached_property
    def text_vectors(self) -> np.ndarray | None:
        """float32 [N, 256]: the same measure of likeness for every system; None where the items have no text."""
        from semid.encoders.hashed import text_vectors
        from semid.encoders.text import item_texts

        texts = item_texts(self.catalog)
        return text_vectors(texts, 256) if any(texts) else None


def describe_protocol(protocol: Protocol) -> str:
    """Return a protocol in words.

    >>> describe_protocol(Protocol())
    'leave one out, history at most 50, all items ranked'
    """
    ties = "" if protocol.shuffle_ties is None else f", equal times shuffled with seed {protocol.shuffle_ties}"
    return f"{protocol.split.replace('_', ' ')}, history at most {protocol.max_history}, all items ranked{ties}"


def train(recipe: str, data: Any, *, out: str | Path | None = None, seed: int = 0, protocol: Protocol | None = None,
          settings: Mapping[str, object] | None = None, device: str = "auto", resume: bool = False, log: Log | None = None) -> Run:
    """Train a recipe (or `recipe:variant`) on a data set from `semid.read`, or on an existing `Split`.

    out: the run folder; None keeps everything in memory. settings: {"epochs": 3, "optimization.learning_rate": 1e-3}.
    device: auto takes a GPU where there is one. resume: go on from the checkpoints in `out`.
    """
    check_seed(seed)
    module, config = configure(recipe, settings)
    split = split_of(data, protocol)
    folder = None if out is None else Path(out)
    about = {"format": FORMAT, "recipe": recipe, "config": dataclasses.asdict(config), "protocol": dataclasses.asdict(split.protocol),
             "protocol_hash": split.protocol.hash, "seed": seed, "data": {
                 "fingerprint": split.fingerprint, "users": len(split.events.users), "items": len(split.catalog),
                 "events": len(split.events), "time_unit": split.events.time_unit}, "versions": versions(), "machine": machine()}
    before = None if folder is None or not folder.is_dir() else set(folder.iterdir())
    job = Job(seed=seed, out=folder, device=pick_device(device), resume=resume,
              log=log or Log(None if folder is None else folder / "metrics.jsonl"))
    began, cpu = time.perf_counter(), time.process_time()
    with _alone(folder) if folder is not None and not (folder / "manifest.json").exists() else nullcontext():
        try:
            if folder is not None:
                if (done := _prepare(folder, about, resume)) is not None:
                    return done
                for file in folder.glob(CHECKPOINTS):  # of this run's earlier parts
                    seconds, processor_seconds = time_spent(file)
                    began, cpu = began - seconds, cpu - processor_seconds
                save_data(folder, split)
            with memory_explained(config):
                recommender = module.run(config, split, job)
        except SemidError:
            if folder is not None:
                _undo(folder, before)
            raise
        about["seconds"] = round(time.perf_counter() - began, 2)
        about["cpu_seconds"] = round(time.process_time() - cpu, 2)
        about["parameters"] = recommender.num_parameters
        run = Run(recipe, config, split, recommender, about, folder)
        if folder is not None:
            recommender.save(folder)
            write_json(folder / "config.json", about)
            write_manifest(folder)
            for file in [*folder.glob(CHECKPOINTS), *folder.glob(".*.tmp")]:
                file.unlink()  # after the manifest: a run killed in between is finished, not begun again
    return run


def split_of(data: Any, protocol: Protocol | None = None) -> Split:
    """Return data that were split already, or split those from `semid.read`. Raises `ConfigError` for anything else."""
    from semid.data.read import Dataset

    if isinstance(data, Split):
        return data
    if not isinstance(data, Dataset):
        raise ConfigError(f"data: want what semid.read(...) returns, or a split of it, got {type(data).__name__} "
                          f"{_short(str(data))}; give semid.read(EVENTS, ITEMS)")
    return data.split(protocol or Protocol())


@contextmanager
def memory_explained(config: Any) -> Iterator[None]:
    """Turn an accelerator's lack of memory into a `ConfigError` that names the settings of a recipe's config which bound it."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        found = ", ".join(f"{path}={value}" for path, value in settings_named(config, BOUNDS))
        advice = "; optimization.accumulate makes up for a smaller batch_size" if "batch_size" in found else ""
        raise ConfigError(f"the accelerator's memory is not enough ({str(error).splitlines()[0]}); lower one of: {found}{advice}; "
                          "or take --device cpu") from error


def load(folder: str | Path) -> Run:
    """Open a run folder. Settings that came to semid after it was trained take their defaults.

    Raises `RunError` if a file is missing, was changed, or comes from a newer version.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise RunError(f"{folder}: not a run folder (no config.json); make one with: semid train RECIPE --data ... --out {folder}")
    about = read_json(folder / "config.json")
    if about.get("format", 0) > FORMAT:
        raise RunError(f"{folder}: written by a newer semid (layout {about['format']}, this one reads {FORMAT}); upgrade semid")
    check_manifest(folder)
    module, _ = find_recipe(about["recipe"])
    try:
        config = _settings(about["recipe"], about["config"])
    except ValueError as error:
        raise RunError(f"{folder}/config.json: the configuration doesn't fit recipe {about['recipe']!r} of this version: {error}") from None
    catalog, events = load_data(folder)
    split = split_events(events, catalog, Protocol(**about["protocol"]), about["data"]["fingerprint"])
    try:
        recommender = module.load(config, catalog, folder)
    except RuntimeError as error:  # torch names weights that are missing or left over
        if "state_dict" not in str(error):
            raise
        found = str(error).splitlines()[-1].strip()
        raise RunError(f"{folder}: the weights don't fit recipe {about['recipe']!r} of this version ({found}); open the run with the "
                       "semid that trained it, or train again") from None
    return Run(about["recipe"], config, split, recommender, about, folder)


def check_seed(seed: int) -> None:
    """Raise `ConfigError` for a seed that random generators refuse."""
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed: want a whole number in [0, 2^32), got {seed}")


def pick_device(device: str) -> str:
    """Resolve "auto"; an accelerator that isn't there is an error, not a silent CPU run."""
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device: want auto, cpu or cuda, got {device!r}")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r}: torch sees no GPU here; use --device cpu, or see: semid doctor")
    return device


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("semid", "torch", "numpy")} | {"python": platform.python_version()}


def machine() -> dict[str, object]:
    """What a number was measured on, without anything that names the machine. cores: those that this process may use."""
    import sys

    import torch

    from semid.nn.precision import has_bfloat16

    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(), "bf16_cpu": has_bfloat16("cpu"),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make a run folder and keep others from training into it. The lock ends with the process, however that ends; Windows and some
    disks of a network have none."""
    try:
        import fcntl
    except ImportError:
        fcntl = None
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise RunError(f"{folder}: cannot write the run folder: {error.strerror or error}; choose another --out") from None
    with open(path, "a+", encoding="utf-8") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(f"{folder}: process {file.read()} is training into it; wait until it has ended and repeat the command, or "
                              "choose another --out") from None
        except OSError:
            pass
        try:
            file.truncate(0)
            print(os.getpid(), end="", file=file, flush=True)
            yield
        finally:
            path.unlink(missing_ok=True)


def _prepare(folder: Path, about: dict, resume: bool) -> Run | None:
    """Write config.json into the folder; return the finished run if there is one to resume."""
    config = folder / "config.json"
    if config.exists():
        if not resume:
            raise ConfigError(f"{folder}: holds a run already; continue it with --resume, or choose another --out")
        earlier = read_json(config)
        if earlier["recipe"] == about["recipe"]:
            earlier["config"] = _completed(earlier["recipe"], earlier["config"])
        for key in ("recipe", "config", "protocol", "seed"):
            if json.dumps(earlier[key], sort_keys=True) != json.dumps(about[key], sort_keys=True):
                before, now = _different(earlier[key], about[key])
                raise ConfigError(f"{folder}: --resume with another {key}: the run has {_short(before)}, "
                                  f"this call {_short(now)}; repeat the original call, or choose another --out")
        if earlier["data"]["fingerprint"] != about["data"]["fingerprint"]:
            raise ConfigError(f"{folder}: --resume with other data (fingerprint {about['data']['fingerprint']}, "
                              f"the run has {earlier['data']['fingerprint']}); choose another --out")
        if (folder / "manifest.json").exists():
            return load(folder)
    elif folder.is_dir() and (others := sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))):
        what = "nothing to resume (no config.json), and the folder isn't empty" if resume else "holds other files than a run's"
        raise ConfigError(f"{folder}: {what} ({others[0]}); choose another --out")
    try:
        if not config.exists():
            for stale in folder.glob(CHECKPOINTS):  # of a run that was deleted by its visible files
                stale.unlink()
        write_json(config, about)
    except OSError as error:
        raise RunError(f"{folder}: cannot write the run folder: {error.strerror or error}; choose another --out") from None
    return None


def _undo(folder: Path, before: set[Path] | None) -> None:
    """Take away what a refused call wrote, unless there is a checkpoint to go on from. before: what was there, None = no folder."""
    if not folder.is_dir() or any(folder.glob(CHECKPOINTS)):
        return
    for file in set(folder.iterdir()) - (before or set()):
        file.unlink()
    if before is None:
        folder.rmdir()


def _settings(recipe: str, stored: dict) -> Any:
    """Return the recipe's `Config` of a run's config.json. Raises `ValueError` for what this version doesn't know."""
    from pydantic import TypeAdapter

    return TypeAdapter(find_recipe(recipe)[0].Config).validate_python(stored, extra="forbid")


def _completed(recipe: str, config: dict) -> dict:
    """Return a run's settings with the defaults of those that came to semid after it; as they are where they don't fit any more."""
    try:
        return dataclasses.asdict(_settings(recipe, config))
    except ValueError:
        return config


def _different(before: Any, now: Any) -> tuple[Any, Any]:
    """Return what differs: of dictionaries the entries alone, down to the settings in them."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return before, now
    keys = [key for key in {**before, **now} if json.dumps(before.get(key)) != json.dumps(now.get(key))]
    pairs = {key: _different(before.get(key), now.get(key)) for key in keys}
    return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else text[:200] + "..."


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}; the run folder is damaged, train again") from None


def save_data(folder: Path, split: Split) -> None:
    """Write catalog.parquet, interactions.parquet and users.parquet: what the run's split was made from."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    catalog, events = split.catalog, split.source
    table = catalog.table
    for name in [n for n in table.column_names if n.startswith("semid:")]:
        table = table.drop_columns(name)
    table = table.append_column("semid:id", pa.array(catalog.items.ids.tolist(), pa.string()))
    for name, texts in catalog.text.items():
        table = table.append_column(f"semid:text:{name}", pa.array(texts, pa.string()))
    columns = {"user": events.user, "item": events.item, "time": events.time, "action": events.action, "value": events.value,
               "split": events.split}
    interactions = pa.table({name: column for name, column in columns.items() if column is not None})
    interactions = interactions.replace_schema_metadata({"time_unit": events.time_unit})
    users = pa.table({"user_id": pa.array(events.users.ids.tolist(), pa.string())})
    for name, value in (("catalog", table), ("interactions", interactions), ("users", users)):
        write_atomically(folder / f"{name}.parquet", lambda path, value=value: pq.write_table(value, path, compression="zstd"))


def load_data(folder: Path) -> tuple[Catalog, Interactions]:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "catalog.parquet")
    items = IdMap(table["semid:id"].to_pylist())
    prefix = "semid:text:"
    text = {name.removeprefix(prefix): table[name].to_pylist() for name in table.column_names if name.startswith(prefix)}
    catalog = Catalog(items, table.select([n for n in table.column_names if not n.startswith("semid:")]), text)
    rows = pq.read_table(folder / "interactions.parquet")
    users = IdMap(pq.read_table(folder / "users.parquet")["user_id"].to_pylist())
    columns = {name: np.array(rows[name].to_numpy()) for name in rows.column_names}  # copies: torch wants arrays it may write to
    return catalog, Interactions(users=users, items=items, time_unit=rows.schema.metadata[b"time_unit"].decode(), **columns)


UNLISTED = {"manifest.json", "metrics.json", "metrics.jsonl", "report.html"}
"""Files that `evaluate` writes later; everything else is under the manifest's hashes."""


def write_manifest(folder: Path) -> None:
    files = {p.name: {"sha256": _sha256(p), "bytes": p.stat().st_size}
             for p in sorted(folder.iterdir()) if p.is_file() and p.name not in UNLISTED and not p.name.startswith(".")}
    write_json(folder / "manifest.json", {"format": FORMAT, "files": files, "versions": versions()})


def check_manifest(folder: Path) -> None:
    """Raise `RunError` for the first file that is missing or isn't what training wrote."""
    if not (folder / "manifest.json").exists():
        raise RunError(f"{folder}: training has not finished (no manifest.json); continue it by repeating the train command with --resume")
    for name, wanted in read_json(folder / "manifest.json")["files"].items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path}: missing; the manifest lists it with {wanted['bytes']:,} bytes; restore it or train again")
        if path.stat().st_size != wanted["bytes"] or _sha256(path) != wanted["sha256"]:
            raise RunError(f"{path}: changed since training (SHA-256 differs from manifest.json); restore it or train again")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
