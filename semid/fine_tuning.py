"""A causal language model as recommender: opened by name, tuned on tasks, kept in the run folder, read from there.

A stage of recipes whose generator is `generators.language_model.LanguageModel`.
Axes: N items.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from semid.config import ReadWhere
from semid.errors import ConfigError, DataError, RunError
from semid.files import write_json
from semid.generators.backbone import Backbone, LoRA, Shape, add_adapters, empty_backbone, new_backbone, read_backbone
from semid.generators.language_model import LanguageModel
from semid.generators.prompts import AFTER, BEFORE, Prompts, Task
from semid.nn.precision import autocast
from semid.objectives.responses import Responses
from semid.protocols import Batches, Objective
from semid.recipes.tiger import fit_generator
from semid.recommenders import CodeRecommender, load_tensors, read_codes
from semid.training.fit import Optimization
from semid.training.job import Job
from semid.tree import CodeTree
from semid.types import Batch, Catalog, SemanticIds, Split

FILE, NEW = "language_model.json", "new"


@dataclass(frozen=True)
class FineTuning:
    """model: a causal model of the hub by name, or a folder; "new" for a random one of Qwen2's class, of `shape`, with a tokenizer learnt
    from the titles. trained: all weights; lora, adapters beside frozen weights; or rows, the vectors of new tokens alone, which train in
    any case. dtype: of the network's weights; bfloat16 is for frozen ones.

    max_history: the prompt shows the last so many items. max_tokens: of a prompt with its response; title_tokens: of a title, the rest is
    cut. batch_size: rows of a forward pass, optimization.accumulate of them a step. epochs: passes over the rows of all tasks, with a
    look at validation after each; patience: looks without a better NDCG@10. beams: kept while decoding.
    """

    READ_WHERE: ClassVar[ReadWhere] = {("model", NEW): ("shape",), ("trained", "lora"): ("lora",)}

    model: str = "Qwen/Qwen2.5-0.5B-Instruct"
    shape: Shape = Shape()
    trained: Literal["all", "lora", "rows"] = "all"
    lora: LoRA = LoRA()
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_history: int = 10
    max_tokens: int = 512
    title_tokens: int = 48
    batch_size: int = 16
    epochs: int = 10
    patience: int = 3
    beams: int = 50
    optimization: Optimization = Optimization(learning_rate=3e-4, beta2=0.999, weight_decay=0.0, warmup=20, clip=1.0, accumulate=64)

    def __post_init__(self):
        if self.dtype == "bfloat16" and self.trained == "all":
            raise ConfigError("setting dtype=bfloat16: steps of training are lost to rounding in such weights; want trained=lora or rows "
                              "with it, or dtype=float32, whose products are bfloat16 too where the device has it")


SMALL: dict[str, object] = {
    "tuning.model": NEW, "tuning.shape": Shape(layers=2, width=64, heads=4, feedforward=192), "tuning.max_history": 4,
    "tuning.max_tokens": 192, "tuning.title_tokens": 16, "tuning.batch_size": 64, "tuning.epochs": 5, "tuning.beams": 20,
    "tuning.optimization": Optimization(learning_rate=3e-3, beta2=0.999, weight_decay=0.0, warmup=50, clip=1.0),
    "alignment.method": "none"}
"""Settings of a variant for machines without a GPU: a new network that learns in minutes, without the rewarded stage."""


def opened(config: FineTuning, titles: Sequence[str], tasks: Sequence[Task]) -> tuple[Backbone, Any]:
    """Return the network and the tokenizer that the settings name. Raises `ConfigError` where they cannot be used.

    A new tokenizer learns words from the titles and the tasks' frames, a tenth as many of them, so that prompts are short.
    """
    if config.model == NEW:
        frames = [BEFORE.format(task.instruction) + AFTER for task in tasks]
        return new_backbone(config.shape, [*titles, *frames * (1 + len(titles) // 10)], context=config.max_tokens)
    backbone, tokenizer = read_backbone(config.model, config.dtype)
    if config.max_tokens > backbone.context:
        raise ConfigError(f"setting max_tokens={config.max_tokens}: {config.model} attends to {backbone.context} tokens at once; "
                          f"want at most {backbone.context}")
    if len(tokenizer) > len(backbone.text_vectors):
        raise ConfigError(f"language model: the tokenizer of {config.model} has {len(tokenizer):,} tokens, its network vectors for "
                          f"{len(backbone.text_vectors):,}; want a tokenizer and weights that belong together")
    return backbone, tokenizer


def titles_of(catalog: Catalog, recipe: str) -> list[str]:
    """Return N titles. Raises `DataError` where the items have none."""
    if not any(catalog.given_titles or ()):
        raise DataError(f"{recipe}: want items with a text column title or name, got none; give items with titles (--items)"
                        + (", or take minionerec:no_alignment, which needs none" if recipe == "minionerec" else ""))
    return catalog.titles


def prepared(config: FineTuning, backbone: Backbone, ids: SemanticIds, prompts: Prompts, job: Job, *, alphabet: Tensor | None = None,
             start: Tensor | None = None) -> LanguageModel:
    """Return the generator with what is trained of it, on the job's device; what is needed to build it again is in the run folder."""
    prompts.check_room(ids.levels, config.max_history if alphabet is None else 1)
    generator = LanguageModel(backbone, ids, prompts, alphabet=alphabet, start=start)
    _choose_trained(config, generator)
    if job.out is not None:
        about = {"config": backbone.about, "is_tied": backbone.head is None, "prompts": asdict(prompts) | {"titles": ()},
                 "alphabet": None if alphabet is None else len(alphabet)}
        write_json(job.out / FILE, about)
    return generator.to(job.device)


def _choose_trained(config: FineTuning, generator: LanguageModel) -> None:
    if config.trained == "all":
        return
    if config.trained == "rows" and generator.embedding is None:
        raise ConfigError("setting trained=rows: this recipe writes titles, and adds no tokens that could train; want all or lora")
    generator.network.requires_grad_(False)
    if generator.text_head is not None:
        generator.text_head.requires_grad_(False)
    if config.trained == "lora":
        add_adapters(generator.network, config.lora)


def tuned(config: FineTuning, generator: LanguageModel, ids: SemanticIds, batches: Batches, data: Split, job: Job) -> CodeRecommender:
    """Train on the responses of the batches' tasks, keep the best look at validation, return the finished system."""
    recommender = _recommender(config, generator, ids, job.device)
    objective, optimization = Responses(), config.optimization
    if not rows_have_gradient(generator, objective, batches.at(0).to(job.device)):
        job.log.write("generator", note="warning: the vectors of new tokens get no gradient, so codes will not be learnt; want parameters "
                                        "that require one, and a network that reads inputs_embeds")
    steps = max(1, batches.steps_per_epoch // optimization.accumulate)
    fit_generator(recommender, objective, batches, data, job, steps=config.epochs * steps, optimization=optimization, look_every=steps,
                  patience=config.patience)
    return recommender


def rows_have_gradient(generator: LanguageModel, objective: Objective, batch: Batch) -> bool:
    """Return whether the loss of the batch moves the vectors of new tokens, where there are any: input and output ones."""
    if generator.embedding is None:
        return True
    with torch.random.fork_rng(devices=[]), autocast(batch.item.device):
        objective(generator, batch).total.backward()
    found = [rows.grad for rows in (generator.embedding.weight, generator.head) if rows is not None]
    generator.zero_grad(set_to_none=True)
    return all(gradient is not None and bool(gradient.any()) for gradient in found)


def load(config: FineTuning, folder: Path) -> CodeRecommender:
    """Return what `tuned` made, from its run folder; neither hub nor tokenizer is asked. Raises `RunError`."""
    ids = read_codes(folder / "codes.parquet")
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(f"{folder / FILE}: cannot be read: {error}; restore the file or train again") from None
    backbone = empty_backbone(about["config"], is_tied=about["is_tied"], dtype=config.dtype)
    words = about["prompts"]
    prompts = Prompts(tuple(Task(**task) for task in words["tasks"]), tuple(tuple(tokens) for tokens in words["before"]),
                      tuple(words["between"]), tuple(words["after"]), words["end"], words["limit"])
    alphabet = None if about["alphabet"] is None else torch.zeros(about["alphabet"], dtype=torch.int64)
    generator = LanguageModel(backbone, ids, prompts, alphabet=alphabet)
    _choose_trained(config, generator)
    generator.load_state_dict(load_tensors(folder / "generator.safetensors"))
    return _recommender(config, generator.eval(), ids)


def _recommender(config: FineTuning, generator: LanguageModel, ids: SemanticIds, device: str = "cpu") -> CodeRecommender:
    return CodeRecommender(generator, ids, CodeTree.build(ids).to(device), config.beams, device, config.max_history)
