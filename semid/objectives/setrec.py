"""SETRec's loss: every slot of a set picks the next item among all, and content can be read back from its vectors.

A model is a `generators.setrec.SETRec`: `item_vectors`, `supervised`, `reconstruction`. Axes: N items, Q slots, M supervised positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semid.nn.losses import linear_cross_entropy
from semid.types import Batch, Loss


@dataclass(frozen=True)
class SETRec:
    """Mean over slots of the cross-entropy of the target among all items, by product of the slot's state and the items' vectors in the
    slot; and `alpha` times the mean squared error of the content of the histories' items.

    Source: SETRec, arXiv 2502.10833, equations 3 and 7.
    """

    alpha: float = 0.7

    def __call__(self, model, batch: Batch) -> Loss:
        vectors, target = model.item_vectors(), batch.target[batch.target >= 0]
        states = model.supervised(batch, vectors)  # [M, Q, D]
        slots = [linear_cross_entropy(states[:, slot], vectors[:, slot], target) for slot in range(states.shape[1])]
        picked = torch.stack(slots).mean()
        read_back = model.reconstruction(vectors, batch.item[batch.item >= 0])
        return Loss(picked + self.alpha * read_back, {"items": picked, "content": read_back})
