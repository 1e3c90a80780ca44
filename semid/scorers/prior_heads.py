"""A scorer with several heads: each ranks the items that carry its prior, and the lists become one.

Source: arXiv 2511.10492. Axes: B rows, S positions, D width, H heads, C priors, N items.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.nn.prior_heads import FreeHeads, PriorHeads
from semid.nn.transformer import last_state
from semid.scorers.sasrec import SASRec
from semid.types import Batch

Merge = Literal["combine", "average", "mixture"]
PRIOR_EVENTS = 5
"""Events that the catalogue's tags stand for beside those of a history, in the weights of a mixture."""


class PriorHeadScorer(nn.Module):
    """Heads on the states of a SASRec (or HSTU in its place); a score is the scale times the cosine of a head and an item.

    tags: bool [N, C], which priors an item carries; an item of none is never ranked by heads that have a prior.
    merge: combine: an item has its best head's score, which is the pooled, sorted and deduplicated list of all heads; average: the mean
    of its heads'; mixture (not in the paper): a log-probability, of the mean over heads of the softmax over the items of the head's prior,
    weighed by the prior's share of the user's history, `PRIOR_EVENTS` of the catalogue's shares added. Scores of heads share table,
    cosine and the one learnt scale (1 / .05 at first, at most 100); a head of a rare prior has fewer items to choose from, all the same,
    and is surer of them, which the mixture alone takes into account.
    horizon: which segment's heads answer, None = all. gate: a classifier says from the state which priors will come; heads of the
    others, below the threshold in [0, 1], are off for that user (the likeliest stays on). None = no classifier.
    """

    tags: Tensor

    def __init__(self, body: SASRec, heads: PriorHeads | FreeHeads, tags: Tensor, *, merge: Merge = "combine", horizon: int | None = None,
                 gate: float | None = None):
        super().__init__()
        self.body, self.heads, self.merge, self.threshold = body, heads, merge, gate
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.05)))
        self.gate = None if gate is None else nn.Linear(body.item.embedding_dim, tags.shape[1])
        self.register_buffer("tags", tags)
        self.answering = [h for h, segment in enumerate(heads.segment.tolist()) if horizon is None or segment in (-1, horizon)]
        if not self.answering:
            raise ConfigError(f"prior heads: want a horizon that some head answers for, got {horizon}")

    def scale(self) -> Tensor:
        with torch.no_grad():  # the parameter, not its value: a value that is clamped passes no gradient, and would never come back
            self.log_scale.clamp_(max=math.log(100.0))
        return self.log_scale.exp()

    def states(self, batch: Batch) -> Tensor:
        """Return [B, S, D], before the heads."""
        return self.body.states(batch)

    def item_vectors(self) -> Tensor:
        """Return unit vectors [N, D]."""
        return F.normalize(self.body.item_vectors(), dim=1)

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N] of the merged heads; -inf for items that no open head ranks."""
        return self._merged(batch, self.answering)

    def score_of(self, batch: Batch, prior: int) -> Tensor:
        """Return float32 [B, N] of the heads of one prior, whether or not it is likely; -inf for items that don't carry it.

        Raises `ConfigError` where the heads know of no priors.
        """
        chosen = [h for h in self.answering if int(self.heads.prior[h]) == prior]
        if not chosen:
            raise ConfigError(f"prior heads: no head answers for prior {prior}; want one of those the model was trained with")
        return self._merged(batch, chosen, is_gated=False)

    def _merged(self, batch: Batch, heads: list[int], is_gated: bool = True) -> Tensor:
        state = last_state(self.states(batch), batch.length)
        is_open = self._open(state) if is_gated and self.gate is not None else None
        table, every = self.item_vectors(), self.heads(state)
        start = -torch.inf if self.merge == "combine" else 0.0
        found = torch.full((len(state), len(table)), start, device=state.device)
        count = torch.zeros_like(found)
        share = self._share(batch) if self.merge == "mixture" else None
        for head in heads:
            prior = int(self.heads.prior[head])
            items = slice(None) if prior < 0 else torch.nonzero(self.tags[:, prior]).squeeze(1)
            score = self.scale() * (F.normalize(every[head], dim=1) @ table[items].T).float()
            is_on = score.new_ones(len(score), 1) if is_open is None or prior < 0 else is_open[:, prior, None].float()
            if self.merge == "combine":
                found[:, items] = torch.maximum(found[:, items], score.masked_fill(is_on == 0, -torch.inf))
            elif share is not None:
                found[:, items] += score.softmax(1) * (is_on if prior < 0 else is_on * share[:, prior, None])
            else:
                found[:, items] += score * is_on
                count[:, items] += is_on
        if self.merge == "average":
            return (found / count.clamp_min(1)).masked_fill(count == 0, -torch.inf)
        return found if share is None else (found / found.sum(1, keepdim=True)).log()

    def _share(self, batch: Batch) -> Tensor:
        """float32 [B, C]: of the history's events and `PRIOR_EVENTS` of the catalogue, those that carry each prior."""
        is_read = batch.item >= 0
        events = (self.tags[batch.item.clamp_min(0)] & is_read[..., None]).sum(1)
        return (events + PRIOR_EVENTS * self.tags.float().mean(0)) / (is_read.sum(1, keepdim=True) + PRIOR_EVENTS)

    def _open(self, state: Tensor) -> Tensor:
        """bool [B, C]: the priors whose heads are on."""
        assert self.gate is not None
        assert self.threshold is not None
        likely = torch.sigmoid(self.gate(state))
        return (likely >= self.threshold) | (likely == likely.amax(1, keepdim=True))
