"""OneRec: balanced codes, an encoder-decoder with a mixture of experts that writes whole sessions, aligned with a reward model.

Source: Deng et al., "OneRec: Unifying Retrieve and Rank with Generative Recommender and Iterative Preference Alignment", 2025, arXiv
2502.18965. Status: paper's shape and losses at sizes for public data; `onerec:small` is for machines without a GPU.
What is new there: balanced residual k-means; sessions in place of single items; sparse experts in the decoder; pairs for DPO from the
model's own beams, best against worst by a reward model, over rounds. Ablations: `onerec:plain` (k-means), `onerec:greedy` (the paper's own
way to balance), `onerec:item_wise` (sessions of one item), `onerec:no_moe`, `onerec:no_balance_loss`, `onerec:no_ipa`, `onerec:dpo` (one
round), `onerec:ntp_only` (the rounds' steps without a pair).
A trained model writes a slate: `recommender.slate(histories)`. Single items, which tables compare, are those that may come first.
Deviations: (1) a session is the next five events, as public logs don't say what a request showed; (2) of the reward's four labels (watch
time, view-through, follow, like) there is "taken", against sessions of others, and where events have values "valued"; (3) codes are
balanced at the least cost, not greedily, and items with equal codes take the next free ones; (4) a level's softmax covers its own codes,
beams walk the code tree, and no item stands in a session twice; (5) experts, balance loss and DPO's settings that the paper doesn't print
are Switch Transformer's and DPO's; (6) AdamW, early stopping on validation; (7) every session is a target, unless `bad_share` leaves out
those of low value: what makes a session good is a shop's own. A second reward model that alignment never sees judges its sessions too,
and weights are kept only if held-out NDCG@10 of single items doesn't fall.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor

from semid.alignment import judged, want_judges
from semid.coding import Coder, made_once
from semid.config import ReadWhere
from semid.data.batch import SessionBatches, case_batches
from semid.decoding.session import session_search
from semid.errors import ConfigError
from semid.evaluation.evaluate import resolve_seen
from semid.generators.session import SessionGenerator
from semid.nn.dropout import without_dropout
from semid.nn.moe import said_of_load
from semid.objectives.paths import frozen
from semid.objectives.session import NextSession, SessionPreference
from semid.objectives.session_feedback import SessionFeedback
from semid.recipes.tiger import fit_generator, with_content
from semid.recommenders import CodeRecommender, listed, load_tensors, read_codes
from semid.scorers.session_reward import SessionReward
from semid.tokenizers.balanced_kmeans import BalancedKMeans
from semid.tokenizers.collisions import next_free
from semid.tokenizers.residual_kmeans import ResidualKMeans
from semid.training.fit import Optimization, Validation, fit
from semid.training.job import Job
from semid.training.session_pairs import SessionPairs
from semid.tree import CodeTree
from semid.types import Batch, Catalog, Recommendations, SemanticIds, Split
from semid.validation import measure, sample

SMALL = Optimization(learning_rate=2e-3, warmup=100)
VARIANTS: dict[str, dict[str, object]] = {
    "small": {"batch_size": 128, "steps": 1500, "look_every": 250, "experts": 8, "ipa.steps": 150, "ipa.look_every": 50, "ipa.group": 16,
              "ipa.reward_steps": 500, "ipa.ratio": 0.05, "optimization": SMALL},
    "plain": {"tokenizer": "plain"},
    "greedy": {"tokenizer": "greedy"},
    "item_wise": {"session": 1},
    "no_moe": {"experts": 0},
    "no_balance_loss": {"balance": 0.0},
    "no_ipa": {"ipa.rounds": 0},
    "dpo": {"ipa.rounds": 1},
    "ntp_only": {"ipa.ratio": 0.0},
}
JUDGED = 512
"""Validation cases whose sessions are judged by both reward models before and after alignment."""


@dataclass(frozen=True)
class IPA:
    """Iterative preference alignment. rounds: how often the reference is set to the policy of then; 0 = none. ratio: share of the training
    rows that get a pair; group: sessions the model writes for one, each extended by its `width` best items. gap: rewards of a pair differ
    by more, in standard deviations of a tower. beta: of the DPO loss; weight: of it beside the sum of the next-token loss over a session.
    steps, look_every: of a round. reward_steps: training of each reward model. towers: weights of the reward's towers, "taken" and
    "valued".
    """

    rounds: int = 2
    ratio: float = 0.01
    group: int = 128
    width: int = 8
    gap: float = 0.5
    beta: float = 0.1
    weight: float = 1.0
    steps: int = 2000
    look_every: int = 500
    reward_steps: int = 2000
    towers: tuple[float, float] = (1.0, 1.0)
    optimization: Optimization = Optimization(learning_rate=1e-4, warmup=20, weight_decay=0.0, clip=1.0)

    def __post_init__(self):
        if self.group < 2:
            raise ConfigError(f"onerec.ipa.group: want two sessions at least, a best and a worst, got {self.group}")
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"onerec.ipa.ratio: want a share in [0, 1], got {self.ratio}")


@dataclass(frozen=True)
class Config:
    """text, view, codes: as for tiger. tokenizer: balanced (least cost), greedy (the paper's) or plain residual k-means. levels, size: the
    codes (the paper: 8192 a level). layers: of encoder and decoder each. experts, active, balance: see `nn.moe`; each has a hidden layer
    of `feedforward`. session: items of one. is_whole: leave out shorter ones. bad_share: sessions whose mean value is below this quantile
    of all values are no targets, where events have values. look_every, patience, beams: as for tiger.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("codes", None): ("tokenizer", "levels", "size")}

    text: str = "auto"
    view: str = "text"
    codes: str | None = None
    tokenizer: Literal["balanced", "greedy", "plain"] = "balanced"
    levels: int = 3
    size: int = 256
    width: int = 128
    heads: int = 4
    head_width: int = 32
    layers: int = 2
    feedforward: int = 256
    experts: int = 24
    active: int = 2
    balance: float = 0.01
    dropout: float = 0.1
    max_history: int = 50
    session: int = 5
    is_whole: bool = False
    bad_share: float = 0.0
    batch_size: int = 256
    steps: int = 100_000
    look_every: int = 2000
    patience: int = 10
    beams: int = 50
    ipa: IPA = IPA()
    optimization: Optimization = Optimization(learning_rate=2e-4, beta2=0.999, weight_decay=0.0, schedule="constant", warmup=1000)


def smoke() -> Config:
    return Config(size=8, width=32, heads=2, head_width=16, layers=1, feedforward=32, experts=4, dropout=0.0, max_history=8, session=2,
                  batch_size=64, steps=250, look_every=125, beams=20, optimization=Optimization(learning_rate=5e-3, warmup=20),
                  ipa=IPA(rounds=1, ratio=0.1, group=8, width=4, steps=10, look_every=10, reward_steps=30))


@dataclass(frozen=True)
class SessionRecommender(CodeRecommender):
    """A `CodeRecommender` that also writes slates. items: of a session; session_beams, session_width: see `session_search`."""

    items: int = 5
    session_beams: int = 16
    session_width: int = 8

    @torch.no_grad()
    def sessions(self, histories: Batch, *, allowed: np.ndarray | None = None, seen: str = "keep") -> Tensor:
        """Return int64 [B, K, P]: the K = `session_beams` best sessions, best first; -1 where the catalogue gave out."""
        return self._search(histories, allowed, seen).item

    def slate(self, histories: Batch, *, allowed: np.ndarray | None = None, seen: str = "keep") -> Recommendations:
        """Return the best session of each history: its items in order, none twice; scores are log p of the session up to each."""
        found = self._search(histories, allowed, seen)
        return listed(histories, found.item[:, 0], found.logp[:, 0], "log probability of the session")

    @torch.no_grad()
    def _search(self, histories: Batch, allowed: np.ndarray | None, seen: str):
        batch = self.read(histories)
        return session_search(self.generator, batch, self.tree, items=self.items, beams=self.session_beams, width=self.session_width,
                              constraint=None if allowed is None else self.tree.allow(allowed),
                              seen=batch.seen if seen == "remove" else None, normalise=self.normalise)


def run(config: Config, data: Split, job: Job) -> SessionRecommender:
    if config.ipa.rounds:
        want_judges(data)
        if len(_with_sessions(config, data)) < 2:
            raise ConfigError("onerec.ipa: want two users at least with sessions, one for each reward model; set ipa.rounds=0")
    torch.manual_seed(job.seed)
    ids = made_once(config.codes, lambda: coder(config, data, job).codes(data, job), data, job)
    generator = build(config, ids).to(job.device)
    recommender = finished(config, generator, ids, job.device)
    batches = sessions_of(config, data, job.seed)
    fit_generator(recommender, NextSession(config.balance), batches, data, job, steps=config.steps, optimization=config.optimization,
                  look_every=config.look_every, patience=config.patience)
    report_experts(generator, batches.at(0), job)
    if config.ipa.rounds:
        align_sessions(recommender, config, data, job)
        report_experts(generator, batches.at(0), job)
    return recommender


def coder(config: Config, data: Split, job: Job) -> Coder:
    catalog = with_content(data.catalog, config.view, config.text, job)
    if config.tokenizer == "plain":
        return Coder(ResidualKMeans(config.view, levels=config.levels, size=config.size), catalog, next_free)
    tokenizer = BalancedKMeans(config.view, levels=config.levels, size=config.size, is_exact=config.tokenizer == "balanced")
    return Coder(tokenizer, catalog, next_free)


def sessions_of(config: Config, data: Split, seed: int) -> SessionBatches:
    least = None
    if config.bad_share:
        if data.train.value is None:
            raise ConfigError("onerec.bad_share: leaves out sessions of low value, but these events have no values; set it to 0")
        least = float(np.quantile(data.train.value, config.bad_share))
    return SessionBatches(data.train, max_length=config.max_history, items=config.session, batch_size=config.batch_size, seed=seed,
                          is_whole=config.is_whole, least_value=least)


def build(config: Config, ids: SemanticIds) -> SessionGenerator:
    return SessionGenerator(ids, width=config.width, heads=config.heads, head_width=config.head_width, encoder_layers=config.layers,
                            decoder_layers=config.layers, feedforward=config.feedforward, dropout=config.dropout, experts=config.experts,
                            active=config.active)


def finished(config: Config, generator: SessionGenerator, ids: SemanticIds, device: str) -> SessionRecommender:
    return SessionRecommender(generator, ids, CodeTree.build(ids).to(device), config.beams, device, config.max_history,
                              items=config.session, session_width=config.ipa.width)


def report_experts(generator: SessionGenerator, batch: Batch, job: Job) -> None:
    """Write to the log how the load of a batch is spread over the experts of each layer, with advice where they collapsed."""
    if not generator.mixtures:
        return
    with without_dropout(generator), torch.no_grad():
        generator.session_logits(batch.to(job.device), batch.extra["session"][:, None].to(job.device))
        loads = [mixture.routing.load for mixture in generator.mixtures if mixture.routing is not None]
    for layer, load in enumerate(loads, start=1):
        job.log.write("experts", note=f"decoder layer {layer}: {said_of_load(load)}", layer=layer,
                      load=[round(part, 4) for part in load.tolist()])


def align_sessions(recommender: SessionRecommender, config: Config, data: Split, job: Job) -> None:
    """Rounds of DPO on the generator's own sessions, in place; kept only if held-out cases don't fall (`alignment.judged`).

    The reward model learns from every second user, the one that judges afterwards from the others.
    """
    ipa, generator = config.ipa, recommender.generator
    seen = resolve_seen("auto", data.train)
    reward, judge = (train_reward(config, data, job, half) for half in (0, 1))
    weights = torch.tensor(ipa.towers[: len(reward.towers)], device=job.device)
    batches = sessions_of(config, data, job.seed + 1)
    say = lambda when: job.log.write("sessions", note=f"{when} alignment", **judgement(recommender, (reward, judge), data, seen))
    say("before")
    with judged(recommender, data, job) as looks:
        for turn in range(ipa.rounds):
            reference = frozen(generator)  # M_t, which writes the sessions of the round too
            writing = replace(recommender, generator=reference, session_beams=ipa.group)
            pairs = SessionPairs(batches, partial(writing.sessions, seen=seen), partial(reward.reward, weights=weights),
                                 items=config.session, ratio=ipa.ratio, gap=ipa.gap, seed=job.seed, device=job.device)
            objective = SessionPreference(reference, NextSession(config.balance), ipa.beta, ipa.weight / config.session)
            fit(generator, objective, pairs, steps=ipa.steps, optimization=ipa.optimization,
                validation=Validation(lambda: measure(recommender, looks, seen=data.protocol.seen, limit=2000), every=ipa.look_every),
                checkpoint=job.checkpoint(f"alignment-{turn}"), resume=job.resume, log=job.log, stage=f"ipa round {turn + 1}")
        say("after")


def _with_sessions(config: Config, data: Split) -> np.ndarray:
    """Rows of the users whose training events hold an item to read and a session after it."""
    least = 1 + (config.session if config.is_whole else 1)
    return np.flatnonzero(np.diff(data.train.offsets) >= least)


def train_reward(config: Config, data: Split, job: Job, half: int) -> SessionReward:
    """Train a reward model on every second user of those who have sessions."""
    own = replace(data, train=data.train.take(np.isin(data.train.user, _with_sessions(config, data)[half::2])))
    values = data.train.value
    median = None if values is None or not np.ptp(values) else float(np.median(values))
    model = SessionReward(len(data.catalog), towers=1 + (median is not None)).to(job.device)
    name = ("reward", "judge")[half]
    batches = sessions_of(replace(config, bad_share=0.0), own, job.seed + 2 + half)
    fit(model, SessionFeedback(median), batches, steps=config.ipa.reward_steps, log=job.log, stage=name,
        optimization=Optimization(learning_rate=1e-3, warmup=100), checkpoint=job.checkpoint(name), resume=job.resume)
    return model


def judgement(recommender: SessionRecommender, models: tuple[SessionReward, SessionReward], data: Split, seen: Any) -> dict[str, float]:
    """Return what is said of the slates of validation cases: the mean probabilities of the towers, by the reward model that alignment
    follows and by the one it never sees, and the share of slates that hold the item taken next."""
    cases = sample(data.valid, JUDGED)
    total: dict[str, float] = {}
    for rows, batch in case_batches(data, cases):
        slate = torch.from_numpy(recommender.slate(batch, seen=seen).item.astype(np.int64))
        target = torch.from_numpy(cases.target[cases.target_offsets[rows]].astype(np.int64))
        found = {"hit": (slate == target[:, None]).any(1).float().sum()}
        known = recommender.read(batch)
        for name, model in zip(("reward", "judge"), models, strict=True):
            value = model.probabilities(known, slate[:, None].to(known.item.device))[:, 0].sum(0)
            found |= {f"{name}_{tower}": part for tower, part in zip(("taken", "valued"), value, strict=False)}
        for name, part in found.items():
            total[name] = total.get(name, 0.0) + float(part)
    return {name: round(value / max(1, len(cases)), 4) for name, value in total.items()}


def load(config: Config, catalog: Catalog, folder: Path) -> SessionRecommender:
    ids = read_codes(folder / "codes.parquet")
    generator = build(config, ids)
    generator.load_state_dict(load_tensors(folder / "generator.safetensors"))
    return finished(config, cast("SessionGenerator", generator.eval()), ids, "cpu")
