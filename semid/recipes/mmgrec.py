"""MMGRec: codes of content and behaviour fused over a graph, and a generator that reads a history as a set. For data without order.

Source: Liu et al., "MMGRec: Multimodal Generative Recommendation with Transformer Model", 2024, arXiv 2404.16555, and the settings of its
code. Status: paper's shape and defaults; `mmgrec:no_graph` codes content alone (the same network without neighbours),
`mmgrec:no_relation` has ordinary attention, `mmgrec:visual`, `mmgrec:acoustic` and `mmgrec:textual` see one modality.
Deviations: (1) the graph's network is trained before the quantiser, as in the code (the paper: one module); (2) modalities enter centred,
as unit rows; (3) the quantiser is ours (k-means start, codes that stay unused restart, a scaled input, the weights with the fewest
collisions); (4) AdamW (the code: SGD with momentum .99), learning rate 2e-3 (the code: 1e-3), 20 beams (the code: 10) and
early stopping on validation NDCG@10; (5) the target is never part of the
history it is predicted from; (6) those of `generators.relational`; (7) decoding is constrained to the code tree, and reads the latest
`max_history` items (the code: random ones).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from semid.coding import Coder, made_once
from semid.config import ReadWhere
from semid.data.pairs import PairBatches, SetBatches
from semid.encoders.content import with_text_view
from semid.encoders.multimodal_graph import MultimodalGraph
from semid.errors import DataError
from semid.generators.relational import Relational
from semid.objectives.next_codes import NextCodes
from semid.objectives.pairs import BPR
from semid.recipes.lightgcn import ADAM, training_graph
from semid.recipes.tiger import fit_generator
from semid.recommenders import CodeRecommender, load_tensors, read_codes
from semid.tokenizers.collisions import popularity_rank
from semid.tokenizers.rqvae import OPTIMIZATION, RQVAE
from semid.tokenizers.view import composed, want_enough
from semid.training.fit import Optimization, fit
from semid.training.job import Job
from semid.tree import CodeTree
from semid.types import Catalog, SemanticIds, Split

VARIANTS: dict[str, dict[str, object]] = {
    "no_graph": {"is_graph": False},
    "no_relation": {"is_relational": False},
    "visual": {"modalities": ("image",)},
    "acoustic": {"modalities": ("audio",)},
    "textual": {"modalities": ("text",)},
}
FUSED = "mmgrec"
"""The view that the tokenizer reads: what the graph's network makes of the items."""


@dataclass(frozen=True)
class Config:
    """modalities: views of the catalogue, side by side; those that it has not are left out, but one it must have. codes: published codes in
    place of the tokenizer, a column of the items table or a file X.index.json. hidden, width: of the
    graph's two layers; is_graph: false leaves the neighbours out; negatives: items a training pair that the user has not;
    graph_batch_size: pairs; batch_size: targets of the generator; is_by_user: how they are drawn, see `SetBatches`. graph_epochs,
    tokenizer_epochs, epochs: of the three trainings, the last at most; look_every: epochs between looks at validation; patience: looks
    without a better NDCG@10.
    """

    READ_WHERE: ClassVar[ReadWhere] = {
        ("codes", None): ("levels", "size", "tokenizer_hidden", "latent", "tokenizer_epochs")}

    modalities: tuple[str, ...] = ("image", "audio", "text")
    codes: str | None = None
    text: str = "auto"
    hidden: int = 128
    width: int = 64
    graph_dropouts: tuple[float, float] = (0.5, 0.2)
    is_graph: bool = True
    negatives: int = 5
    graph_batch_size: int = 3000
    graph_epochs: int = 60
    levels: int = 3
    size: int = 128
    tokenizer_hidden: tuple[int, ...] = (16,)
    latent: int = 4
    tokenizer_epochs: int = 60
    heads: int = 4
    head_width: int = 64
    layers: int = 2
    feedforward: int = 64
    dropout: float = 0.2
    is_relational: bool = True
    max_history: int = 32
    batch_size: int = 3000
    is_by_user: bool = False
    epochs: int = 60
    look_every: int = 1
    patience: int = 10
    beams: int = 20
    graph_optimization: Optimization = replace(ADAM, weight_decay=1e-6, precision="auto")
    optimization: Optimization = Optimization(learning_rate=2e-3, beta2=0.999, weight_decay=1e-5, clip=1.0)


def smoke() -> Config:
    return Config(hidden=32, width=32, graph_batch_size=256, graph_epochs=15, size=8, latent=8, tokenizer_epochs=100, heads=2,
                  head_width=16, layers=1, dropout=0.0, max_history=10, batch_size=256, epochs=20, look_every=5,
                  graph_optimization=replace(ADAM, learning_rate=1e-2), optimization=Optimization(learning_rate=5e-3, warmup=20))


def run(config: Config, data: Split, job: Job) -> CodeRecommender:
    torch.manual_seed(job.seed)
    user, item = fused(config, data, job)
    ids = made_once(config.codes, lambda: _coder(config, item, data, job).codes(data, job), data, job)
    generator = build(config, ids, item, user).to(job.device)
    recommender = CodeRecommender(generator, ids, CodeTree.build(ids).to(job.device), config.beams, job.device, config.max_history)
    batches = SetBatches(data.train, max_length=config.max_history, batch_size=config.batch_size, is_by_user=config.is_by_user,
                         seed=job.seed)
    epoch = batches.steps_per_epoch
    fit_generator(recommender, NextCodes(), batches, data, job, steps=config.epochs * epoch, optimization=config.optimization,
                  look_every=config.look_every * epoch, patience=config.patience)
    return recommender


def fused(config: Config, data: Split, job: Job) -> tuple[Tensor, Tensor]:
    """Train the graph's network by BPR on the training rows; return float32 vectors of users [U, width] and items [N, width].

    Users without training events, of whom nothing was learnt, get the mean of the others.
    """
    catalog = with_text_view(data.catalog, config.text, log=job.log, device=job.device)
    found = tuple(name for name in config.modalities if name in catalog.views)
    if not found:
        known = ", ".join(catalog.views) or "none"
        raise DataError(f"mmgrec: want items with one of the views {', '.join(config.modalities)}, got {known}; "
                        "give items with text (--items), or vectors (--view image=FILE.npy)")
    job.log.write("graph", note=f"modalities: {', '.join(found)}")
    centred = {name: catalog.view(name) - catalog.view(name).mean(0) for name in found}
    content = composed(replace(catalog, views=centred), found)
    want_enough(content, config.size)  # before minutes go into the graph
    network = MultimodalGraph(training_graph(data.train), torch.from_numpy(content), hidden=config.hidden, width=config.width,
                              dropouts=config.graph_dropouts, is_graph=config.is_graph).to(job.device)
    batches = PairBatches(data.train, batch_size=config.graph_batch_size, negatives=config.negatives, seed=job.seed)
    fit(network, BPR(0.0), batches, steps=config.graph_epochs * batches.steps_per_epoch, optimization=config.graph_optimization,
        checkpoint=job.checkpoint("graph"), resume=job.resume, log=job.log, stage="graph")
    with torch.no_grad():
        user, item = network.vectors()
    is_trained = network.graph.degree[: len(user), None] > 0
    return torch.where(is_trained, user, user[is_trained[:, 0]].mean(0)).cpu(), item.cpu()


def coder(config: Config, data: Split, job: Job) -> Coder:
    return _coder(config, fused(config, data, job)[1], data, job)


def _coder(config: Config, item: Tensor, data: Split, job: Job) -> Coder:
    catalog = data.catalog.with_view(FUSED, item.numpy())
    batch_size = 1024
    steps = config.tokenizer_epochs * -(-len(catalog) // batch_size)
    tokenizer = RQVAE(FUSED, levels=config.levels, size=config.size, hidden=config.tokenizer_hidden, latent=config.latent,
                      steps=steps, batch_size=batch_size, optimization=replace(OPTIMIZATION, schedule="constant"), log=job.log,
                      checkpoint=job.checkpoint("tokenizer"))
    return Coder(tokenizer, catalog, popularity_rank)


def build(config: Config, ids: SemanticIds, item: Tensor, user: Tensor) -> Relational:
    return Relational(ids, item, user, heads=config.heads, head_width=config.head_width, layers=config.layers,
                      feedforward=config.feedforward, dropout=config.dropout, is_relational=config.is_relational)


def load(config: Config, catalog: Catalog, folder: Path) -> CodeRecommender:
    ids, weights = read_codes(folder / "codes.parquet"), load_tensors(folder / "generator.safetensors")
    generator = build(config, ids, weights["item"][:-1], weights["user"][:-1])
    generator.load_state_dict(weights)
    return CodeRecommender(generator.eval(), ids, CodeTree.build(ids), config.beams, max_history=config.max_history)
