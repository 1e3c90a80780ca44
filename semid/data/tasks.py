"""Batches that mix tasks for a language model: what comes after a history, and what one item is in other words.

Axes: B rows, S history positions, N items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from semid.data.batch import _gather
from semid.errors import ConfigError
from semid.types import Batch, Interactions


class TaskBatches:
    """One target a row and the number of a task, `extra["task"]` int64 [B]. A pure function of the step.

    histories: {task: most}, tasks that get each training event but a user's first as target after up to `max_length` items before it;
    most: so many of them, drawn once (None = all). items: tasks that get each of the `num_items` items as target of an empty history.
    An epoch is one pass over the rows of all tasks, shuffled together; what doesn't fill a batch is left for the next.
    """

    def __init__(self, train: Interactions, *, histories: Mapping[int, int | None], items: Sequence[int], num_items: int, max_length: int,
                 batch_size: int, seed: int):
        self.events, self.max_length, self.seed = train, max_length, seed
        first = train.offsets[train.user]
        targets = np.flatnonzero(np.arange(len(train)) > first)
        if not len(targets):
            raise ConfigError("tasks: want users with at least two training events, got none")
        rng = np.random.default_rng(seed)
        parts = [(task, targets if most is None else rng.permutation(targets)[:most]) for task, most in histories.items()]
        parts += [(task, -1 - np.arange(num_items)) for task in items]  # below 0: item -1 - row, after nothing
        self.task = np.concatenate([np.full(len(rows), task) for task, rows in parts])
        self.row = np.concatenate([rows for _, rows in parts])
        self.batch_size = min(batch_size, len(self.row))
        self.steps_per_epoch = len(self.row) // self.batch_size
        self._first = first
        self._plan: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def at(self, step: int) -> Batch:
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self.row)))
        chosen = self._plan[1][index * self.batch_size : (index + 1) * self.batch_size]
        row, task = self.row[chosen], self.task[chosen]
        end = np.maximum(row, 0)
        begin = np.where(row < 0, end, np.maximum(self._first[end], end - self.max_length))
        batch = _gather(self.events, begin, end, request=self.events.time[end])
        target = np.where(row < 0, -1 - row, self.events.item[end]).astype(np.int64)
        batch.target[torch.arange(len(row)), (batch.length - 1).clamp_min(0)] = torch.from_numpy(target)
        batch.extra["task"] = torch.from_numpy(task.astype(np.int64))
        return batch
