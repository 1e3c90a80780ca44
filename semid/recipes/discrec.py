"""DiscRec: TIGER with a layer that tells what an item's text says from what users do, in the embeddings of its codes.

Source: Liu et al., "DiscRec: Disentangled Semantic-Collaborative Modeling for Generative Recommendation", 2025, arXiv 2506.15576, and the
settings of its code. Status: paper's shape and defaults; `discrec:letter` has LETTER's codes in place of RQ-VAE's; `discrec:causal` trains
every position of a history in one pass, for machines without a GPU; `discrec:no_positions`, `discrec:no_local_attention` and
`discrec:no_gate` (the branches added up) are ablations, `discrec:base` is T5 without the layer, its feed-forward networks as much wider as
the layer has weights.
Deviations: (1) those of `generators.discrec`; (2) those of letter, whose tokenizer this is, without its losses; (3) the best validation
NDCG@10 is kept (the code: the lowest validation loss).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from semid.coding import Coder, made_once
from semid.config import ReadWhere
from semid.errors import ConfigError
from semid.generators.discrec import DiscRec
from semid.generators.encoder_decoder import EncoderDecoder
from semid.newcomers import Newcomers
from semid.recipes import letter, tiger
from semid.recipes.letter import Config as Letter
from semid.recommenders import CodeRecommender
from semid.training.fit import Optimization
from semid.training.job import Job
from semid.types import Catalog, SemanticIds, Split

VARIANTS: dict[str, dict[str, object]] = {
    "letter": {"letter.alpha": 0.02, "letter.beta": 1e-4},
    "causal": {"letter.tiger.is_causal": True, "letter.tiger.steps": 1000, "letter.tiger.look_every": 125,
               "letter.tiger.optimization": tiger.CAUSAL},
    "no_positions": {"has_positions": False},
    "no_local_attention": {"has_local_attention": False},
    "no_gate": {"has_gate": False},
    "base": {"has_branches": False, "letter.tiger.feedforward": 1331},
}
SHAPE = tiger.Config(levels=4, user_tokens=0, batch_size=256, steps=80_000, look_every=500, beams=20,
                     optimization=Optimization(learning_rate=5e-4, beta2=0.999, warmup=800, final=0.0, clip=1.0))


@dataclass(frozen=True)
class Config:
    """branch_heads: of the attention among the codes of an item; has_positions, has_local_attention, has_gate: parts of the layer, see
    `DualBranch`; has_branches: false is T5 alone. letter: the codes, and in its `tiger` the generator's shape and training.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("has_branches", True): ("branch_heads", "has_positions", "has_local_attention", "has_gate")}

    branch_heads: int = 2
    has_branches: bool = True
    has_positions: bool = True
    has_local_attention: bool = True
    has_gate: bool = True
    letter: Letter = Letter(alpha=0.0, beta=0.0, temperature=1.0, tiger=SHAPE)

    def __post_init__(self):
        shape = self.letter.tiger
        if self.letter.is_two_level or shape.user_tokens:
            raise ConfigError("discrec: want T5 over the codes of items alone, got letter.is_two_level or letter.tiger.user_tokens; leave "
                              "them out, or use the recipe letter")
        if shape.width % self.branch_heads:
            raise ConfigError(f"discrec: want branch_heads that divide letter.tiger.width, got {self.branch_heads} and {shape.width}")


def smoke() -> Config:
    return Config(letter=replace(letter.smoke(), alpha=0.0, beta=0.0, temperature=1.0))


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    torch.manual_seed(job.seed)
    ids = made_once(config.letter.codes, lambda: coder(config, data, job).codes(data, job), data, job)
    return tiger.generate(config.letter.tiger, ids, data, job, config.letter.temperature, generator=build(config, ids))


def coder(config: Config, data: Split, job: Job) -> Coder:
    return letter.coder(config.letter, data, job)


def build(config: Config, ids: SemanticIds) -> EncoderDecoder:
    shape = config.letter.tiger
    if not config.has_branches:
        return tiger.build(shape, ids)
    return DiscRec(ids, width=shape.width, heads=shape.heads, head_width=shape.head_width, layers=shape.layers,
                   feedforward=shape.feedforward, dropout=shape.dropout, causal=shape.is_causal, branch_heads=config.branch_heads,
                   has_positions=config.has_positions, has_local_attention=config.has_local_attention, has_gate=config.has_gate)


def newcomers(config: Config, catalog: Catalog, folder: Path) -> Newcomers | None:
    """New items: as for letter; the layer has no weight of an item's own."""
    return letter.newcomers(config.letter, catalog, folder)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    shape = config.letter.tiger
    return tiger.load_generator(lambda ids: build(config, ids), folder, beams=shape.beams, max_history=shape.max_history)
