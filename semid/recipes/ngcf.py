"""NGCF: LightGCN's elder brother, with linear maps, products with the neighbours, and all layers side by side.

Source: Wang et al., SIGIR 2019, arXiv 1905.08108, and the settings of its code. Status: baseline, paper's shape and defaults.
Deviations: those of lightgcn, and the activation of `scorers.ngcf`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from semid.objectives.pairs import BPR
from semid.recipes.lightgcn import ADAM, SCALE, Pairing, finished, saved_graph, smoke_pairing, train, training_graph
from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.ngcf import NGCF
from semid.scorers.propagation import GraphScorer
from semid.training.job import Job
from semid.types import Catalog, Split

VARIANTS: dict[str, dict[str, object]] = {}


@dataclass(frozen=True)
class Config:
    """dropout: of messages. regularisation: see `BPR`; here it shrinks the vectors after propagation."""

    width: int = 64
    layers: int = 3
    dropout: float = 0.1
    regularisation: float = 1e-5
    pairing: Pairing = Pairing(batch_size=1024, epochs=400, optimization=replace(ADAM, learning_rate=5e-4))


def smoke() -> Config:
    return Config(width=16, layers=2, pairing=smoke_pairing())


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    torch.manual_seed(job.seed)
    model = NGCF(training_graph(data.train), width=config.width, layers=config.layers, dropout=config.dropout)
    return train(GraphScorer(model), BPR(config.regularisation), config.pairing, data, job, scale=SCALE, stage="ngcf")


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    weights = load_tensors(folder / "scorer.safetensors")
    graph = saved_graph(weights, len(weights["network.user"]), len(catalog))
    return finished(GraphScorer(NGCF(graph, width=config.width, layers=config.layers, dropout=config.dropout)), weights, SCALE)
