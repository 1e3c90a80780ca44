"""ReRe: a language model that writes item titles, aligned by the rewards of its own constrained beams, ranks of misses included.

Source: "Reinforced Preference Optimization for Recommendation", 2025, arXiv 2510.12211, and the settings of its code. Status: paper's
stages and defaults, for any causal model of transformers by name or folder; the defaults want a GPU, `rere:small` (a small random
network, without rewards) none. `rere:sft` stops before rewards (BIGRec), `rere:no_rank` rewards hits alone, `rere:adds_target` puts the
target into groups that miss it, `rere:sampled` draws groups from the policy (plain GRPO), `rere:dpo` and `rere:sdpo` learn from pairs
alone; `rere:scratch` starts from a small random network and keeps the rest, `rere:lora` trains adapters. With semantic ids in the place
of titles it is `minionerec:no_alignment`.
Deviations: (1) a title ends with the end-of-text token (the paper: a quote and a line break before it); (2) the negatives of the pairs are
the model's own beams; (3) the best look at validation is kept; (4) the reference is set anew only with alignment.rounds;
(5) the collaborative reward (`rere:collaborative`) is item-kNN's score (the paper: a SASRec's); (6) instructions in our own words, and
the deviations of `generators.language_model`. The beams are no draws from the policy: what is learnt is a
ranking of the top of the list, not a policy gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from semid import fine_tuning
from semid.alignment import SDPO, Alignment, align, check
from semid.coding import made_once
from semid.data.tasks import TaskBatches
from semid.encoders.content import with_text_view
from semid.fine_tuning import NEW, SMALL, FineTuning, opened, prepared, titles_of, tuned
from semid.generators.backbone import Shape
from semid.generators.language_model import title_codes
from semid.generators.prompts import NEXT_TITLE, Prompts, title_tokens
from semid.recipes.minionerec import REWARDED
from semid.recommenders import CodeRecommender
from semid.training.fit import Optimization
from semid.training.job import Job
from semid.types import Catalog, Split

VARIANTS: dict[str, dict[str, object]] = {
    "small": {**SMALL},
    "sft": {"alignment.method": "none"},
    "no_rank": {"alignment.rewards": ("rule",)},
    "sampled": {"alignment.rewards": ("rule",), "alignment.is_sampled": True},
    "adds_target": {"alignment.adds_target": True},
    "collaborative": {"alignment.rewards": ("rule", "rank", "collaborative")},
    "semantic": {"alignment.rewards": ("semantic",)},
    "dpo": {"alignment.method": "dpo", "alignment.supervised": False},
    "sdpo": {**SDPO},
    "scratch": {"tuning.model": "new"},
    "lora": {"tuning.trained": "lora"},
}


@dataclass(frozen=True)
class Config:
    """text: which text vectors the semantic reward compares, see `with_text_view`. tuning: the language model and how it is tuned;
    alignment: the rewarded stage after that."""

    text: str = "auto"
    tuning: FineTuning = FineTuning()
    alignment: Alignment = replace(REWARDED, batch_size=8, optimization=replace(REWARDED.optimization, accumulate=8))


def smoke() -> Config:
    tuning = FineTuning(model=NEW, shape=Shape(layers=2, width=64, heads=2, key_heads=1, feedforward=128, words=500), max_history=2,
                        max_tokens=256, batch_size=64, epochs=4, beams=20, optimization=Optimization(learning_rate=5e-3, warmup=10))
    return Config(tuning=tuning, alignment=Alignment())


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    check(config.alignment, data)
    torch.manual_seed(job.seed)
    tuning, titles = config.tuning, titles_of(data.catalog, "rere")
    backbone, tokenizer = opened(tuning, titles, NEXT_TITLE)
    prompts = Prompts.of(NEXT_TITLE, tokenizer, limit=tuning.max_tokens)
    spelled, alphabet = title_codes(title_tokens(tokenizer, titles, tuning.title_tokens), prompts.end, "titles, token by token")
    ids = made_once(None, lambda: spelled, data, job)
    generator = prepared(tuning, backbone, ids, prompts, job, alphabet=torch.from_numpy(alphabet))
    targets = lambda size, seed: TaskBatches(data.train, histories={0: None}, items=(), num_items=len(data.catalog),
                                             max_length=tuning.max_history, batch_size=size, seed=seed)
    recommender = tuned(tuning, generator, ids, targets(tuning.batch_size, job.seed), data, job)
    if config.alignment.method != "none":
        vectors = None
        if "semantic" in config.alignment.rewards:
            vectors = with_text_view(data.catalog, config.text, log=job.log, device=job.device).view("text")
        align(recommender, config.alignment, data, job, vectors=vectors, targets=targets(config.alignment.batch_size, job.seed + 1))
    return recommender


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    return fine_tuning.load(config.tuning, folder)
