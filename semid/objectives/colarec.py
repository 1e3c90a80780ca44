"""ColaRec's loss: codes of two tasks, the ranking of a pair of items, and the likeness of items whose codes begin alike.

A model is a `generators.colarec.ColaRec`: `read_history`, `read_items`, `write`, `codes`; batches are `data.indexing.IndexingBatches`.
Axes: B rows, L levels, V codes in the widest level, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.nn.losses import bpr
from semid.types import Batch, Loss


@dataclass(frozen=True)
class ColaRec:
    """generation (L_user + L_index) + ranking L_bpr + contrast L_contrast, with h the encoder's state at the end token:

    L_user: cross-entropy of the target's codes, mean over rows and levels, given the user; L_index: the same of the target and of the
    rejected item, given their own content, added; L_bpr = -log sigma(h_user . h_target - h_user . h_rejected); L_contrast = -log sigma(
    h_target . h_alike - h_target . h_rejected). has_index_task: false leaves L_index out.

    Source: ColaRec, arXiv 2403.18480, sections 3.3 to 3.5, and the weights of its code on Phones.
    """

    generation: float = 0.08
    ranking: float = 1.0
    contrast: float = 0.1
    has_index_task: bool = True

    def __call__(self, model, batch: Batch) -> Loss:
        target, rejected = batch.target[batch.target >= 0], batch.extra["rejected"][:, 0]
        rows, compared = len(target), 3 if self.contrast else 2  # [target, rejected, alike]: who is not compared is not read
        items = torch.cat([target, rejected, batch.extra["alike"]])[: compared * rows]
        user = model.read_history(batch.item)
        content = model.read_items(items, batch.extra["takers"][:, :compared].T.flatten())
        states = content.summary.unflatten(0, (compared, rows))

        parts = {"user": code_loss(model.write(user, target), model.codes[target])}
        if self.has_index_task:  # one mean over both items, twice: their sum
            indexed = items[: 2 * rows]
            parts["index"] = 2 * code_loss(model.write(content.first(2 * rows), indexed), model.codes[indexed])
        total = self.generation * (parts["user"] + parts.get("index", 0.0))
        parts["bpr"] = _ranked(user.summary, states[0], states[1])
        total = total + self.ranking * parts["bpr"]
        if self.contrast:
            parts["contrast"] = _ranked(states[0], states[2], states[1])
            total = total + self.contrast * parts["contrast"]
        return Loss(total, parts)


def code_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean over items and levels of -log p(code). logits float [B, L, V]; codes integer [B, L], -1 where an item has no more of them."""
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten().long(), ignore_index=-1)


def _ranked(anchor: Tensor, better: Tensor, worse: Tensor) -> Tensor:
    """`bpr` of dot products of states [B, D], in float32."""
    anchor = anchor.float()
    return bpr((anchor * better.float()).sum(1), (anchor * worse.float()).sum(1, keepdim=True))
