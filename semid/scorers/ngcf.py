"""NGCF: propagation over the graph with linear maps, a term of products with the neighbours, and all layers side by side.

Axes: U users, N items, D width, K layers, B rows.
Source: Wang et al., SIGIR 2019, arXiv 1905.08108, equation 7. Deviations: each of the two terms goes through LeakyReLU with a bias of its
own before they are added, as in the paper's code (the equation: after).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.nn.graph import BipartiteGraph
from semid.scorers.propagation import known_rows
from semid.types import Batch

SLOPE = 0.2
"""Of LeakyReLU below zero."""


class Layer(nn.Module):
    """LeakyReLU((x + side) W1 + b1) + LeakyReLU((x * side) W2 + b2), side = D^-1/2 A D^-1/2 x: the self loop is in the first term."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.sum, self.product = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.sum, self.product):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, side: Tensor) -> Tensor:
        """x, side float [*, D] -> [*, D]; message dropout while training."""
        return self.dropout(F.leaky_relu(self.sum(x + side), SLOPE) + F.leaky_relu(self.product(x * side), SLOPE))


class NGCF(nn.Module):
    """A node's vector is E^0 and the unit rows of E^1 .. E^K, concatenated: O = (K + 1) D."""

    def __init__(self, graph: BipartiteGraph, *, width: int = 64, layers: int = 3, dropout: float = 0.1):
        super().__init__()
        self.graph = graph
        self.user = nn.Parameter(nn.init.xavier_uniform_(torch.empty(graph.num_users, width)))
        self.item = nn.Parameter(nn.init.xavier_uniform_(torch.empty(graph.num_items, width)))
        self.blocks = nn.ModuleList(Layer(width, dropout) for _ in range(layers))

    def layers(self) -> list[Tensor]:
        layers = [torch.cat([self.user, self.item])]
        for block in self.blocks:
            layers.append(block(layers[-1], self.graph(layers[-1])))
        return layers

    def user_layers(self, batch: Batch, items: list[Tensor]) -> list[Tensor]:
        """A user of whom only the history is known starts from zeros."""
        rows = self.graph.rows(batch.item)
        layers = [known_rows(self.user, batch.user, self.graph)]
        for block, item in zip(self.blocks, items, strict=False):
            layers.append(block(layers[-1], rows @ item))
        return layers

    def output(self, layers: list[Tensor]) -> Tensor:
        return torch.cat([layers[0], *(F.normalize(layer, dim=1) for layer in layers[1:])], dim=1)

    def penalised(self, vectors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The vectors after propagation, as the paper's code does."""
        return vectors
