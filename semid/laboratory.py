"""Which way of making codes suits a catalogue? Several of them, measured alike on the same data, before anybody pays for training.

A way is a recipe that makes codes (`semid:text_codes`, `letter:two_level`; any recipe with a function `coder`, or `names`), or published
codes (`codes=COLUMN`, `codes=X.index.json`). Of each: collisions, use, reconstruction error, purity, neighbours, churn, head-room, seconds
(`evaluation.code_values.Measured`), and a probe: semid's two-level generator, small, on some of the users. Everything is read from training
rows, the probe is scored on validation; test is never read. Finished ways are kept in their folders, so that an interrupted laboratory
goes on where it stopped.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from semid.codes import largest_groups, wanted_ids
from semid.coding import Coder, Made, make, read_published
from semid.comparison import run_folder
from semid.config import override
from semid.data.earlier import earlier
from semid.data.letter import code_columns
from semid.encoders.content import with_text_view
from semid.encoders.text import item_texts
from semid.errors import ConfigError, DataError
from semid.evaluation.beyond_accuracy import category_column
from semid.evaluation.code_advice import advise, best
from semid.evaluation.code_values import CodesReport, Ground, Measured, Probe
from semid.evaluation.statistics import bootstrap, holm, paired_permutation
from semid.files import write_json
from semid.protocols import Tokenizer
from semid.recipes import semid as default
from semid.recommenders import read_codes, write_codes
from semid.reporting import categories, code_tree, code_use
from semid.run import Run, configure, describe_protocol, machine, pick_device, versions
from semid.scorers.item_knn import spectral_vectors
from semid.tokenizers.churn import churn
from semid.tokenizers.collisions import collision_report
from semid.tokenizers.health import health
from semid.tokenizers.neighbours import agreement, chance, nearest
from semid.tokenizers.prefixes import chance_purity, head_room, purity
from semid.tokenizers.reconstruction import reconstruction_error
from semid.tokenizers.view import num_twins
from semid.training.job import Job
from semid.training.log import Log, read_records
from semid.types import Interactions, SemanticIds, Split
from semid.validation import ndcg_by_case

WAYS = ("semid:text_codes", "semid:cf_codes", "semid", "semid:rqvae", "semid:product", "letter:two_level", "cost:two_level")
"""Residual k-means on text, on behaviour, on both; RQ-VAE; product quantisation; LETTER; CoST."""

SETTINGS: dict[str, dict[str, object]] = {"letter": {"cf": "spectral"}}
"""By recipe. Behaviour from one source for all ways: item-kNN's factors, in seconds, where LETTER's own default trains a SASRec."""

PUBLISHED = "codes="
PROBE = default.Config(dropout=0.2, epochs=4, patience=4)
"""Less dropout than in full training: a short one learns faster with it."""
PROBE_NAME = "probe"
"""Under which name `settings` changes `PROBE`."""

PROBE_EVENTS = 60_000
"""Training events of the users that the probe is trained on."""
NEIGHBOURS = 10
ASKED = 5_000
"""Items whose nearest neighbours are looked at."""
EARLY = 0.8
"""Share of the training events that the first of two fits sees."""
SHOWN = 6
"""Groups of items with equal codes on the page."""
FORMAT = 1


@dataclass(frozen=True)
class Way:
    """measured; before, ids: codes before (None where nobody knows) and after the collision policy; gains: float64 [B], the probe's
    NDCG@10 of each case, None without a probe."""

    measured: Measured
    before: SemanticIds | None
    ids: SemanticIds
    gains: np.ndarray | None = None


@dataclass(frozen=True)
class Bench:
    """What all ways are measured against, made once.

    split: its catalogue has the views "text" (where there is content) and "cf"; views: their names; kinds: {"content" | "behaviour":
    vectors float32 [N, D]}; near: {kind: (rows, neighbours)}; label: int [N] categories (-1 unknown) or None; early: the earlier split
    and its items' rows, or None.
    """

    split: Split
    views: tuple[str, ...]
    kinds: dict[str, np.ndarray]
    near: dict[str, tuple[np.ndarray, np.ndarray]]
    label: np.ndarray | None
    early: tuple[Split, np.ndarray] | None
    ground: Ground


@dataclass(frozen=True)
class Laboratory:
    """Ways in the order they were named, and what they were measured against."""

    ways: tuple[Way, ...]
    ground: Ground
    advice: list[str]

    @property
    def best(self) -> Measured:
        """The way with the highest probe, the first one without any."""
        return best([way.measured for way in self.ways]) or self.ways[0].measured

    def to_dict(self) -> dict:
        """Return everything but the codes as JSON values."""
        return {"ground": asdict(self.ground), "ways": [asdict(way.measured) for way in self.ways], "advice": self.advice}


# Ways ------------------------------------------------------------------------------------------------------------------


def default_ways(data: Split) -> list[str]:
    """Return `WAYS`, without those of content where there is none, and `codes=COLUMN` for each column of published codes."""
    has_content = "text" in data.catalog.views or any(item_texts(data.catalog))
    made = WAYS if has_content else ("semid:cf_codes",)
    return [*made, *(f"{PUBLISHED}{column}" for column in code_columns(data.catalog.table))]


@dataclass(frozen=True)
class Maker:
    """A recipe that makes codes: config, its settings; module, whose function `coder` says how, or `names` where nothing is fitted (P5)."""

    config: Any
    module: ModuleType

    def make(self, split: Split, job: Job) -> tuple[Made, Tokenizer | None]:
        """Return the codes of the split's catalogue, and the tokenizer that made them, if there is one."""
        torch.manual_seed(job.seed)
        if not hasattr(self.module, "coder"):
            ids = self.module.names(self.config, split, job)
            return Made(ids, ids, collision_report(ids, ids, np.zeros((len(ids), ids.sizes[-1]), np.float32)), []), None
        coder: Coder = self.module.coder(self.config, split, job)
        tokenizer = coder.tokenizer.fit(coder.catalog, seed=job.seed)
        return make(tokenizer, coder.catalog, coder.policy, split.train.counts), tokenizer


def check_way(way: str, settings: Mapping[str, object] | None) -> Maker | None:
    """Return the recipe that makes the codes, None for published ones. Raises `ConfigError` for a recipe that cannot be compared."""
    if way.startswith(PUBLISHED):
        return None
    module, config = configure(way, settings)
    if hasattr(module, "coder") or hasattr(module, "names"):
        return Maker(config, module)
    want = f"want recipes such as {', '.join(WAYS[:3])}, or published codes: {PUBLISHED}COLUMN or {PUBLISHED}X.index.json"
    if module.__name__.endswith(".parallel"):
        raise ConfigError(f"recipe {way!r}: its codes are sets of many digits, which the small generator that scores codes cannot write; "
                          f"semid:product are such digits in order; {want}")
    raise ConfigError(f"recipe {way!r} makes no codes from the catalogue alone, or none at all; {want}")


def compare_codes(ways: Sequence[str], data: Split, *, out: Path, seed: int = 0,
                  settings: Mapping[str, Mapping[str, object]] | None = None, device: str = "auto",
                  log: Callable[[str, int], Log] | None = None) -> Laboratory:
    """Make and measure codes in each of `ways` (none named: `default_ways`), each in its folder under `out`.

    settings: {way or "probe": {setting: value}}, over `SETTINGS` and `PROBE`.
    """
    if not len(data.valid):
        raise DataError("compare --codes: the small generator is scored on validation, and this split has no case of it; choose another")
    names = list(dict.fromkeys(ways or default_ways(data)))
    changes = {name: settings_of(name, settings or {}) for name in names}
    makers: dict[str, Maker | Made] = {}  # made first: what is misspelt fails before minutes of fitting
    for name in names:
        makers[name] = check_way(name, changes[name]) or read_published(name.removeprefix(PUBLISHED), data.catalog, data.train.counts)
    probe = override(PROBE, (settings or {}).get(PROBE_NAME, {}))
    device = pick_device(device)
    folders = {name: run_folder(out, short_name(name), seed) for name in names}
    jobs = {name: Job(seed=seed, device=device, log=log(short_name(name), seed) if log else Log()) for name in names}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    bench = _bench(data, jobs[names[0]])
    found = [_kept_or_measured(name, bench, makers[name], probe, jobs[name], folders[name]) for name in names]
    tested = _with_tests(found)
    return Laboratory(tuple(tested), bench.ground, advise([way.measured for way in tested], bench.ground))


def settings_of(way: str, settings: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """Return what is changed of a way's recipe: `SETTINGS`, and over them those given for it."""
    return {**SETTINGS.get(way.partition(":")[0], {}), **settings.get(way, {})}


def short_name(way: str) -> str:
    """Return the way's name as a folder may have it: slashes, spaces and other strange characters become `_`.

    >>> short_name("letter:two_level"), short_name("codes=my data/X.index.json")
    ('letter:two_level', 'codes=my_data_X.index.json')
    """
    return re.sub(r"[^\w:.=-]+", "_", way)


def _kept_or_measured(name: str, bench: Bench, maker: Maker | Made, probe: default.Config, job: Job, folder: Path) -> Way:
    """Return what the folder has, if it was made as it is asked for now and of what is there now, else measure and keep it."""
    split, file = bench.split, folder / "way.json"
    about = {"format": FORMAT, "way": name, "config": asdict(maker.config) if isinstance(maker, Maker) else None, "probe": asdict(probe),
             "protocol_hash": split.protocol.hash, "fingerprint": split.fingerprint, "made_of": _sources(maker, split, job),
             "seed": job.seed, "semid": versions()["semid"]}
    about = json.loads(json.dumps(about))  # as it is read back: lists for tuples
    if file.exists() and (kept := json.loads(file.read_text(encoding="utf-8")))["about"] == about:
        job.log.write("codes", note="measured before, kept")
        told = kept["measured"]
        measured = Measured(**{**told, "probe": Probe(**told["probe"])})
        return Way(measured, read_codes(folder / "before.parquet"), read_codes(folder / "codes.parquet"), np.array(kept["gains"]))
    way = _measure_way(name, maker, bench, probe, job, folder)
    assert way.before is not None
    assert way.gains is not None
    write_codes(folder / "before.parquet", way.before)
    write_codes(folder / "codes.parquet", way.ids)
    write_json(file, {"about": about, "measured": asdict(way.measured), "gains": way.gains.tolist()})
    return way


def _sources(maker: Maker | Made, split: Split, job: Job) -> dict[str, str]:
    """Return what codes are made of beside the data and the settings, as hashes: published codes, or the catalogue's vectors and a
    finished run that the setting `cf` names."""
    digest = lambda content: hashlib.sha256(content).hexdigest()[:16]
    if isinstance(maker, Made):
        return {"codes": digest(maker.before.codes.tobytes())}
    run = Path(str(getattr(maker.config, "cf", "")).replace("{seed}", str(job.seed))) / "manifest.json"
    return {name: digest(np.ascontiguousarray(vectors).tobytes()) for name, vectors in split.catalog.views.items()} | (
        {"run": digest(run.read_bytes())} if run.is_file() else {})


def _measure_way(name: str, maker: Maker | Made, bench: Bench, probe: default.Config, job: Job, folder: Path) -> Way:
    split = bench.split
    seconds, cpu_seconds, changed = None, None, None
    if isinstance(maker, Made):
        made = maker.said(job)
    else:
        began, cpu = time.perf_counter(), time.process_time()
        made, tokenizer = maker.make(split, job)
        seconds, cpu_seconds = round(time.perf_counter() - began, 2), round(time.process_time() - cpu, 2)
        made.said(job)
        if tokenizer is not None:  # names given without one, by the events or texts of today, are given anew each time
            tokenizer.save(folder / "tokenizer.safetensors")
            changed = _churn(maker, made.before, bench.early, job)
    measured = replace(measure_codes(name, made.ids, bench), seconds=seconds, cpu_seconds=cpu_seconds, collisions=made.collisions,
                       churn=changed)
    began = time.perf_counter()
    gains = _probe(made.ids, bench, probe, job)
    low, high = bootstrap(gains)
    scored = Probe(float(gains.mean()), low, high, round(time.perf_counter() - began, 2))
    job.log.write("probe", note="validation of the small generator", **{"ndcg@10": scored.mean})
    return Way(replace(measured, probe=scored), made.before, made.ids, gains)


def _churn(maker: Maker, today: SemanticIds, early: tuple[Split, np.ndarray] | None, job: Job) -> list[float] | None:
    """Return the churn of the tokenizer's own codes between the earlier catalogue and today's; None where that was too small for it."""
    if early is None:
        return None
    split, rows = early
    try:
        made, _ = maker.make(split, job)
    except DataError as error:
        job.log.write("codes", note=f"no refit on the earlier catalogue of {len(rows):,} items: {error}")
        return None
    return churn(made.before, replace(today, codes=today.codes[rows]))


def measure_codes(name: str, ids: SemanticIds, bench: Bench) -> Measured:
    """Return all that the codes alone tell; nothing is fitted or trained."""
    near = {kind: _known(agreement(ids, *pairs)) for kind, pairs in bench.near.items()}
    error = {kind: _known([reconstruction_error(ids, vectors)])[0] for kind, vectors in bench.kinds.items()}
    return Measured(name, ids.source, None, len(ids), health(ids)["levels"], None, error,
                    None if bench.label is None else _known(purity(ids, bench.label)), near, _known(chance(ids)), None, head_room(ids))


def _known(values: Sequence[float]) -> list[float | None]:
    """NaN, nothing to measure, as JSON has it."""
    return [None if math.isnan(value) else value for value in values]


def _with_tests(ways: Sequence[Way]) -> list[Way]:
    """Add the p-values of all probes against the best."""
    first = best([way.measured for way in ways])
    rows = [row for row, way in enumerate(ways) if way.gains is not None and way.measured is not first]
    top = next((way.gains for way in ways if way.measured is first), None)
    if top is None or not rows:
        return list(ways)
    tests = [paired_permutation(gains, top) for row in rows if (gains := ways[row].gains) is not None]
    p = dict(zip(rows, holm(tests).tolist(), strict=True))
    return [replace(way, measured=replace(way.measured, probe=replace(way.measured.probe, p=p.get(row)))) if way.measured.probe else way
            for row, way in enumerate(ways)]


# The bench -------------------------------------------------------------------------------------------------------------


def _bench(data: Split, job: Job) -> Bench:
    """Return the bench of a data set, with the content vectors that recipes take by default, and an earlier one for refits."""
    split = replace(data, catalog=with_text_view(data.catalog, "auto", log=job.log, device=job.device))
    try:
        early = earlier(split, EARLY)
    except DataError as error:
        job.log.write("codes", note=f"no refit on an earlier catalogue: {error}")
        early = None
    return _bench_of(split, split.catalog.views.get("text"), early)


def _bench_of(split: Split, content: np.ndarray | None, early: tuple[Split, np.ndarray] | None) -> Bench:
    catalog = split.catalog.with_view("cf", spectral_vectors(split.train))
    kinds = {"behaviour": _unit(catalog.view("cf")), **({} if content is None else {"content": _unit(content)})}
    rows = np.sort(np.random.default_rng(0).permutation(len(catalog))[:ASKED])
    names = categories(catalog)
    label = None if names is None else np.unique([name or "" for name in names], return_inverse=True)[1] - (0 if "" not in names else 1)
    column = category_column(catalog)
    agree = None if label is None else chance_purity(label)
    ground = Ground(len(catalog), {kind: num_twins(vectors) for kind, vectors in kinds.items()}, NEIGHBOURS,
                    column if label is not None else None, None if agree is None or math.isnan(agree) else agree,
                    None if early is None else (EARLY, len(early[1])))
    views = tuple(name for name in default.VIEWS if name in catalog.views)
    near = {kind: nearest(vectors, rows, NEIGHBOURS) for kind, vectors in kinds.items()}
    return Bench(replace(split, catalog=catalog), views, kinds, near, label, early, ground)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length; zeros stay: what counts is the direction, as in `view.composed`."""
    return default.unit(vectors).astype(np.float32)


# The probe -------------------------------------------------------------------------------------------------------------


def _probe(ids: SemanticIds, bench: Bench, config: default.Config, job: Job) -> np.ndarray:
    """Return float64 [B]: validation NDCG@10 by case of a small two-level generator on the codes."""
    torch.manual_seed(job.seed)
    split = replace(bench.split, train=some_users(bench.split.train, PROBE_EVENTS, job.seed))
    recommender = default.generate(config, ids, bench.split.catalog, bench.views, split, job)
    return ndcg_by_case(replace(recommender, beams=20), split, seen=split.protocol.seen)


def some_users(train: Interactions, events: int, seed: int) -> Interactions:
    """Return the training events of users drawn at random until they have `events` of them, or all."""
    order = np.random.default_rng(seed).permutation(len(train.users))
    size = np.diff(train.offsets)[order]
    drawn = np.zeros(len(train.users), bool)
    drawn[order[: int(np.searchsorted(np.cumsum(size), events)) + 1]] = True
    return train.take(drawn[train.user])


# What is shown ---------------------------------------------------------------------------------------------------------


def of_run(run: Run) -> Laboratory:
    """Return the codes of a run, measured as in the laboratory but for refit and probe; content is that of the items' texts, hashed, and
    equal where the texts are.

    Raises `RunError` for a run without codes.
    """
    ids = wanted_ids(run)
    bench = _bench_of(run.split, run.text_vectors, None)
    told = [record for record in read_records(run.folder / "metrics.jsonl") if "collisions" in record] if run.folder else []
    measured = replace(measure_codes(run.recipe, ids, bench), collisions=told[-1]["collisions"] if told else None)
    same = sum(size for text, size in Counter(item_texts(run.catalog)).items() if text and size > 1)
    ground = replace(bench.ground, twins={**bench.ground.twins, **({"content": same} if "content" in bench.kinds else {})})
    return Laboratory((Way(measured, None, ids),), ground, advise([measured], ground))


def report(laboratory: Laboratory, data: Split, *, name: str, seed: int, commands: Sequence[tuple[str, str]]) -> CodesReport:
    """Return the values that the page draws. name: of the data."""
    catalog, popularity, here = data.catalog, data.train.counts, machine()
    facts = {"Items": f"{len(catalog):,}", "Training events": f"{len(data.train):,}", "Validation cases": f"{len(data.valid):,}",
             "Protocol": f"{describe_protocol(data.protocol)} ({data.protocol.hash})", "Data fingerprint": data.fingerprint,
             "Seed": str(seed), "Machine": f"{here['gpu'] or here['cpu']}, {here['cores']} cores, {here['threads']} threads",
             "Date": datetime.date.today().isoformat()}
    return CodesReport(
        name, str(versions()["semid"]), facts, laboratory.ground, [way.measured for way in laboratory.ways],
        uses=[code_use(way.ids) for way in laboratory.ways],
        trees=[code_tree(way.ids, catalog, popularity) for way in laboratory.ways],
        colliding=[None if way.before is None else largest_groups(way.before.codes, catalog.titles, popularity, SHOWN, least=2)
                   for way in laboratory.ways],
        advice=laboratory.advice, commands=commands)
