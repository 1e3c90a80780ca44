"""Scorers over the graph of users and items: a network gives every node layers, and a user is answered by his history.

Axes: U users, N items, B rows, S history positions, D width of a layer, O width of a vector, K layers of propagation.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from semid.nn.graph import BipartiteGraph
from semid.types import Batch


class Network(Protocol):
    """What `LightGCN`, `NGCF`, `AlphaRec` and `encoders.multimodal_graph.MultimodalGraph` say. An `nn.Module`."""

    graph: BipartiteGraph

    def layers(self) -> list[Tensor]:
        """Return K + 1 tensors [U + N, D] of all nodes; layer 0 is what propagation starts from."""
        ...

    def user_layers(self, batch: Batch, items: list[Tensor]) -> list[Tensor]:
        """Return the K + 1 layers [B, D] of users with the batch's histories, given those of the items, [N, D]."""
        ...

    def output(self, layers: list[Tensor]) -> Tensor:
        """Return the vectors [*, O] of nodes with these K + 1 layers [*, D]."""
        ...

    def penalised(self, vectors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what L2 regularisation shrinks: rows of all users [U, D] and items [N, D]. vectors: those of the nodes."""
        ...


class GraphScorer(nn.Module):
    """Scores are dot products of a user's vector and the items'.

    The user of a row becomes one more node of the graph: his edges are the distinct items of the history, his layers come from the same
    propagation over the layers that the items have. So users who were not in training, and those with new events, need no training. A
    known user (`batch.user` >= 0, with training events) starts from his own layer 0 where the network learnt one; with all of his training
    items as history he gets exactly the vector of training. Items keep what training gave them: a new event moves its user, not the item.

    The items' layers are computed once and kept until the model trains again.
    """

    _kept: tuple[list[Tensor], Tensor] | None = None  # no part of the state dict: it follows from it

    def __init__(self, network: Network):
        super().__init__()
        self.network = cast("nn.Module", network)  # Python has no type for both

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of all users [U, O] and items [N, O], with gradients."""
        network = self._network
        return network.graph.parted(network.output(network.layers()))

    def penalised(self, vectors: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self._network.penalised(vectors)

    def item_vectors(self) -> Tensor:
        """Return float32 [N, O]: what users are multiplied with."""
        return self._items()[1]

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N]."""
        layers, vectors = self._items()
        return self._network.output(self._network.user_layers(batch, layers)) @ vectors.T

    def train(self, mode: bool = True) -> GraphScorer:
        self._kept = None
        return super().train(mode)

    @property
    def _network(self) -> Network:
        return cast("Network", self.network)

    @torch.no_grad()
    def _items(self) -> tuple[list[Tensor], Tensor]:
        if self._kept is None or self.training:
            layers = [self._network.graph.parted(layer)[1] for layer in self._network.layers()]
            self._kept = layers, self._network.output(layers)
        return self._kept


def known_rows(table: Tensor, user: Tensor, graph: BipartiteGraph) -> Tensor:
    """Return the rows [B, D] of a table [U, D] for users int64 [B]; zeros for those nothing was learnt of: strangers (-1), and users of
    the graph without edges, whose rows are as they were drawn."""
    row = user.clamp(0, len(table) - 1)
    is_known = (user >= 0) & (user < len(table)) & (graph.degree[row] > 0)
    return table[row] * is_known[:, None]
