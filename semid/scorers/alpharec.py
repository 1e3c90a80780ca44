"""AlphaRec: what a language model says of the items, mapped, propagated over the graph, compared by cosine. No vectors of ids.

Axes: U users, N items, F width of the content, D width, K layers, B rows.
Source: Sheng et al., ICLR 2025, arXiv 2407.05441.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.nn.graph import BipartiteGraph, incidence
from semid.types import Batch


class AlphaRec(nn.Module):
    """A user's content is the mean of that of his items; one map for users and items, then LightGCN's propagation; unit vectors.

    content: float32 [N, F]. hidden: width inside the map; 0 is a single linear map without bias, the paper's probe of language space.
    layers: K. A user who was not in training is answered exactly as one who was.
    """

    content: Tensor
    inputs: Tensor

    def __init__(self, graph: BipartiteGraph, content: Tensor, *, hidden: int = 1536, width: int = 64, layers: int = 2):
        super().__init__()
        self.graph, self.depth = graph, layers
        self.register_buffer("content", content)
        everyone = torch.cat([content.new_zeros(graph.num_users, content.shape[1]), content])
        users, _ = graph.parted(graph.mean(everyone))
        self.register_buffer("inputs", torch.cat([users, content]), persistent=False)  # [U + N, F]
        self.map = nn.Linear(content.shape[1], width, bias=False) if not hidden else nn.Sequential(
            nn.Linear(content.shape[1], hidden), nn.LeakyReLU(), nn.Linear(hidden, width))

    def layers(self) -> list[Tensor]:
        layers = [self.map(self.inputs).float()]
        for _ in range(self.depth):
            layers.append(self.graph(layers[-1]))
        return layers

    def user_layers(self, batch: Batch, items: list[Tensor]) -> list[Tensor]:
        taken = incidence(batch.item, self.graph.num_items)
        mean = (taken @ self.content) / taken.sum(1, keepdim=True).clamp_min(1)
        rows = self.graph.rows(batch.item)
        return [self.map(mean).float(), *(rows @ item for item in items[:-1])]

    def output(self, layers: list[Tensor]) -> Tensor:
        return F.normalize(torch.stack(layers).mean(0), dim=1)

    def penalised(self, vectors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return vectors
