"""Clusters of a graph's nodes from the eigenvectors of its affinities. No learning, no random start that matters.

Axes: N nodes, K clusters, Z non-zero affinities.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

DENSE = 1500
"""Up to so many nodes the eigenvectors are exact."""


def spectral_clusters(row: np.ndarray, column: np.ndarray, weight: np.ndarray, count: int, size: int, *, seed: int) -> np.ndarray:
    """Return cluster int64 [N] in [0, K) of the nodes of a graph; nodes in the same cluster are joined by more weight than others.

    row, column int64 [Z], weight float64 [Z] > 0: the affinities, both ways, in [0, N); every node has at least one. K <= N. Clusters may
    be empty. Exact up to 1,500 nodes, beyond by subspace iteration on the sparse matrix, O(Z K) a round.

    Source: normalised spectral clustering, Ng, Jordan and Weiss 2002; clusters from eigenvectors by pivoted QR, Damle, Minden and Ying
    2018, arXiv 1609.08251, algorithm 1.
    """
    degree = np.bincount(row, weight, minlength=count)
    value = torch.from_numpy(weight / np.sqrt(degree[row] * degree[column]))
    index = torch.from_numpy(np.stack([row, column]))
    matrix = torch.sparse_coo_tensor(index, value, (count, count), check_invariants=False).coalesce()
    vectors = _leading(matrix, size, seed)
    return pivoted_clusters(vectors / torch.from_numpy(np.sqrt(degree))[:, None]).numpy()


def pivoted_clusters(vectors: Tensor) -> Tensor:
    """Return cluster int64 [N] of nodes from K leading eigenvectors float64 [N, K]: K nodes as unlike as can be found stand for the
    clusters (columns that QR with pivoting takes first), and each node goes to the one it agrees with most."""
    left = vectors.clone()
    pivots = []
    for _ in range(vectors.shape[1]):
        norm = left.square().sum(1)
        pivots.append(int(norm.argmax()))
        direction = left[pivots[-1]] / norm[pivots[-1]].sqrt().clamp_min(1e-300)
        left = left - (left @ direction)[:, None] * direction
    u, _, v = torch.linalg.svd(vectors[torch.tensor(pivots)].T)
    return (vectors @ (u @ v)).abs().argmax(1)


def _leading(matrix: Tensor, size: int, seed: int, rounds: int = 200) -> Tensor:
    """Return the eigenvectors float64 [N, K] of the largest eigenvalues of a symmetric sparse matrix with eigenvalues in [-1, 1]."""
    count = matrix.shape[0]
    if count <= DENSE:
        return torch.linalg.eigh(matrix.to_dense()).eigenvectors[:, -size:]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
        matrix = matrix.to_sparse_csr()
    basis = torch.randn(count, min(count, size + 20), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for _ in range(rounds):  # (matrix + 1) / 2 has the same order, and its largest eigenvalues are the largest in size
        basis, _ = torch.linalg.qr(basis + matrix @ basis)
    _, turn = torch.linalg.eigh(basis.T @ (matrix @ basis))
    return (basis @ turn)[:, -size:]
