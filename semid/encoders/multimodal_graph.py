"""Item vectors from content of any kind and from who took what: GraphSAGE over the graph of users and items.

Axes: U users, N items, F width of the content, D width of the first layer, O width of the vectors.
Source: MMGRec, arXiv 2404.16555, the graph part of its Graph RQ-VAE; GraphSAGE, arXiv 1706.02216, mean aggregator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.nn.graph import BipartiteGraph


class SAGE(nn.Module):
    """W x + V mean(neighbours' x) + b. is_graph: false leaves the neighbours out."""

    def __init__(self, width: int, out: int, *, is_graph: bool):
        super().__init__()
        self.own = nn.Linear(width, out)
        self.neighbours = nn.Linear(width, out, bias=False) if is_graph else None

    def forward(self, x: Tensor, graph: BipartiteGraph) -> Tensor:
        """x [U + N, D] -> [U + N, O]."""
        return self.own(x) if self.neighbours is None else self.own(x) + self.neighbours(graph.mean(x))


class MultimodalGraph(nn.Module):
    """An item starts as a linear map of its content, a user as free numbers; two layers of `SAGE`. Trained by BPR of dot products.

    content: float32 [N, F], all modalities side by side. is_graph: false makes it a network of the content alone, with the same loss.
    """

    content: Tensor

    def __init__(self, graph: BipartiteGraph, content: Tensor, *, hidden: int = 128, width: int = 64,
                 dropouts: tuple[float, float] = (0.5, 0.2), is_graph: bool = True):
        super().__init__()
        self.graph = graph
        self.register_buffer("content", content, persistent=False)
        self.project = nn.Linear(content.shape[1], hidden, bias=False)
        self.user = nn.Parameter(nn.init.xavier_uniform_(torch.empty(graph.num_users, hidden)))
        self.first, self.second = SAGE(hidden, hidden, is_graph=is_graph), SAGE(hidden, width, is_graph=is_graph)
        self.dropouts = dropouts

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of all users [U, O] and items [N, O]."""
        x = torch.cat([self.user, self.project(self.content)])
        x = F.dropout(F.leaky_relu(self.first(x, self.graph)), self.dropouts[0], self.training)
        return self.graph.parted(F.dropout(self.second(x, self.graph), self.dropouts[1], self.training))
