"""Popularity: the same list for everybody, items by their training events, all or those shortly before the request.

Axes: B rows, N items, E events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.errors import DataError
from semid.nn.loop import loop
from semid.types import DAY, Batch, Interactions


@dataclass(frozen=True)
class Popularity:
    """counts float32 [N]: training events of each item."""

    counts: Tensor

    @classmethod
    def fit(cls, train: Interactions) -> Popularity:
        return cls(torch.from_numpy(train.counts).float())

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N], equal rows."""
        return self.counts.expand(len(batch), -1)


@dataclass(frozen=True)
class RecentPopularity:
    """What is taken at the time of the request: one more than an item's training events in the window [request - window, request).

    A request after the last training event, or of no known time, counts as made right after that event: what was recent when training
    ended stays so. The one keeps an item that nobody took lately comparable with others when scores are pooled.

    item, time int64 [E]: training events, oldest first, UTC seconds; window int64 []: seconds; one float32 [N]: ones.
    Source: Ji et al., SIGIR 2020 (arXiv 2005.13829): popularity at the time when a user comes; the window of days is ours.
    """

    item: Tensor
    time: Tensor
    window: Tensor
    one: Tensor

    @classmethod
    def fit(cls, train: Interactions, *, days: float = 30.0) -> RecentPopularity:
        """Raises `DataError` where the events have an order but no times."""
        if train.time_unit != "seconds":
            raise DataError("recent popularity: want events with times, these have an order alone; take popularity of all training, or "
                            "name the column of times with --time")
        order = np.argsort(train.time, kind="stable")
        return cls(torch.from_numpy(train.item[order].astype(np.int64)), torch.from_numpy(train.time[order]),
                   torch.tensor(round(days * DAY)), torch.ones(len(train.items)))

    def with_items(self, count: int) -> RecentPopularity:
        """Return the scorer of `count` more items, which nobody took yet."""
        return replace(self, one=F.pad(self.one, (0, count), value=1.0))

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N] >= 1."""
        if batch.request is None:
            return self._latest.expand(len(batch), -1)
        moment, row = batch.request.clamp_max(self._end).unique(return_inverse=True)  # rising
        if is_late := bool(len(moment)) and bool(moment[-1] == self._end):
            moment = moment[:-1]
        if not len(moment):
            return self._latest.expand(len(batch), -1)
        counted = self._counted(moment)
        return (torch.cat([counted, self._latest]) if is_late else counted)[row]

    def _counted(self, moment: Tensor) -> Tensor:
        scores = self.one.repeat(len(moment), 1)
        begin, end = torch.searchsorted(self.time, torch.stack([moment - self.window, moment]))
        _add(self.item.numpy(), begin.numpy(), end.numpy(), scores.numpy())
        return scores

    @cached_property
    def _end(self) -> Tensor:
        return self.time[-1] + 1

    @cached_property
    def _latest(self) -> Tensor:
        """float32 [1, N]: the answer to every request of a service, counted once."""
        return self._counted(self._end[None])


@loop()
def _add(item, begin, end, scores):
    """Count item[begin:end] of each row into scores [B, N]."""
    for row in range(len(begin)):
        for place in range(begin[row], end[row]):
            scores[row, item[place]] += 1
