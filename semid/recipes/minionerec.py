"""MiniOneRec: a language model that writes semantic ids, tuned on tasks that tie them to titles, then aligned by rewarded beams.

Source: "MiniOneRec: An Open-Source Framework for Scaling Generative Recommendation", 2025, arXiv 2510.24431, and the settings of its code.
Status: paper's stages and defaults, for any causal model of transformers by name or folder; the defaults want a GPU, `minionerec:small`
(a small random network that reads and writes codes alone, without rewards) none. `minionerec:sft` stops before rewards,
`minionerec:no_alignment` drops the tasks with titles from both stages, `minionerec:rule` the rank reward, `minionerec:scratch` starts
from a small random network and keeps the rest; `minionerec:lora` trains adapters and the vectors of new tokens.
Deviations: (1) the text encoder is the one at hand (the paper: a Qwen embedding model), and the tokenizer is `tokenizers.rqvae` with its
batches, weight decay and 3,000 updates (10,000 epochs of the whole catalogue); (2) items that Sinkhorn's repair leaves together get the
nearest free last codes, so that every item has its own; (3) new tokens start at the mean of their items' titles (`initial_rows`; the
paper: at random); (4) the kept weights are those of the best NDCG@10 on validation (the paper: of the lowest loss); (5) in rollouts
titles stand for descriptions too; (6) the reference is set anew only with alignment.rounds; (7) the collaborative reward
(`minionerec:collaborative`) is item-kNN's score (the paper: a SASRec's); (8) instructions in our own words, and the deviations of
`generators.language_model`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from semid import fine_tuning
from semid.alignment import Alignment, align, check
from semid.coding import Coder, made_once
from semid.config import ReadWhere
from semid.data.tasks import TaskBatches
from semid.fine_tuning import NEW, SMALL, FineTuning, opened, prepared, titles_of, tuned
from semid.generators.backbone import Shape
from semid.generators.language_model import initial_rows
from semid.generators.prompts import TASKS, Prompts, title_tokens
from semid.newcomers import Newcomers
from semid.recipes.letter import repaired
from semid.recipes.tiger import with_content
from semid.recommenders import CodeRecommender
from semid.tokenizers.collisions import nearest_free_code
from semid.tokenizers.rqvae import RQVAE
from semid.training.fit import Optimization
from semid.training.job import Job
from semid.types import Catalog, Split

VARIANTS: dict[str, dict[str, object]] = {
    "small": {**SMALL, "has_title_tasks": False},
    "sft": {"alignment.method": "none"},
    "no_alignment": {"has_title_tasks": False},
    "rule": {"alignment.rewards": ("rule",)},
    "collaborative": {"alignment.rewards": ("rule", "rank", "collaborative")},
    "semantic": {"alignment.rewards": ("semantic",)},
    "scratch": {"tuning.model": "new"},
    "lora": {"tuning.trained": "lora"},
}
REWARDED = Alignment(method="grpo", steps=1500, optimization=Optimization(learning_rate=1e-5, beta2=0.999, weight_decay=0.0, warmup=45,
                                                                          final=0.0, clip=0.3))
"""GRPO over 16 beams, 64 prompts a step; 1,500 steps are two passes over the paper's prompts."""

SAMPLED = 10_000
"""Histories in titles among the prompts of the rewarded stage."""


@dataclass(frozen=True)
class Config:
    """view: the content view that is tokenized. codes: published codes in place of the tokenizer, a column of the items table or a file
    X.index.json. hidden: widths of RQ-VAE's encoder; tokenizer_steps: its updates. has_title_tasks: tasks that tie codes to titles, in
    both stages. tuning: the language model and how it is tuned; alignment: the rewarded stage after that.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("codes", None): ("levels", "size", "latent", "hidden", "tokenizer_steps")}

    text: str = "auto"
    view: str = "text"
    codes: str | None = None
    levels: int = 3
    size: int = 256
    latent: int = 32
    hidden: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)
    tokenizer_steps: int = 3000
    has_title_tasks: bool = True
    tuning: FineTuning = FineTuning()
    alignment: Alignment = REWARDED


def smoke() -> Config:
    tuning = FineTuning(model=NEW, shape=Shape(layers=2, width=64, heads=2, key_heads=1, feedforward=128, words=500), max_history=2,
                        max_tokens=256, batch_size=64, epochs=4, beams=20, optimization=Optimization(learning_rate=5e-3, warmup=10))
    return Config(size=8, latent=8, hidden=(32, 16), tokenizer_steps=200, has_title_tasks=False, tuning=tuning,
                  alignment=Alignment())


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    check(config.alignment, data)
    torch.manual_seed(job.seed)
    tuning = config.tuning
    titles = titles_of(data.catalog, "minionerec") if config.has_title_tasks else data.catalog.titles
    # a model that isn't there, or settings that don't fit it, show before minutes go into codes
    backbone, tokenizer = opened(tuning, titles, TASKS)
    tokens = title_tokens(tokenizer, titles, tuning.title_tokens)
    prompts = Prompts.of(TASKS, tokenizer, limit=tuning.max_tokens, titles=tokens)
    if config.has_title_tasks:
        prompts.check_room(max(map(len, tokens)))
    if config.codes is None:
        prompts.check_room(config.levels, tuning.max_history)
    ids = made_once(config.codes, lambda: coder(config, data, job).codes(data, job), data, job)
    vectors = [backbone.text_vectors] if backbone.head is None else [backbone.text_vectors, backbone.head]
    start = torch.stack([initial_rows(each, tokens, ids) for each in vectors])
    generator = prepared(tuning, backbone, ids, prompts, job, start=start)
    recommender = tuned(tuning, generator, ids, batches(config, data, job, tuning.batch_size), data, job)
    if config.alignment.method != "none":
        catalog = with_content(data.catalog, config.view, config.text, job) if "semantic" in config.alignment.rewards else None
        align(recommender, config.alignment, data, job, vectors=None if catalog is None else catalog.view(config.view),
              targets=batches(config, data, job, config.alignment.batch_size, is_rewarded=True))
    return recommender


def batches(config: Config, data: Split, job: Job, batch_size: int, *, is_rewarded: bool = False) -> TaskBatches:
    """Return the rows of all tasks, or of those that write codes and are rewarded."""
    chosen = [number for number, task in enumerate(TASKS)
              if number == 0 or (config.has_title_tasks and (task.writes == "codes" or not is_rewarded))]
    histories = {number: SAMPLED if is_rewarded and number else None for number in chosen if TASKS[number].is_history}
    items = [number for number in chosen if not TASKS[number].is_history]
    return TaskBatches(data.train, histories=histories, items=items, num_items=len(data.catalog), max_length=config.tuning.max_history,
                       batch_size=batch_size, seed=job.seed + is_rewarded)


def coder(config: Config, data: Split, job: Job) -> Coder:
    catalog = with_content(data.catalog, config.view, config.text, job)
    tokenizer = RQVAE(config.view, levels=config.levels, size=config.size, hidden=config.hidden, latent=config.latent,
                      steps=config.tokenizer_steps, log=job.log, checkpoint=job.checkpoint("tokenizer"))
    return Coder(tokenizer, catalog, repaired)


def newcomers(config: Config, catalog: Catalog, folder: Path) -> Newcomers:
    """New items: the same text vectors and tokenizer, and the nearest free last code."""
    return Newcomers.of_text(RQVAE.load(folder / "tokenizer.safetensors"), config.view, config.text, nearest_free_code, catalog)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    return fine_tuning.load(config.tuning, folder)
