"""AlphaRec: vectors of a language model, mapped and propagated over the graph of users and items; no vector belongs to an id.

Source: Sheng et al., "Language Representations Can Be What Recommenders Need", ICLR 2025, arXiv 2407.05441. Status: paper's shape and
defaults; `alpharec:linear` is its probe (a linear map, no graph), `alpharec:no_mlp` and `alpharec:no_graph` leave one part out.
Deviations: (1) the language model is the one at hand, so the map is as wide as for the paper's best (1,536); (2) stops by validation
NDCG@10; (3) gradients are clipped at norm 5. Not here: a user's stated intention, and the transfer to another catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from semid.objectives.pairs import PairContrast
from semid.recipes.lightgcn import ADAM, Pairing, finished, saved_graph, smoke_pairing, train, training_graph
from semid.recipes.tiger import with_content
from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.alpharec import AlphaRec
from semid.scorers.propagation import GraphScorer
from semid.training.job import Job
from semid.types import Catalog, Split

VARIANTS: dict[str, dict[str, object]] = {
    "linear": {"hidden": 0, "layers": 0},
    "no_mlp": {"hidden": 0},
    "no_graph": {"layers": 0},
}
SCALE = "cosine"


@dataclass(frozen=True)
class Config:
    """text, view: which vectors of the items, as for tiger. hidden: width inside the map, 0 = a linear map without bias.
    temperature: of the cosines in the loss (the paper: .15 for books and films, .2 for games)."""

    text: str = "auto"
    view: str = "text"
    hidden: int = 1536
    width: int = 64
    layers: int = 2
    temperature: float = 0.15
    pairing: Pairing = Pairing(batch_size=4096, negatives=256, is_by_user=False, epochs=500, look_every=1, patience=20,
                               optimization=replace(ADAM, learning_rate=5e-4, weight_decay=1e-6))


def smoke() -> Config:
    return Config(hidden=64, pairing=replace(smoke_pairing(), negatives=16, is_by_user=False))


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    torch.manual_seed(job.seed)
    content = with_content(data.catalog, config.view, config.text, job).view(config.view)
    model = AlphaRec(training_graph(data.train), torch.from_numpy(content), hidden=config.hidden, width=config.width,
                     layers=config.layers)
    return train(GraphScorer(model), PairContrast(config.temperature), config.pairing, data, job, scale=SCALE, stage="alpharec")


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    weights = load_tensors(folder / "scorer.safetensors")
    content = weights["network.content"]
    num_users = int(weights["network.graph.pair"][0].max()) + 1  # those without training rows have left no trace
    graph = saved_graph(weights, num_users, len(content))
    model = AlphaRec(graph, content, hidden=config.hidden, width=config.width, layers=config.layers)
    return finished(GraphScorer(model), weights, SCALE)
