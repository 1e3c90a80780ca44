"""LightGCN: collaborative vectors averaged over the graph of users and items. It knows no order; tokenizers can read its items.

Source: He et al., SIGIR 2020, arXiv 2002.02126, and the settings of its code. Status: baseline, paper's shape and defaults.
Deviations: (1) stops when validation NDCG@10 no longer rises (the code: 1,000 epochs); (2) users are answered by their histories, so that
new users and new events need no training, see `scorers.propagation.GraphScorer`; (3) gradients are clipped at norm 5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semid.data.pairs import PairBatches
from semid.nn.graph import BipartiteGraph
from semid.objectives.pairs import BPR
from semid.protocols import Objective
from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.lightgcn import LightGCN
from semid.scorers.propagation import GraphScorer
from semid.training.fit import Optimization, Validation, fit
from semid.training.job import Job
from semid.types import Catalog, Interactions, Split
from semid.validation import measure

VARIANTS: dict[str, dict[str, object]] = {"factors": {"layers": 0}}
SCALE = "dot product"
ADAM = Optimization(learning_rate=1e-3, beta2=0.999, weight_decay=0.0, warmup=1, schedule="constant", precision="fp32")


@dataclass(frozen=True)
class Pairing:
    """How a graph scorer is trained. batch_size: pairs; negatives: items a pair that the user has not; is_by_user: see `PairBatches`;
    epochs at most; look_every: epochs between looks at validation; patience: looks without a better NDCG@10."""

    batch_size: int = 2048
    negatives: int = 1
    is_by_user: bool = True
    epochs: int = 1000
    look_every: int = 5
    patience: int = 10
    optimization: Optimization = ADAM


@dataclass(frozen=True)
class Config:
    """layers: of propagation; 0 (`lightgcn:factors`) is matrix factorisation. regularisation: see `BPR`."""

    width: int = 64
    layers: int = 3
    regularisation: float = 1e-4
    pairing: Pairing = Pairing()


def smoke() -> Config:
    return Config(width=32, layers=2, pairing=smoke_pairing())


def smoke_pairing() -> Pairing:
    return Pairing(batch_size=256, epochs=20, optimization=replace(ADAM, learning_rate=2e-2))


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    torch.manual_seed(job.seed)
    model = LightGCN(training_graph(data.train), width=config.width, layers=config.layers)
    return train(GraphScorer(model), BPR(config.regularisation), config.pairing, data, job, scale=SCALE, stage="lightgcn")


def train(model: GraphScorer, objective: Objective, pairing: Pairing, data: Split, job: Job, *, scale: str,
          stage: str) -> ItemRecommender:
    """Train a graph scorer on the pairs of the training rows, keep the best look at validation."""
    model = model.to(job.device)
    recommender = ItemRecommender(model, scale, job.device)
    batches = PairBatches(data.train, batch_size=pairing.batch_size, negatives=pairing.negatives, is_by_user=pairing.is_by_user,
                          seed=job.seed)
    fit(model, objective, batches, steps=pairing.epochs * batches.steps_per_epoch, optimization=pairing.optimization,
        validation=Validation(lambda: measure(recommender, data, seen=data.protocol.seen), patience=pairing.patience,
                              every=pairing.look_every * batches.steps_per_epoch),
        checkpoint=job.checkpoint(stage), resume=job.resume, log=job.log, stage=stage)
    return recommender


def training_graph(train: Interactions) -> BipartiteGraph:
    """Return the graph of the training rows: nothing that is asked about later is an edge."""
    return BipartiteGraph(torch.from_numpy(train.user.astype(np.int64)), torch.from_numpy(train.item.astype(np.int64)),
                          len(train.users), len(train.items))


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    weights = load_tensors(folder / "scorer.safetensors")
    graph = saved_graph(weights, len(weights["network.user"]), len(catalog))
    return finished(GraphScorer(LightGCN(graph, width=config.width, layers=config.layers)), weights, SCALE)


def saved_graph(weights: dict[str, Tensor], num_users: int, num_items: int) -> BipartiteGraph:
    """Return the graph that a graph scorer was saved with."""
    user, item = weights["network.graph.pair"]
    return BipartiteGraph(user, item, num_users, num_items)


def finished(model: GraphScorer, weights: dict[str, Tensor], scale: str) -> ItemRecommender:
    model.load_state_dict(weights)
    return ItemRecommender(model.eval(), scale)
