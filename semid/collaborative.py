"""Item vectors of a trained scorer, as tokenizers take them: what users did in the training rows."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from semid.recommenders import ItemRecommender
from semid.types import Interactions


@runtime_checkable
class HasItemVectors(Protocol):
    """SASRec, GraphScorer."""

    def item_vectors(self) -> Tensor: ...


def known_vectors(recommender: ItemRecommender, train: Interactions) -> np.ndarray:
    """Return float32 [N, D] of a recommender trained by sasrec, lightgcn, ngcf or alpharec, zeros where nobody took an item in `train`:
    a view for `catalog.with_view`."""
    scorer = recommender.scorer
    assert isinstance(scorer, HasItemVectors)
    with torch.no_grad():
        vectors = scorer.item_vectors().float().cpu().numpy()
    return np.where(train.counts[:, None] > 0, vectors, np.float32(0))
