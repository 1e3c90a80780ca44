"""The bipartite graph of users and items, and one step of averaging over neighbours.

Axes: U users, N items, E distinct pairs of a user and an item, D width, B rows, S history positions.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn


class _SymmetricProduct(torch.autograd.Function):
    """matrix @ x of a constant symmetric matrix: it is its own transpose, so the gradient is the same product again."""

    @staticmethod
    def forward(ctx, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.matrix = matrix
        return matrix @ x

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return None, ctx.matrix @ grads[0]


class BipartiteGraph(nn.Module):
    """Who took what, as the matrix `D^-1/2 A D^-1/2` in torch.sparse CSR; nodes are the U users, then the N items.

    user, item: int64 [E] rows of training events, in any order; a pair that occurs twice is one edge. Nodes without edges keep a row
    of zeros. Products run in float32, under autocast too: sparse matrices of bfloat16 are not multiplied everywhere.

    Source: LightGCN, arXiv 2002.02126, equations 7 and 8; NGCF, arXiv 1905.08108, equation 8.
    """

    pair: Tensor
    degree: Tensor
    matrix: Tensor

    def __init__(self, user: Tensor, item: Tensor, num_users: int, num_items: int):
        super().__init__()
        self.num_users, self.num_items = num_users, num_items
        key = torch.unique(user * num_items + item)
        user, item = key // num_items, key % num_items
        row, column = torch.cat([user, item + num_users]), torch.cat([item + num_users, user])
        order = row.argsort(stable=True)  # users' columns rise already, and so do those of an item
        row, column = row[order], column[order]
        num_nodes = num_users + num_items
        degree = torch.bincount(row, minlength=num_nodes)
        scale = degree.float().clamp_min(1).rsqrt()
        with warnings.catch_warnings():  # torch: "sparse CSR tensor support is in beta state"
            warnings.simplefilter("ignore")
            matrix = torch.sparse_csr_tensor(torch.cat([degree.new_zeros(1), degree.cumsum(0)]), column, scale[row] * scale[column],
                                             (num_nodes, num_nodes), check_invariants=False)
        self.register_buffer("pair", torch.stack([user, item]))  # all that is kept on disk; the rest follows from it
        self.register_buffer("degree", degree.float(), persistent=False)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x float [U + N, D] -> float32 [U + N, D]: neighbours' vectors, each divided by the root of both degrees, summed. O(E D)."""
        with torch.autocast(x.device.type, enabled=False):
            return _SymmetricProduct.apply(self.matrix, x.float())

    def mean(self, x: Tensor) -> Tensor:
        """x float [U + N, D] -> float32 [U + N, D]: the mean of the neighbours' vectors, zeros where there are none."""
        root = self.degree.sqrt()[:, None]
        return self(x.float() * root) / root.clamp_min(1)

    def parted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the users' rows [U, D] and the items' [N, D] of x [U + N, D]."""
        return x[: self.num_users], x[self.num_users :]

    def rows(self, history: Tensor) -> Tensor:
        """Return float32 [B, N]: the matrix's row of one more user each, whose items are `history`, int64 [B, S] (-1 pads).

        For a user of the graph with all of his items this is his own row. Items without edges take no part: nothing was learnt of them.
        """
        degree = self.degree[self.num_users :]
        taken = incidence(history, self.num_items) * (degree > 0)
        return taken * degree.clamp_min(1).rsqrt() * taken.sum(1, keepdim=True).clamp_min(1).rsqrt()


def incidence(history: Tensor, num_items: int) -> Tensor:
    """Return float32 [B, N]: 1 where an item is in the history, int64 [B, S] (-1 pads), once or more.

    >>> incidence(torch.tensor([[2, 2, -1], [0, 1, 2]]), 4).tolist()
    [[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    """
    wide = torch.zeros(len(history), num_items + 1, device=history.device)
    return wide.scatter_(1, history.masked_fill(history < 0, num_items), 1.0)[:, :num_items]
