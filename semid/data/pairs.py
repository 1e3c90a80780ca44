"""Training batches of data without order: pairs of a user and an item, and histories that are sets.

All are pure functions of the step, as those of `data.batch`. Axes: E distinct pairs, B rows, K negatives, S history positions.
"""

from __future__ import annotations

import numpy as np
import torch

from semid.errors import DataError
from semid.types import Batch, Interactions


class Pairs:
    """The distinct (user, item) pairs of training rows, by user: user, item int32 [E]; offsets int64 [U + 1]."""

    def __init__(self, train: Interactions):
        self.num_items = len(train.items)
        self.key = np.unique(train.user.astype(np.int64) * self.num_items + train.item)
        self.user, self.item = self.key // self.num_items, self.key % self.num_items
        self.offsets = np.searchsorted(self.user, np.arange(len(train.users) + 1))

    def __len__(self) -> int:
        return len(self.key)

    def by_user(self, users: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return `count` pairs, int64: each time one of `users` evenly, then one of his items."""
        user = rng.choice(users, count)
        return rng.integers(self.offsets[user], self.offsets[user + 1])

    def negatives(self, user: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return int64 [B, count]: for each user int64 [B] items that he has not, each of them equally likely."""
        drawn = rng.integers(self.num_items, size=(len(user), count))
        while True:
            key = user[:, None] * self.num_items + drawn
            found = self.key[np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)] == key
            if not found.any():
                return drawn
            drawn[found] = rng.integers(self.num_items, size=int(found.sum()))


class PairBatches:
    """A user, an item that he took (`extra["chosen"]`, int64 [B]) and `negatives` that he did not (`extra["rejected"]`, [B, K]).

    An epoch holds as many rows as there are pairs. is_by_user: a user is drawn evenly, then one of his items (the code of NGCF and
    LightGCN); otherwise each pair comes once an epoch, so that users with many events weigh more. Users who took everything have no
    negatives and don't come. The batch's histories are empty.
    """

    def __init__(self, train: Interactions, *, batch_size: int, negatives: int = 1, is_by_user: bool = False, seed: int):
        self.pairs = Pairs(train)
        self.batch_size, self.num_negatives, self.is_by_user, self.seed = batch_size, negatives, is_by_user, seed
        counts = np.diff(self.pairs.offsets)
        self.users = np.flatnonzero((counts > 0) & (counts < self.pairs.num_items))
        self.rows = np.flatnonzero(counts[self.pairs.user] < self.pairs.num_items)
        if not len(self.rows):
            raise DataError("pairs: want users who have not taken every item, got none; there is nothing to rank")
        self.steps_per_epoch = max(1, len(self.rows) // batch_size)
        self._plan: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def at(self, step: int) -> Batch:
        """Return batch number `step`, 0-based over epochs; the same bits each time."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, self._rows_of(np.random.default_rng((self.seed, epoch))))
        row = self._plan[1][index * self.batch_size : (index + 1) * self.batch_size]
        user = self.pairs.user[row]
        rejected = self.pairs.negatives(user, self.num_negatives, np.random.default_rng((self.seed, epoch, index)))
        nothing = torch.full((len(row), 1), -1)
        return Batch(nothing, torch.zeros_like(nothing), torch.zeros(len(row), dtype=torch.int64), nothing, torch.from_numpy(user),
                     extra={"chosen": torch.from_numpy(self.pairs.item[row]), "rejected": torch.from_numpy(rejected)})

    def _rows_of(self, rng: np.random.Generator) -> np.ndarray:
        """Return the pairs of an epoch, int64, in its order."""
        return self.pairs.by_user(self.users, len(self.rows), rng) if self.is_by_user else rng.permutation(self.rows)


class SetBatches:
    """One target a row, and up to `max_length` of the user's other training items as history, drawn anew each time and in no order.

    Every distinct (user, item) pair is a target once an epoch, if the user has another item; is_by_user: as for `PairBatches`. The target
    is supervised at the last position, and never in the history itself. Rows of like length share a batch. Times are 0.
    """

    def __init__(self, train: Interactions, *, max_length: int, batch_size: int, is_by_user: bool = False, seed: int):
        self.pairs = Pairs(train)
        self.max_length, self.is_by_user, self.seed = max_length, is_by_user, seed
        self.others = np.diff(self.pairs.offsets) - 1  # [U]
        self.targets = np.flatnonzero(self.others[self.pairs.user] > 0)
        if not len(self.targets):
            raise DataError("sets: want users with at least two items to train on, got none")
        self.steps_per_epoch = -(-len(self.targets) // batch_size)
        self._plan: tuple[int, np.ndarray, list[np.ndarray]] = (-1, np.empty(0, np.int64), [])

    def at(self, step: int) -> Batch:
        """Return batch number `step`, 0-based over epochs; the same bits each time."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, *self._epoch(np.random.default_rng((self.seed, epoch))))
        _, item, places = self._plan
        place = places[index]
        user = self.pairs.user[place]
        first, others = self.pairs.offsets[user], self.others[user]
        length = np.minimum(others, self.max_length)
        # A user's items stand in a circle in random order: a window of it that leaves out the target is an even draw of the others.
        start = np.random.default_rng((self.seed, epoch, index)).integers(others)
        ahead = 1 + (start[:, None] + np.arange(int(length.max()))) % others[:, None]  # [B, S] in 1 .. others
        chosen = first[:, None] + ((place - first)[:, None] + ahead) % (others + 1)[:, None]
        inside = np.arange(chosen.shape[1]) < length[:, None]
        history = torch.from_numpy(np.where(inside, item[chosen], -1))
        targets = torch.full_like(history, -1)
        targets[torch.arange(len(place)), torch.from_numpy(length - 1)] = torch.from_numpy(item[place])
        return Batch(history, torch.zeros_like(history), torch.from_numpy(length), targets, torch.from_numpy(user))

    def _epoch(self, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the items int64 [E], each user's in a new order, and for each batch the places of its targets among them."""
        item = self.pairs.item[np.lexsort((rng.random(len(self.pairs)), self.pairs.user))]
        if self.is_by_user:
            target = self.pairs.by_user(np.flatnonzero(self.others > 0), len(self.targets), rng)
        else:
            target = self.targets
        length = np.minimum(self.others[self.pairs.user[target]], self.max_length)
        target = target[np.lexsort((rng.random(len(target)), length))]
        batches = np.array_split(target, self.steps_per_epoch)
        return item, [batches[number] for number in rng.permutation(self.steps_per_epoch)]
