"""EASE: a closed-form linear autoencoder over items.

Axes: N items, U users, B rows, S history positions.
Source: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", arXiv 1905.03375, eq. 8.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.types import Batch, Interactions

MAX_ITEMS = 30_000
"""N x N float32 is inverted: 3.6 GB and minutes at this size."""


@dataclass(frozen=True)
class EASE:
    """weights float32 [N, N], zero diagonal: item i of the history adds row i to the scores."""

    weights: Tensor

    @classmethod
    def fit(cls, train: Interactions, *, regularisation: float = 250.0) -> EASE:
        """B = I - P / diag(P) with P = (X'X + regularisation I)^-1, X the binary user-item matrix. O(N^3)."""
        n = len(train.items)
        if n > MAX_ITEMS:
            raise ConfigError(f"ease: want at most {MAX_ITEMS:,} items (it inverts an items x items matrix), got {n:,}; "
                              "use item_knn or sasrec")
        pairs = np.unique(train.user.astype(np.int64) * n + train.item)
        user, item = torch.from_numpy(pairs // n), torch.from_numpy(pairs % n)
        shape = (len(train.users), n)
        x = torch.sparse_coo_tensor(torch.stack([user, item]), torch.ones(len(pairs)), shape, check_invariants=False).coalesce()
        with warnings.catch_warnings():  # torch: "sparse CSR tensor support is in beta state"
            warnings.simplefilter("ignore")
            gram = torch.sparse.mm(x.t(), x).to_dense()
        gram.diagonal().add_(regularisation)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weights = inverse.div_(-inverse.diagonal().clone())  # column j divided by -P_jj
        weights.diagonal().zero_()
        return cls(weights.contiguous())  # column-major until here: a loaded copy is not, and would sum in another order

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N]: each distinct item of the history counts once. Rows of the few items are added up, which reads a
        thousandth of what a product with B histories over all items would."""
        item = batch.item.sort(dim=1).values
        is_first = (item >= 0) & (item != F.pad(item[:, :-1], (1, 0), value=-1))
        count = is_first.sum(1)
        return F.embedding_bag(item[is_first], self.weights, count.cumsum(0) - count, mode="sum")
