"""semid's default: a two-level generator over residual k-means codes of text and behaviour, softmax over real children.

Source: this project. Status: default; `semid:fusion` pools it with item-kNN and with what was taken in the month before the request,
`semid:ensemble` with a SASRec too, `semid:recent` with the month alone; the weights are chosen on validation. Their generator is that of
`semid:timely`, which reads the days since the last event; `semid` doesn't, and `semid:fusion_timeless` pools it with item-kNN.
What is taken from elsewhere: residual k-means codes (GRID, OneRec), one vector per history item and a small depth decoder
(RQ-Transformer), collaborative information in the codes (LETTER's finding, without its losses).
What is new: the decoder chooses among the children that exist in the code tree, in training as in decoding; every node of the tree
has a vector of its own beside the shared code vectors (generators/two_level.py); targets after rare items are shared with the
neighbours that item-kNN knows (`NeighbourTargets` in data/batch.py; measured in dev/LOG.md).
Other tokenizers under the same generator: `semid:text_codes`, `semid:cf_codes`, `semid:rqvae` (TIGER's), `semid:product` (RPG's),
`semid:letter_sid` (LETTER's published codes, a column of the items table) and the variants `two_level` of other recipes. All treat
items with the same codes alike: the nearest free last code (`collisions.next_free`), which adds no level, so that a comparison changes
the tokenizer alone.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from semid.alignment import DDRO, SDPO, Alignment, align, check
from semid.coding import Coder, made_once
from semid.config import ReadWhere
from semid.data.batch import SequenceBatches, case_batches
from semid.encoders.content import with_text_view
from semid.errors import ConfigError, DataError
from semid.evaluation.evaluate import resolve_seen
from semid.generators.two_level import TwoLevel
from semid.newcomers import Newcomers
from semid.nn.hstu import HSTU
from semid.objectives.next_codes import NextCodes
from semid.protocols import Objective, Recommender, Tokenizer
from semid.recipes import item_knn, popularity, sasrec
from semid.recipes.hstu import SLACK
from semid.recipes.sasrec import Config as SASRecSettings
from semid.recommenders import CodeRecommender, Fusion, ItemRecommender, is_later, load_tensors, pool, read_codes
from semid.run import load as load_run
from semid.scorers.item_knn import spectral_vectors
from semid.scorers.popularity import RecentPopularity
from semid.scorers.shares import Shares
from semid.tokenizers.collisions import minimum_cost, nearest_free_code, next_free
from semid.tokenizers.product import Product
from semid.tokenizers.residual_kmeans import ResidualKMeans
from semid.tokenizers.rqvae import RQVAE
from semid.tokenizers.view import composed, num_different, unit
from semid.training.fit import Optimization, Validation, fit, pace
from semid.training.job import Job
from semid.types import Catalog, SemanticIds, Split
from semid.validation import measure, sample

VARIANTS: dict[str, dict[str, object]] = {
    "timely": {"has_request_gap": True},
    "fusion": {"has_request_gap": True, "fusion": True},
    "recent": {"has_request_gap": True, "fusion": True, "voices": ("recent",)},
    "ensemble": {"has_request_gap": True, "fusion": True, "voices": ("item_knn", "recent", "sasrec")},
    "fusion_timeless": {"fusion": True, "voices": ("item_knn",)},
    "hstu": {"temporal": "hstu"},
    "no_node": {"has_node_vectors": False},
    "no_content": {"text": "none"},
    "no_id": {"has_item_ids": False},
    "hard_targets": {"neighbour_prior": 0.0, "smoothing": 0.0},
    "dpo": {"alignment.method": "dpo"},
    "sdpo": {**SDPO},
    "ddro": {**DDRO},
    "grpo": {"alignment.method": "grpo"},
    "grpo_rule": {"alignment.method": "grpo", "alignment.rewards": ("rule",)},
    "text_codes": {"code_views": ("text",)},
    "cf_codes": {"code_views": ("cf",)},
    "rqvae": {"tokenizer": "rqvae", "code_views": ("text",)},
    "product": {"tokenizer": "product"},
    "letter_sid": {"codes": "letter_sid"},
}
VIEWS = ("text", "cf")
AFTERWARDS = ("fusion", "voices", "scorer", "recent", "sasrec", "alignment", "trained_in")
"""Settings of what follows the generator's training."""
SHARES = "probability"
FEWEST = 500
"""Validation cases that weights of their own are chosen on."""
DENSE = 50


@dataclass(frozen=True)
class Config:
    """text: which text vectors, see `with_text_view`. cf_dim: width of the collaborative view (spectral, training rows only).

    tokenizer: residual k-means, TIGER's RQ-VAE, or product quantisation, whose digits are read as a path. code_views: which views the
    codes are made of (the generator reads all there are). codes: published codes in place of the tokenizer, a column of the items table
    or a file X.index.json. levels, size: the codes; size None takes 256, or fewer where the catalogue could not fill them.
    collisions: how items with equal codes get last codes of their own, see `tokenizers.collisions`. tokenizer_steps: updates of RQ-VAE.
    temporal: what reads the history; HSTU (`nn.hstu`, without a feedforward) knows distances, times and the time of the request by itself,
    and takes no new items. has_item_ids: off for catalogues where most recommended items are new. has_content: off for a generator that
    reads codes alone, with id embeddings (if any) that start at random. has_node_vectors: tree nodes have vectors of their own.
    dropout: None takes .5, or .2 on dense data, with over `DENSE` training events an item.
    has_time_gaps, has_request_gap: read the days between events, and those from the last one to the request (only where times are real).
    tokens: positions in a batch. epochs: at most, each of a pass over the data, or of `epoch_steps` batches where that is more.
    patience: pairs of epochs without a better validation NDCG@10.
    neighbour_prior: training events that item-kNN's neighbours of an item stand for, see `NeighbourTargets`; 0 = targets as they are.
    smoothing: share of each target spread over the children of its node.
    beams: kept while decoding. fusion: pool with `voices`: item-kNN, which is chosen among what `scorer` has, what was taken in the days of
    `recent` before the request (left out, and said so, where the events have no times), and a SASRec of the settings `sasrec`, which
    trains after the generator. alignment: training on preferences or rewards, before any fusion.
    trained_in: folder of a finished run of the same settings, data and seed but for fusion and alignment, whose generator is taken in
    place of training one; `{seed}` in it stands for the seed.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("codes", None): ("tokenizer", "code_views", "levels", "size", "collisions"), ("tokenizer", "rqvae"): ("tokenizer_steps",),
        ("temporal", "transformer"): ("feedforward",), ("fusion", True): ("voices", "scorer", "recent", "sasrec")}

    text: str = "auto"
    cf_dim: int = 64
    tokenizer: Literal["rkmeans", "rqvae", "product"] = "rkmeans"
    code_views: tuple[str, ...] = VIEWS
    codes: str | None = None
    levels: int = 3
    size: int | None = None
    collisions: Literal["next_free", "minimum_cost"] = "next_free"
    tokenizer_steps: int = 3000
    temporal: Literal["transformer", "hstu"] = "transformer"
    width: int = 128
    layers: int = 2
    heads: int = 2
    feedforward: int = 256
    dropout: float | None = None
    has_item_ids: bool = True
    has_content: bool = True
    has_node_vectors: bool = True
    has_time_gaps: bool = True
    has_request_gap: bool = False
    tokens: int = 1024
    epochs: int = 12
    epoch_steps: int = 84
    patience: int = 3
    beams: int = 50
    neighbour_prior: float = 5.0
    smoothing: float = 0.1
    fusion: bool = False
    voices: tuple[Literal["item_knn", "recent", "sasrec"], ...] = ("item_knn", "recent")
    scorer: item_knn.Config = item_knn.Config()
    recent: popularity.Config = popularity.Config(days=30.0)
    sasrec: SASRecSettings = SASRecSettings()
    alignment: Alignment = Alignment()
    trained_in: str | None = None
    optimization: Optimization = Optimization(weight_decay=0.1)

    def __post_init__(self):
        if not self.voices or len(set(self.voices)) < len(self.voices):
            raise ConfigError(f"setting voices: want some of item_knn, recent and sasrec, each once, got {self.voices}; for none leave "
                              "fusion off")
        if self.recent.days is None:
            raise ConfigError("setting recent.days: want a number of days, got None; leave recent out of voices if it shall not be heard")
        if not self.fusion and self.voices == ("item_knn",):  # of a run of before there was `recent`, where it was the default
            object.__setattr__(self, "voices", Config.voices)
        if any(self.scorer.recent):
            raise ConfigError("setting scorer.recent: a fusion hears recent popularity as a voice of its own; leave it out")
        if self.sasrec.loss != "softmax":
            raise ConfigError(f"setting sasrec.loss={self.sasrec.loss!r}: want softmax, as its probabilities are pooled; leave it out")


def smoke() -> Config:
    return Config(text="none", cf_dim=16, size=8, width=32, heads=1, feedforward=64, dropout=0.1, tokens=256, epochs=15, epoch_steps=0,
                  patience=15, optimization=Optimization(learning_rate=5e-3, warmup=10))


def run(config: Config, data: Split, job: Job) -> CodeRecommender | Fusion:
    check(config.alignment, data)
    voices = _heard(config, data, job) if config.fusion else ()
    if config.fusion and not len(data.valid):
        raise ConfigError("semid: the split has no validation case to choose a fusion's weights on; use semid without fusion")
    if "sasrec" in voices:
        sasrec.build(config.sasrec, len(data.catalog), data.protocol.max_history)  # settings that don't fit are told before the training
    torch.manual_seed(job.seed)
    catalog, views = with_views(config.text, config.cf_dim, data, job)
    ids = made_once(config.codes, lambda: _coder(config, catalog, views, job).codes(data, job), data, job)
    recommender = generate(config, ids, catalog, views, data, job)
    if not config.fusion:
        return recommender
    return choose_weights(recommender, {name: _voice(name, config, data, job) for name in voices}, data, job, by_day=config.has_request_gap)


def _heard(config: Config, data: Split, job: Job) -> tuple[str, ...]:
    """The voices that the data allow."""
    if "recent" not in config.voices or data.train.time_unit == "seconds":
        return config.voices
    if config.voices == ("recent",):
        raise ConfigError("semid: the events have an order but no times, so there is no recent popularity to pool with; take other voices")
    job.log.write("fusion", note="recent popularity is left out: the events have an order but no times")
    return tuple(name for name in config.voices if name != "recent")


def _voice(name: str, config: Config, data: Split, job: Job) -> ItemRecommender:
    if name == "item_knn":
        return ItemRecommender(item_knn.tune(config.scorer, data, data.protocol.seen)[0], item_knn.SCALE)
    if name == "recent":
        return popularity.run(config.recent, data, job)
    trained = sasrec.run(config.sasrec, data, job)
    return ItemRecommender(Shares(cast("nn.Module", trained.scorer), len(data.catalog)).eval(), SHARES, job.device)


def with_views(text: str, cf_dim: int, data: Split, job: Job) -> tuple[Catalog, tuple[str, ...]]:
    """Return the catalogue with the views that the generator reads, and their names: text, where there is any, and behaviour."""
    catalog = with_text_view(data.catalog, text, log=job.log, device=job.device)
    catalog = catalog.with_view("cf", spectral_vectors(data.train, dim=cf_dim))
    return catalog, tuple(name for name in VIEWS if name in catalog.views and (name == "cf" or text != "none"))


def views_of_codes(views: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the views there are among those wanted. Raises `DataError` if there is none."""
    if not (found := tuple(name for name in views if name in wanted)):
        raise DataError(f"semid: want codes of one of the views {', '.join(wanted)}, but there is none of them; "
                        "give items with text (--items), or take other code_views")
    return found


def generate(config: Config, ids: SemanticIds, catalog: Catalog, views: tuple[str, ...], data: Split, job: Job,
             temperature: float = 1.0) -> CodeRecommender:
    """Train the two-level generator on given codes and the catalogue's `views`; what the tokenizer's settings say is not read."""
    check(config.alignment, data)
    content = content_of(catalog, views) if config.has_content else None
    start = None
    if config.has_item_ids:
        start = initial_vectors(catalog, views, config.width) if config.has_content else 0.05 * torch.randn(len(catalog), config.width)
    real = config if data.events.time_unit == "seconds" else replace(config, has_time_gaps=False, has_request_gap=False)
    generator = build(real, ids, data.protocol.max_history, start, content,
                      dropout_for(data) if config.dropout is None else config.dropout, data.events.time_unit == "seconds").to(job.device)
    recommender = CodeRecommender(generator, ids, generator.tree, config.beams, job.device, normalise="children")

    if config.trained_in is None:
        look = replace(recommender, beams=20)  # narrower than in use: the choice among checkpoints is the same, at less than half the time
        train_on_histories(generator, NextCodes(config.smoothing, temperature), look, data, job, tokens=config.tokens,
                           epochs=config.epochs, epoch_steps=config.epoch_steps, patience=config.patience,
                           neighbour_prior=config.neighbour_prior, optimization=config.optimization)
    else:
        generator.load_state_dict(_trained(config, ids, data, job))
        generator.eval()
    if config.alignment.method != "none":
        align(recommender, config.alignment, data, job, vectors=None if content is None else content.numpy())
    return recommender


def _trained(config: Config, ids: SemanticIds, data: Split, job: Job) -> dict[str, Tensor]:
    """Return the generator's weights that training would give, from the run in `trained_in`. Raises `ConfigError` if it is another."""
    folder = Path(str(config.trained_in).replace("{seed}", str(job.seed)))
    run = load_run(folder)
    if not isinstance(run.config, Config):
        raise ConfigError(f"trained_in={folder}: want a run of semid, got one of {run.recipe}; name another folder, or train without it")
    plain = lambda config: asdict(replace(config, **{name: getattr(Config, name) for name in AFTERWARDS}))
    wanted = {**plain(config), "seed": job.seed, "protocol": data.protocol.hash, "data": data.fingerprint}
    got = {**plain(run.config), "seed": run.about["seed"], "protocol": run.split.protocol.hash, "data": run.split.fingerprint}
    if other := [f"{name} {wanted[name]!r}, got {got[name]!r}" for name in wanted if wanted[name] != got[name]]:
        raise ConfigError(f"trained_in={folder}: want a run that differs in fusion and alignment at most, want {'; want '.join(other)}; "
                          "name another folder, or train without it")
    if run.config.alignment.method != "none":
        raise ConfigError(f"trained_in={folder}: want a run without alignment, got one aligned by {run.config.alignment.method}")
    if not np.array_equal(read_codes(folder / "codes.parquet").codes, ids.codes):
        raise ConfigError(f"trained_in={folder}: want the codes that these settings give today, got others; train without it")
    return load_tensors(folder / "generator.safetensors")


def train_on_histories(model: nn.Module, objective: Objective, look: Recommender, data: Split, job: Job, *, tokens: int, epochs: int,
                       epoch_steps: int, patience: int, neighbour_prior: float, optimization: Optimization) -> None:
    """Train on whole histories, with a look at validation every other epoch by what `look` recommends. The rest as in `Config`."""
    batches = SequenceBatches(data.train, max_length=data.protocol.max_history, tokens=tokens, seed=job.seed)
    if neighbour_prior:
        batches = item_knn.neighbour_targets(batches, data, prior=neighbour_prior, seed=job.seed)
    steps, every, patience = pace(batches, epochs=epochs, least=epoch_steps, look_every=2, patience=patience)
    fit(model, objective, batches, steps=steps, optimization=optimization,
        validation=Validation(lambda: measure(look, data, seen=data.protocol.seen), every=every, patience=patience),
        checkpoint=job.checkpoint("generator"), resume=job.resume, log=job.log, stage="generator")


def coder(config: Config, data: Split, job: Job) -> Coder:
    return _coder(config, *with_views(config.text, config.cf_dim, data, job), job)


def _coder(config: Config, catalog: Catalog, views: tuple[str, ...], job: Job) -> Coder:
    views = views_of_codes(views, config.code_views)
    size, levels = config.size or codebook_size(num_different(composed(catalog, views))), config.levels
    policy = {"next_free": next_free, "minimum_cost": minimum_cost}[config.collisions]
    if config.tokenizer == "product":

        def of_digits(ids: SemanticIds, distances: np.ndarray, popularity: np.ndarray) -> SemanticIds:
            """A set of digits, read in their order as a path down a tree: the generator writes one digit after another."""
            return policy(replace(ids, order="sequence"), distances, popularity)

        return Coder(Product(views, digits=levels, size=size), catalog, of_digits)
    if config.tokenizer == "rqvae":
        tokenizer = RQVAE(views, levels=levels, size=size, steps=config.tokenizer_steps, log=job.log,
                          checkpoint=job.checkpoint("tokenizer"))
        return Coder(tokenizer, catalog, policy)
    return Coder(ResidualKMeans(views, levels=levels, size=size), catalog, policy)


def codebook_size(count: int) -> int:
    """Return 256, or fewer where `count` different vectors could not fill them: a power of two, at least 4."""
    return min(256, 1 << max(2, int(np.log2(max(4, count / 8)))))


def dropout_for(data: Split) -> float:
    """A sparse log is learnt by heart in a few epochs, a dense one never is (Beauty has 13 training events an item, ML-1M 289)."""
    return 0.2 if int(data.train.counts.sum()) > DENSE * len(data.catalog) else 0.5


def build(config: Config, ids: SemanticIds, max_length: int, start: Tensor | None, content: Tensor | None,
          dropout: float = 0.0, has_times: bool = True) -> TwoLevel:
    temporal = None
    if config.temporal == "hstu":
        if config.width % config.heads:
            raise ConfigError(f"semid: want a width that {config.heads} heads divide, got {config.width}")
        temporal = HSTU(config.width, layers=config.layers, heads=config.heads, head_width=config.width // config.heads, dropout=dropout,
                        max_length=max_length + SLACK, has_time_bias=has_times)
    return TwoLevel(ids, width=config.width, layers=config.layers, heads=config.heads, feedforward=config.feedforward,
                    dropout=dropout, max_length=max_length, start=start, content=content, temporal=temporal,
                    has_time_gaps=config.has_time_gaps, has_request_gap=config.has_request_gap,
                    has_node_vectors=config.has_node_vectors)


def content_of(catalog: Catalog, views: tuple[str, ...]) -> Tensor:
    """Return float32 [N, F]: the unit rows of the views side by side."""
    return torch.from_numpy(composed(catalog, views))


def initial_vectors(catalog: Catalog, views: tuple[str, ...], width: int) -> Tensor:
    """Return float32 [N, width]: the views' principal components side by side, spread .05; what no view fills is zero."""
    start = np.zeros((len(catalog), width), np.float32)
    share = width // len(views)
    for place, name in enumerate(views):
        vectors = unit(catalog.view(name))
        rank = min(share, *vectors.shape)
        _, _, axes = np.linalg.svd(np.atleast_2d(np.cov(vectors, rowvar=False)), hermitian=True)
        parts = (vectors - vectors.mean(0)) @ axes[:rank].T
        start[:, place * share : place * share + rank] = 0.05 * parts / max(float(parts.std()), 1e-9)
    return torch.from_numpy(start)


def choose_weights(first: CodeRecommender, voices: dict[str, ItemRecommender], data: Split, job: Job, *, by_day: bool = True) -> Fusion:
    """Pick the pooling weights, tenths that sum to 1, by validation NDCG@10 under the seen rule that the data call for.

    by_day: where events have times, requests within a day of the last event have weights of their own, and so have later ones; each of
    `FEWEST` cases at least, else those of all cases.
    """
    by_day = by_day and data.train.time_unit == "seconds"
    seen = resolve_seen("auto", data.train)
    cases = sample(data.valid)
    tried = torch.tensor([(10 - sum(others), *others) for others in itertools.product(range(11), repeat=len(voices))
                          if sum(others) <= 10]) / 10  # [W, P]
    fusion = Fusion(first, voices, ())
    gains, later = torch.zeros(len(tried), len(cases)), torch.zeros(len(cases), dtype=torch.bool)
    for rows, batch in case_batches(data, cases):
        later[rows] = is_later(batch) & by_day
        item, parts = fusion.candidates(batch, allowed=None, seen=seen, depth=first.beams)
        target = torch.from_numpy(cases.target[cases.target_offsets[rows]].astype(np.int64))
        for place, weights in enumerate(tried):
            score = pool(parts, weights[None]).masked_fill(item < 0, -torch.inf)
            true = score.masked_fill(item != target[:, None], -torch.inf).amax(1, keepdim=True)
            ahead = (score > true) | ((score == true) & (item >= 0) & (item < target[:, None]))  # ties to the lower row, as in lists
            rank = ahead.sum(1)
            gains[place, rows] = torch.where((rank < 10) & torch.isfinite(true.squeeze(1)), 1 / torch.log2(rank + 2.0), 0.0)
    best = []
    for name, is_asked in (("same day", ~later), ("later", later)) if by_day else (("any day", ~later),):
        worth = gains[:, is_asked if int(is_asked.sum()) >= FEWEST else slice(None)].mean(1)
        best.append(tuple(round(weight, 1) for weight in tried[int(worth.argmax())].tolist()))
        job.log.write("fusion", note=f"weights chosen on validation, {name}", cases=int(is_asked.sum()), seen=seen,
                      chosen=dict(zip(("generator", *voices), best[-1], strict=True)),
                      tried={" ".join(f"{weight:.1f}" for weight in weights): round(value, 5)
                             for weights, value in zip(tried.tolist(), worth.tolist(), strict=True)})
    return replace(fusion, weights=best[0], later=best[1] if by_day else None)


def newcomers(config: Config, catalog: Catalog, folder: Path) -> Newcomers | None:
    """New items: the same text vectors, the behaviour of their neighbours, and the nearest free code."""
    tokenizer = {"rkmeans": ResidualKMeans, "rqvae": RQVAE, "product": Product}[config.tokenizer]
    return newcomers_of(tokenizer.load(folder / "tokenizer.safetensors"), config, catalog, folder)


def newcomers_of(tokenizer: Tokenizer, config: Config, catalog: Catalog, folder: Path) -> Newcomers | None:
    """The same for any tokenizer of the same views; None with HSTU, which takes no new items, and where the generator reads no content, and
    so kept none."""
    if config.temporal == "hstu":
        return None
    if (kept := load_tensors(folder / "generator.safetensors").get("input.content")) is None:
        return None
    content = kept.numpy()
    width, behaviour = content.shape[1], min(config.cf_dim, len(catalog))
    return Newcomers(tokenizer, VIEWS if width > behaviour else ("cf",), width, text=config.text, behaviour={"cf": behaviour},
                     free=nearest_free_code, known=catalog, kept=content)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender | Fusion:
    ids = read_codes(folder / "codes.parquet")
    weights = load_tensors(folder / "generator.safetensors")
    start = torch.empty(len(ids), config.width) if config.has_item_ids else None
    config = replace(config, has_time_gaps="gap.weight" in weights, has_request_gap="wait.weight" in weights)
    longest = len(weights["temporal.position.weight"]) - (SLACK if config.temporal == "hstu" else 0)
    generator = build(config, ids, longest, start, weights.get("input.content"), has_times="temporal.blocks.0.clock" in weights)
    generator.load_state_dict(weights)
    recommender = CodeRecommender(generator.eval(), ids, generator.tree, config.beams, normalise="children")
    if not config.fusion:
        return recommender
    return Fusion.load(folder, recommender, lambda name, file: _load_voice(name, file, config, catalog), config.voices)


def _load_voice(name: str, file: Path, config: Config, catalog: Catalog) -> ItemRecommender:
    weights = load_tensors(file)
    if name == "item_knn":
        return ItemRecommender(item_knn.ItemKNN(**weights), item_knn.SCALE)
    if name == "recent":
        return ItemRecommender(RecentPopularity(**weights), popularity.SCALE)
    shares = Shares(sasrec.build(config.sasrec, len(catalog), len(weights["scorer.temporal.position.weight"])), len(catalog))
    shares.load_state_dict(weights)
    return ItemRecommender(shares.eval(), SHARES)
