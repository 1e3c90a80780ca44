"""LightGCN: vectors of users and items, averaged over neighbours layer by layer, and nothing else.

Axes: U users, N items, D width, K layers, B rows.
Source: He et al., SIGIR 2020, arXiv 2002.02126, equations 7 (propagation) and 4 (mean of layers).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semid.nn.graph import BipartiteGraph
from semid.scorers.propagation import known_rows
from semid.types import Batch


class LightGCN(nn.Module):
    """E^{k+1} = D^-1/2 A D^-1/2 E^k, and a node's vector is the mean of E^0 .. E^K. layers: K; 0 is matrix factorisation."""

    def __init__(self, graph: BipartiteGraph, *, width: int = 64, layers: int = 3):
        super().__init__()
        self.graph, self.depth = graph, layers
        self.user = nn.Parameter(torch.randn(graph.num_users, width) * 0.1)
        self.item = nn.Parameter(torch.randn(graph.num_items, width) * 0.1)

    def layers(self) -> list[Tensor]:
        layers = [torch.cat([self.user, self.item])]
        for _ in range(self.depth):
            layers.append(self.graph(layers[-1]))
        return layers

    def user_layers(self, batch: Batch, items: list[Tensor]) -> list[Tensor]:
        """A user of whom only the history is known starts from zeros; with K = 0 that is all there is to say of him."""
        rows = self.graph.rows(batch.item)
        return [known_rows(self.user, batch.user, self.graph), *(rows @ item for item in items[:-1])]

    def output(self, layers: list[Tensor]) -> Tensor:
        return torch.stack(layers).mean(0)

    def penalised(self, vectors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Layer 0, before propagation (equation 15)."""
        return self.user, self.item
