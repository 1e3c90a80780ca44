"""Cross-entropy of the next item's codes, level by level: the loss of every model with `logits(batch) -> [M, L, V]`.

Axes: M supervised positions, L levels, V codes in the widest level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semid.types import Batch, Loss


@dataclass(frozen=True)
class NextCodes:
    """Mean over supervised positions of the sum over levels of -log p(code | true codes before); padding codes (-1) count 0.

    smoothing in [0, 1): that share of the target is spread evenly over the codes that are possible at the level.
    temperature: logits are divided by it. LETTER's ranking-guided loss (arXiv 2405.07314) is temperature < 1: harder
    negatives weigh more.
    The model needs `codes` integer [N, L] beside `logits`. A logit of -inf is a code that cannot be: `TwoLevel` gives it to all that
    don't exist below the true prefix, so at temperature 1 p is normalised as constrained decoding sees it.
    """

    smoothing: float = 0.0
    temperature: float = 1.0

    def __call__(self, model, batch: Batch) -> Loss:
        codes = model.codes[batch.target[batch.target >= 0]].long()  # [M, L]
        logits = model.logits(batch)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        real = codes >= 0
        logp = torch.log_softmax(logits, dim=-1)  # [M, L, V]
        loss = -logp.gather(2, codes.clamp_min(0)[..., None]).squeeze(2)  # [M, L]
        if self.smoothing:
            possible = logits > -torch.inf
            spread = -logp.masked_fill(~possible, 0.0).sum(2) / possible.sum(2).clamp_min(1)
            loss = (1 - self.smoothing) * loss + self.smoothing * spread
        loss = loss.masked_fill(~real, 0.0)
        parts = loss.detach().sum(0) / real.sum(0).clamp_min(1)  # mean over the targets that have this level
        return Loss(loss.sum() / len(codes), {f"level_{level}": part for level, part in enumerate(parts, start=1)})
