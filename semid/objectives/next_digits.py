"""Losses of models that predict all digits of the next item at once: digit by digit, or over items by the sum of their digits.

A model has `supervised_queries(batch) -> [M, L, D]`, `code_vectors() -> L of [V, D]` and `codes` integer [N, L].
Axes: M supervised positions, L digits, V codes of a digit, D width, N items, K negatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from semid.nn.digit_sum import digit_sum
from semid.nn.losses import linear_cross_entropy
from semid.types import Batch, Loss


@dataclass(frozen=True)
class NextDigits:
    """Mean over supervised positions and digits of -log p(digit), p a softmax over the digit's own codes of query . code vector.

    smoothing in [0, 1): that share of each target is spread evenly over the digit's codes.

    Source: the multi-token prediction loss of RPG, arXiv 2506.05781. The same numbers as `NextCodes` over L, but no [M, L, V] is kept for
    the way back.
    """

    smoothing: float = 0.0

    def __call__(self, model, batch: Batch) -> Loss:
        codes = model.codes[batch.target[batch.target >= 0]].long()  # [M, L]
        queries = model.supervised_queries(batch)
        losses = [linear_cross_entropy(queries[:, digit], vectors, codes[:, digit], smoothing=self.smoothing)
                  for digit, vectors in enumerate(model.code_vectors())]
        return Loss(torch.stack(losses).mean())


@dataclass(frozen=True)
class NextItemOfDigits:
    """Cross-entropy of the next item among itself and `negatives` uniform items, drawn once a batch; an item's logit is the sum of
    its digits' logits.

    `NextDigits` spends probability on combinations of digits that no item has; here only items compete, as in the lists they end up in,
    which is worth a third of validation NDCG@10 on Amazon Beauty (dev/LOG.md). Source: this project.
    The negatives stand for all N - 1 other items (their logits rise by log((N - 1) / negatives)); from N negatives on the loss is exact.
    """

    negatives: int = 2048

    def __call__(self, model, batch: Batch) -> Loss:
        target = batch.target[batch.target >= 0]  # [M]
        values, count = model.logits(batch), len(model.codes)  # [M, L, V]
        is_sampled = self.negatives < count
        others = torch.randint(count, (self.negatives,), device=target.device) if is_sampled else torch.arange(count, device=target.device)
        false = digit_sum(values, model.codes[others])  # [M, K]
        if is_sampled:
            false = false + math.log((count - 1) / self.negatives)
        false = false.masked_fill(others == target[:, None], -torch.inf)
        true = values.gather(2, model.codes[target].long()[..., None]).squeeze(2).sum(1, keepdim=True)  # [M, 1]
        return Loss((torch.logsumexp(torch.cat([true, false], dim=1), dim=1) - true.squeeze(1)).mean())
