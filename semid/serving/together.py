"""Who took what: the users two items have in common, from training rows. Axes: N items, P distinct (item, user) pairs."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from semid.types import Interactions


class Together:
    """Cosine of co-occurrence: common users / sqrt(users of a x users of b). Sorted once, at the first question: O(E log E)."""

    def __init__(self, train: Interactions):
        self.train = train

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(user int64 [P] sorted by item; offsets int64 [N + 1] into it; user * N + item int64 [P], sorted)."""
        users = np.int64(len(self.train.users))  # 64 bits: the products exceed 32
        by_item = np.unique(self.train.item * users + self.train.user)
        offsets = np.searchsorted(by_item, np.arange(len(self.train.items) + 1) * users)
        by_user = np.unique(self.train.user * np.int64(len(self.train.items)) + self.train.item)
        return by_item % users, offsets, by_user

    def near(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (item rows int64, cosine float64) of all items that share a user with `item`, the nearest first."""
        users, offsets, by_user = self._pairs
        items = np.int64(len(self.train.items))
        if item >= items:
            return np.empty(0, np.int64), np.empty(0)  # came after training
        own = users[offsets[item] : offsets[item + 1]]
        begin, end = np.searchsorted(by_user, own * items), np.searchsorted(by_user, (own + 1) * items)
        taken = np.concatenate([by_user[b:e] for b, e in zip(begin, end, strict=True)] or [np.empty(0, np.int64)]) % items
        other, common = np.unique(taken[taken != item], return_counts=True)
        cosine = common / np.sqrt(len(own) * np.diff(offsets)[other])
        order = np.argsort(-cosine, kind="stable")
        return other[order], cosine[order]
