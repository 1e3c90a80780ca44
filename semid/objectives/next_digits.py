"""Cross-entropy of the next item's digits, each by itself: the loss of models that predict all digits at once.

A model has `supervised_queries(batch) -> [M, L, D]`, `code_vectors() -> L of [V, D]` and `codes` integer [N, L].
Axes: M supervised positions, L digits, V codes of a digit, D width, N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semid.nn.losses import linear_cross_entropy
from semid.types import Batch, Loss


@dataclass(frozen=True)
class NextDigits:
    """Mean over supervised positions and digits of -log p(digit), p a softmax over the digit's own codes of query . code vector.

    smoothing in [0, 1): that share of each target is spread evenly over the digit's codes.

    Source: multi-token prediction of RPG, arXiv 2506.05781, section 3.2. The same numbers as `NextCodes` over L, but no [M, L, V] is
    kept for the way back.
    """

    smoothing: float = 0.0

    def __call__(self, model, batch: Batch) -> Loss:
        codes = model.codes[batch.target[batch.target >= 0]].long()  # [M, L]
        queries = model.supervised_queries(batch)
        losses = [linear_cross_entropy(queries[:, digit], vectors, codes[:, digit], smoothing=self.smoothing)
                  for digit, vectors in enumerate(model.code_vectors())]
        return Loss(torch.stack(losses).mean())
