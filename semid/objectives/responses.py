"""Cross-entropy of the tokens of responses: supervised fine-tuning of a language model on tasks.

A model has `responses(batch) -> (scores [M, W], token int64 [M])`. Axes: M tokens of the batch's responses, W tokens there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn import functional as F

from semid.types import Batch, Loss


@dataclass(frozen=True)
class Responses:
    """Mean over tokens of -log p(token | prompt and the true tokens before), normalised over all tokens there are; prompts cost nothing.

    Part: accuracy, the share of tokens that have the highest score.
    """

    def __call__(self, model, batch: Batch) -> Loss:
        scores, token = model.responses(batch)
        return Loss(F.cross_entropy(scores, token), signals={"accuracy": (scores.detach().argmax(1) == token).float().mean()})
