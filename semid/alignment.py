"""Post-training of a generator that was trained on what users took: DPO or GRPO on its own beams, kept only if it pays.

A stage of recipes with codes. The validation cases are halved: one half picks among looks during alignment, the other decides on
the promotion, so that the decision isn't the one that the looks were chosen by. The collaborative reward is tuned on the first half too.
The weights from before alignment were chosen on both halves, which makes the deciding half a little kinder to them than to the new ones.
Axes: B cases or rows, G items of a group, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from semid.config import ReadWhere
from semid.data.batch import TargetBatches
from semid.decoding.beam import beam_search
from semid.decoding.sample import sample
from semid.errors import ConfigError
from semid.evaluation.evaluate import Seen, resolve_seen
from semid.evaluation.statistics import bootstrap
from semid.files import write_json
from semid.nn.dropout import without_dropout
from semid.objectives.next_codes import NextCodes
from semid.objectives.paths import frozen
from semid.objectives.policy import GRPO
from semid.objectives.preference import Preference
from semid.protocols import Batches
from semid.recipes import item_knn
from semid.recommenders import CodeRecommender, ItemRecommender
from semid.training.fit import Optimization, Validation, fit
from semid.training.job import Job
from semid.training.rollouts import Collaborative, Pairs, Reward, RewardedPairs, Rollouts, Semantic, Sum, rank, rule
from semid.types import Batch, Split
from semid.validation import measure, ndcg_by_case

METHODS = ("dpo", "ipa", "grpo")
SDPO: dict[str, object] = {"alignment.method": "dpo", "alignment.negatives": 15, "alignment.supervised": False}
"""Settings of a variant: S-DPO (arXiv 2406.09215), several misses against the target and no other loss."""
DDRO: dict[str, object] = {
    "alignment.method": "dpo", "alignment.beta": 0.4, "alignment.supervised": False, "alignment.steps": 4000, "alignment.look_every": 500,
    "alignment.optimization": Optimization(learning_rate=1e-6, beta2=0.999, warmup=1000, weight_decay=0.0, final=0.0, clip=0.5)}
"""Settings of a variant: DDRO's pairwise stage (arXiv 2504.05181) as its code sets it; 4,000 steps of 64 are its two passes on Amazon
Beauty. Its misses are drawn from BM25's best, here they are the model's own beams; it stops at the first look that is no better, here all
steps are taken and the best look is kept."""


@dataclass(frozen=True)
class Alignment:
    """method: none; dpo, the target against `negatives` misses of the model's own beams (several are S-DPO, see `SDPO` and `DDRO`); ipa,
    best against worst beam by reward (OneRec); grpo, groups of `group` beams by reward (ReRe, MiniOneRec).

    rewards: added up, see `training.rollouts`; collaborative is what item-kNN says of an item (MiniOneRec and ReRe: a SASRec). beta: of
    the loss; None takes .1 for pairs, .001 for groups. supervised: keep the cross-entropy of the codes in the sum of a loss over pairs,
    plain: without a recipe's smoothing or temperature.
    adds_target: to groups that miss it. rounds: how often the reference is set to the policy of then; steps and the learning-rate
    schedule are those of a round. is_sampled: groups are draws from the policy, with repetitions, and not its best beams: plain GRPO.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("method", "dpo"): ("negatives",), ("method", "dpo", "ipa"): ("supervised",), ("method", "grpo"): ("is_sampled",),
        ("method", "ipa", "grpo"): ("rewards", "group", "adds_target"),
        ("method", "dpo", "ipa", "grpo"): ("beta", "rounds", "steps", "batch_size", "look_every", "optimization")}

    method: Literal["none", "dpo", "ipa", "grpo"] = "none"
    rewards: tuple[Literal["rule", "rank", "collaborative", "semantic"], ...] = ("rule", "rank")
    group: int = 16
    negatives: int = 1
    beta: float | None = None
    supervised: bool = True
    adds_target: bool = False
    is_sampled: bool = False
    rounds: int = 1
    steps: int = 400
    batch_size: int = 64
    look_every: int = 100
    optimization: Optimization = Optimization(learning_rate=1e-4, warmup=20, weight_decay=0.0, clip=1.0)


@dataclass(frozen=True)
class Decision:
    """What held-out cases say of a policy: mean NDCG@10 before and after, and the paired bootstrap interval of the difference."""

    before: float
    after: float
    low: float
    high: float
    num_cases: int

    @property
    def is_promoted(self) -> bool:
        return self.low >= 0

    def __str__(self) -> str:
        verdict = "promoted" if self.is_promoted else "not promoted, the supervised weights stay"
        reason = "reaches no lower than" if self.is_promoted else "falls below"
        return (f"{verdict}: NDCG@10 went from {self.before:.4f} to {self.after:.4f} on {self.num_cases:,} held-out cases, and the "
                f"interval of the difference [{self.low:+.4f}, {self.high:+.4f}] {reason} 0")


def align(recommender: CodeRecommender, config: Alignment, data: Split, job: Job, *, vectors: np.ndarray | None = None,
          targets: Batches | None = None) -> CodeRecommender:
    """Train the recommender's generator on in place, and put its weights back unless the new ones are promoted.

    vectors: float [N, D] content of the items, for the semantic reward. targets: batches of histories with one target a row, None = the
    training events. Raises `ConfigError` for settings that cannot work.
    """
    check(config, data)
    torch.manual_seed(job.seed)  # the same draws, whether the generator was trained just now or read from a run
    generator = recommender.generator
    with judged(recommender, data, job) as looks:
        batches = _batches(recommender, config, looks, job, resolve_seen("auto", data.train), vectors, targets)
        for turn in range(config.rounds):
            reference = frozen(generator)
            if config.method == "grpo":
                objective = GRPO(reference, 1e-3 if config.beta is None else config.beta)
            else:
                objective = Preference(reference, 0.1 if config.beta is None else config.beta, NextCodes() if config.supervised else None)
            stage = config.method if config.rounds == 1 else f"{config.method} round {turn + 1}"
            fit(generator, objective, batches, steps=config.steps, optimization=config.optimization,
                validation=Validation(lambda: measure(recommender, looks, seen=data.protocol.seen), every=config.look_every),
                checkpoint=job.checkpoint(f"alignment-{turn}"), resume=job.resume, log=job.log, stage=stage)
    return recommender


@contextmanager
def judged(recommender: CodeRecommender, data: Split, job: Job) -> Iterator[Split]:
    """Train the recommender's generator inside, with looks at the validation of the data that this yields: half of the cases.

    At the end the other half decides: the weights go back to what they were unless the new ones are promoted (`decide`), and the run
    folder's promotion.json says why.
    """
    want_judges(data)
    generator, supervised = recommender.generator, _copy(recommender.generator)
    looks, held_out = (replace(data, valid=data.valid.take(np.arange(len(data.valid)) % 2 == half)) for half in (0, 1))
    before = ndcg_by_case(recommender, held_out, seen=data.protocol.seen)
    yield looks
    decision = decide(before, ndcg_by_case(recommender, held_out, seen=data.protocol.seen), seed=job.seed)
    if not decision.is_promoted:
        generator.load_state_dict(supervised)
    said = {"note": str(decision), "is_promoted": decision.is_promoted, **asdict(decision)}
    job.log.write("promotion", **said)
    if job.out is not None:
        write_json(job.out / "promotion.json", said)


def want_judges(data: Split) -> None:
    """Raise `ConfigError` where there are no validation cases for both halves."""
    if len(data.valid) < 2:
        raise ConfigError(f"alignment: want validation cases to decide on the promotion, got {len(data.valid)}; choose another split")


def decide(before: np.ndarray, after: np.ndarray, *, seed: int = 0) -> Decision:
    """Compare two policies by float64 [B], a metric of the same cases in the same order: promoted iff the 95 % interval of the
    mean difference doesn't fall below zero."""
    low, high = bootstrap(after - before, seed=seed)
    return Decision(float(before.mean()), float(after.mean()), low, high, len(before))


def proposals(recommender: CodeRecommender, count: int, seen: Seen, *, is_sampled: bool = False) -> Callable[[Batch], Tensor]:
    """Return `batch -> items int64 [B, count]`: the best beams of the recommender's generator as it is when called, or draws from it."""

    def propose(batch: Batch) -> Tensor:
        with without_dropout(recommender.generator):
            if is_sampled:
                return sample(recommender.generator, batch, recommender.tree, draws=count, normalise=recommender.normalise,
                              seen=batch.seen if seen == "remove" else None)
            return beam_search(recommender.generator, batch, recommender.tree, beams=count, normalise=recommender.normalise,
                               seen=batch.seen if seen == "remove" else None).item

    return propose


def _batches(recommender: CodeRecommender, config: Alignment, data: Split, job: Job, seen: Seen, vectors: np.ndarray | None,
             targets: Batches | None) -> Batches:
    if targets is None:
        length = min(data.protocol.max_history, recommender.max_history or data.protocol.max_history)
        # Not the steps that the supervised training began with: another order of the same targets.
        targets = TargetBatches(data.train, max_length=length, batch_size=config.batch_size, seed=job.seed + 1)
    if config.method == "dpo":
        return Pairs(targets, proposals(recommender, config.negatives + 1, seen), recommender.generator.codes,
                     negatives=config.negatives, device=job.device)
    reward = Sum(tuple(_reward(name, data, job, vectors) for name in config.rewards))
    propose = proposals(recommender, config.group, seen, is_sampled=config.is_sampled)
    rollouts = Rollouts(targets, propose, reward, recommender.generator.codes, device=job.device, adds_target=config.adds_target)
    return rollouts if config.method == "grpo" else RewardedPairs(rollouts)


def _reward(name: str, data: Split, job: Job, vectors: np.ndarray | None) -> Reward:
    if name == "collaborative":
        return Collaborative(ItemRecommender(item_knn.tune(item_knn.Config(), data, data.protocol.seen)[0], item_knn.SCALE))
    if name == "semantic":
        if vectors is None:
            raise ConfigError("alignment: the semantic reward compares content vectors, and this run has none; "
                              "give items with text, or take another reward")
        return Semantic(torch.from_numpy(vectors).to(job.device))
    return {"rule": rule, "rank": rank}[name]


def check(config: Alignment, data: Split) -> None:
    """Raise `ConfigError` for settings that cannot work with the data: recipes ask before they train what is aligned afterwards."""
    if config.method == "none":
        return
    if config.method not in METHODS:
        raise ConfigError(f"alignment.method: want one of {METHODS}, got {config.method!r}")
    want_judges(data)
    if config.is_sampled and config.method != "grpo":
        raise ConfigError(f"alignment.is_sampled: want method grpo, whose groups may be drawn, got {config.method!r}")
    if config.is_sampled and "rank" in config.rewards:
        raise ConfigError("alignment.rewards: draws have no ranks for the reward 'rank'; want others with is_sampled")
    if config.method != "dpo" and not config.rewards:
        raise ConfigError(f"alignment.rewards: {config.method} needs one reward at least, got none")
    wanted = config.negatives + 1 if config.method == "dpo" else config.group
    if not 2 <= wanted < len(data.catalog):
        what = "negatives + 1" if config.method == "dpo" else "group"
        raise ConfigError(f"alignment.{what}: want at least 2 and fewer than the {len(data.catalog)} items, got {wanted}")


def _copy(generator: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in generator.state_dict().items()}
