"""Losses over pairs of a user and an item: what he took shall score above what he did not.

A model has `vectors() -> (users [U, D], items [N, D])`; batches are those of `data.pairs.PairBatches`. Axes: B rows, K negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semid.nn.losses import bpr, sampled_softmax
from semid.types import Batch, Loss


@dataclass(frozen=True)
class BPR:
    """`bpr` of dot products, and L2 regularisation: `regularisation` times half the squared norms of a row's user, chosen and rejected
    items, mean over rows. Which vectors of them are shrunk the model says: `penalised(vectors)`.

    Source: Rendle et al., UAI 2009, arXiv 1205.2618; LightGCN, arXiv 2002.02126, equation 15.
    """

    regularisation: float = 1e-4

    def __call__(self, model, batch: Batch) -> Loss:
        chosen, rejected = batch.extra["chosen"], batch.extra["rejected"]
        vectors = model.vectors()
        user, item = vectors[0].float()[batch.user], vectors[1].float()
        # not a matrix product, which autocast would round: differences of scores are small
        ranking = bpr((user * item[chosen]).sum(1), (user[:, None] * item[rejected]).sum(2))
        if not self.regularisation:
            return Loss(ranking)
        users, items = model.penalised(vectors)
        parts = (users[batch.user], items[chosen], items[rejected])
        norm = 0.5 * torch.stack([part.square().sum() for part in parts]).sum() / len(chosen)
        return Loss(ranking + self.regularisation * norm, {"bpr": ranking, "norm": norm})


@dataclass(frozen=True)
class PairContrast:
    """Cross-entropy of the chosen item among itself and the rejected ones, by cosine over `temperature`.

    Source: AlphaRec, arXiv 2407.05441, its InfoNCE loss.
    """

    temperature: float = 0.15

    def __call__(self, model, batch: Batch) -> Loss:
        user, item = model.vectors()
        return Loss(sampled_softmax(user[batch.user], item, batch.extra["chosen"], batch.extra["rejected"],
                                    temperature=self.temperature, cosine=True))
