"""Arrays in, batches out. Training batches are a pure function of the step, so a resumed run sees the same bits.

Axes: B rows, S history positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from semid.errors import ConfigError, DataError
from semid.types import Batch, Cases, Interactions, Split


def want_pairs(found: np.ndarray) -> None:
    """Raise `DataError` where no user has an event after another one in training: there is nothing to predict."""
    if not len(found):
        raise DataError("training: want users with at least two training events, got none; read longer histories, or take another split")


class SequenceBatches:
    """Whole histories, every position supervised in one pass, for models that are causal.

    A user's events are cut into windows of `max_length` targets; each event but the first is a target once an epoch.
    Where a user needs several windows the cut points move with the epoch, so that contexts of all lengths occur.
    Rows of equal length share a batch (almost no padding); a batch holds about `tokens` positions. An epoch has as many batches as the
    first one: where other cuts make fewer or more, a batch comes twice or is left out.
    """

    def __init__(self, train: Interactions, *, max_length: int, tokens: int, seed: int):
        self.events, self.max_length, self.tokens, self.seed = train, max_length, tokens, seed
        counts = np.diff(train.offsets)
        self._users = np.flatnonzero(counts >= 2)
        want_pairs(self._users)
        self._counts = counts[self._users]
        self._plan: tuple[int, list[np.ndarray]] = (-1, [])
        self.steps_per_epoch = len(self._batches_of(0))

    def _windows(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(begin, end) of each window in events: inputs are [begin, end - 1), targets [begin + 1, end)."""
        long = self._counts - 1 > self.max_length
        first = self.events.offsets[self._users]
        begins, ends = [first[~long]], [first[~long] + self._counts[~long]]
        for start, count in zip(first[long], self._counts[long]):
            cuts = np.arange(count - 1 - rng.integers(self.max_length), 0, -self.max_length)
            cuts = np.concatenate([[count - 1], cuts, [0]])
            cuts = np.unique(cuts)  # targets of a window are the events (cuts[i], cuts[i+1]]
            begins.append(start + cuts[:-1])
            ends.append(start + cuts[1:] + 1)
        return np.concatenate(begins), np.concatenate(ends)

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        begin, end = self._windows(rng)
        length = end - begin - 1
        order = np.lexsort((rng.random(len(begin)), length))
        begin, end, length = begin[order], end[order], length[order]
        batches, row = [], 0
        while row < len(length):
            # The widest row decides the padding: grow the batch while rows x width fits.
            width_at = length[row : row + self.tokens]
            fits = (np.arange(1, len(width_at) + 1) * width_at) <= self.tokens
            take = max(1, int(fits.sum()))
            batches.append(np.stack([begin[row : row + take], end[row : row + take]], axis=1))
            row += take
        return [batches[i] for i in rng.permutation(len(batches))]

    def at(self, step: int) -> Batch:
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, self._batches_of(epoch))
        plan = self._plan[1]
        windows = plan[index % len(plan)]  # later epochs may have a batch more or fewer; the pass stays whole on average
        end = windows[:, 1] - 1
        return _gather(self.events, windows[:, 0], end, request=self.events.time[end], targets_to=windows[:, 1])


class NeighbourTargets:
    """Batches in which some targets are replaced by what other users took around the same items: item-kNN as a soft label.

    A rare item's few successors are an accident, its neighbours less so. A position whose item was taken n times in training is
    redrawn with probability prior / (prior + n), as if its neighbours had been seen `prior` times: an item of the history, each step
    back `decay` times as likely as the one after it, then one of that item's neighbours by weight. What the user already has never
    becomes a target. A pure function of the step, as the batches are.

    Source: this project; the expected loss is a cross-entropy with soft labels, as in distillation (Hinton et al. 2015,
    arXiv 1503.02531, section 2), of which one label is sampled: no dearer than the hard one.

    batches: with targets. neighbour int32 [N, K] (-1 pad), weight float32 [N, K] >= 0 (0 pad), as item-kNN has them;
    counts int64 [N]: training events of each item. prior >= 0, in events; decay in [0, 1).
    """

    def __init__(self, batches: SequenceBatches, neighbour: torch.Tensor, weight: torch.Tensor, counts: np.ndarray, *, prior: float,
                 decay: float = 0.5, seed: int):
        self.batches, self.decay, self.seed = batches, decay, seed
        self.neighbour = neighbour.numpy()
        self.cumulative = weight.double().cumsum(1).numpy()  # [N, K]
        self.share = np.where(self.cumulative[:, -1] > 0, prior / np.maximum(prior + counts, 1e-9), 0.0)  # [N]
        self.steps_per_epoch = batches.steps_per_epoch

    def at(self, step: int) -> Batch:
        batch = self.batches.at(step)
        rng = np.random.default_rng((self.seed, step, 1))
        item, target = batch.item.numpy(), batch.target.numpy().copy()
        row, position = np.nonzero((target >= 0) & (rng.random(target.shape) < self.share[np.maximum(item, 0)]))
        back = np.minimum(rng.geometric(1 - self.decay, len(row)) - 1, position)
        source = item[row, position - back]
        cumulative = self.cumulative[source]  # [M, K]
        place = (cumulative <= (rng.random(len(row)) * cumulative[:, -1])[:, None]).sum(1)
        drawn = self.neighbour[source, np.minimum(place, cumulative.shape[1] - 1)]
        owned = ((item[row] == drawn[:, None]) & (np.arange(item.shape[1]) <= position[:, None])).any(1)
        use = ~owned & (drawn >= 0)  # an item back in the history may have no neighbours
        target[row[use], position[use]] = drawn[use]
        return replace(batch, target=torch.from_numpy(target))


class TargetBatches:
    """One target a row with up to `max_length` items before it, as encoder-decoders read them (TIGER, LETTER, GRID).

    has_random_start: the history begins at a random earlier event instead of the earliest one, so that over the epochs all
    contiguous sub-sequences train (GRID's augmentation).
    """

    def __init__(self, train: Interactions, *, max_length: int, batch_size: int, seed: int, has_random_start: bool = False):
        self.events, self.max_length, self.batch_size, self.seed = train, max_length, batch_size, seed
        self.has_random_start = has_random_start
        first = train.offsets[train.user]
        self._targets = np.flatnonzero(np.arange(len(train)) > first)
        want_pairs(self._targets)
        self._first = first[self._targets]
        self.steps_per_epoch = max(1, len(self._targets) // batch_size)
        self._plan: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def at(self, step: int) -> Batch:
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, np.random.default_rng((self.seed, epoch)).permutation(len(self._targets)))
        rows = self._plan[1][index * self.batch_size : (index + 1) * self.batch_size]
        end = self._targets[rows]
        begin = np.maximum(self._first[rows], end - self.max_length)
        if self.has_random_start:
            begin = np.random.default_rng((self.seed, epoch, index)).integers(begin, end)
        batch = _gather(self.events, begin, end, request=self.events.time[end])
        batch.target[torch.arange(len(rows)), batch.length - 1] = torch.from_numpy(self.events.item[end].astype(np.int64))
        return batch


class SessionBatches:
    """One session a row: up to `items` items in a row (`extra["session"]`, int64 [B, P]) and up to `max_length` items before them.

    Every event but a user's first begins a session once an epoch. All sessions of a batch have one length, that of the latest ones is
    shorter than `items`; is_whole leaves those out. least_value: sessions whose mean value is lower are left out (the paper trains on good
    ones alone). The first item is the target after the history. Where events have values, `extra["reward"]` float32 [B, P] has them.

    Source: OneRec, arXiv 2502.18965, section 3.2: there a session is what one request showed.
    """

    def __init__(self, train: Interactions, *, max_length: int, items: int, batch_size: int, seed: int, is_whole: bool = False,
                 least_value: float | None = None):
        self.events, self.max_length, self.batch_size, self.seed = train, max_length, batch_size, seed
        first, end = train.offsets[train.user], train.offsets[train.user + 1]
        begin = np.flatnonzero(np.arange(len(train)) > first)
        length = np.minimum(end[begin] - begin, items)
        is_good = length == items if is_whole else np.ones(len(begin), bool)
        if least_value is not None:
            if train.value is None:
                raise ConfigError("sessions: least_value compares values, which these events don't have; leave it out")
            total = np.concatenate([[0.0], np.cumsum(train.value, dtype=np.float64)])
            is_good &= (total[begin + length] - total[begin]) / length >= least_value
        if not is_good.any():
            raise ConfigError(f"sessions: want one session of {items} items at least, got none; choose shorter ones or a lower value")
        self._begin, self._length, self._first = begin[is_good], length[is_good], first[begin[is_good]]
        self._plan: tuple[int, list[np.ndarray]] = (-1, [])
        self.steps_per_epoch = len(self._batches_of(0))

    def _batches_of(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, epoch))
        batches = []
        for length in np.unique(self._length):
            rows = rng.permutation(np.flatnonzero(self._length == length))
            batches += np.array_split(rows, -(-len(rows) // self.batch_size))
        return [batches[i] for i in rng.permutation(len(batches))]

    def at(self, step: int) -> Batch:
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, self._batches_of(epoch))
        rows = self._plan[1][index]
        begin, length = self._begin[rows], self._length[rows]
        batch = _gather(self.events, np.maximum(self._first[rows], begin - self.max_length), begin, request=self.events.time[begin])
        session = _padded(self.events.item, begin, begin + length, -1)
        batch.target[torch.arange(len(rows)), batch.length - 1] = session[:, 0]
        batch.extra["session"] = session
        if self.events.value is not None:
            place = begin[:, None] + np.arange(session.shape[1])
            batch.extra["reward"] = torch.from_numpy(self.events.value[place])
        return batch


LISTED = 64
"""Cases whose lists are made together. Beam search keeps keys, values and activations of every beam of each: at this size they stay in a
processor's cache (TIGER's shape, 50 beams: half the time of 512 cases, which hold gigabytes), and no system here is slower by it."""


def case_batches(split: Split, cases: Cases, *, tokens: int = 16_384, most: int = 512) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield (rows int64 [B], Batch without targets) over all cases, histories cut to the protocol's max_history.

    Cases of like length share a batch; `rows` says which cases they are. tokens: places of a batch; most: its cases, see `LISTED`. Where a
    history was cut, `extra["seen"]` holds all of it; `extra["request"]` is the time of the first target: a service knows when it is asked.
    """
    begin = np.maximum(cases.history_begin, cases.history_end - split.protocol.max_history)
    length = cases.history_end - begin
    order = np.argsort(length, kind="stable")
    row = 0
    while row < len(order):
        widths = length[order[row : row + most]]
        take = max(1, int((np.arange(1, len(widths) + 1) * np.maximum(widths, 1) <= tokens).sum()))
        rows = order[row : row + take]
        batch = _gather(split.events, begin[rows], cases.history_end[rows], request=cases.target_time[cases.target_offsets[rows]],
                        user=cases.user[rows])
        if (cases.history_begin[rows] < begin[rows]).any():
            batch.extra["seen"] = _padded(split.events.item, cases.history_begin[rows], cases.history_end[rows], -1)
        yield rows, batch
        row += take


def latest(batch: Batch, count: int) -> Batch:
    """Return the batch with only the last `count` items of each history; targets stay with their positions, all items stay seen."""
    if batch.item.shape[1] <= count:
        return batch
    skip = (batch.length - count).clamp_min(0)
    position = skip[:, None] + torch.arange(count, device=batch.item.device)  # [B, count]
    inside = position < batch.length[:, None]
    position = position.clamp_max(batch.item.shape[1] - 1)
    take = lambda tensor, pad: None if tensor is None else tensor.gather(1, position).masked_fill(~inside, pad)
    return replace(batch, item=take(batch.item, -1), time=take(batch.time, 0), target=take(batch.target, -1),
                   action=take(batch.action, -1), length=batch.length.clamp_max(count), extra={**batch.extra, "seen": batch.seen})


def history_batch(items: list[np.ndarray], times: list[np.ndarray] | None = None, users: np.ndarray | None = None,
                  *, max_history: int, requests: np.ndarray | None = None) -> Batch:
    """Make a batch from plain histories (oldest first), cut to the last `max_history` items. Empty histories are allowed.

    requests: int64 [B], when each is asked, in the unit of times; None where that is not known.
    """
    whole = [np.asarray(h, np.int64) for h in items]
    items = [h[-max_history:] for h in whole]
    width = max(1, max((len(h) for h in items), default=1))
    batch = _empty(len(items), width, np.full(len(items), -1, np.int64) if users is None else users)
    for row, history in enumerate(items):
        batch.length[row] = len(history)
        batch.item[row, : len(history)] = torch.from_numpy(history)
        if times is not None:
            batch.time[row, : len(history)] = torch.from_numpy(np.asarray(times[row], np.int64)[-max_history:])
    if requests is not None:
        batch.extra["request"] = torch.from_numpy(requests.astype(np.int64))
    if (longest := max((len(h) for h in whole), default=0)) > max_history:
        batch.extra["seen"] = torch.from_numpy(np.stack([np.pad(h, (0, longest - len(h)), constant_values=-1) for h in whole]))
    return batch


def _empty(rows: int, width: int, users: np.ndarray) -> Batch:
    return Batch(item=torch.full((rows, width), -1), time=torch.zeros((rows, width), dtype=torch.int64),
                 length=torch.zeros(rows, dtype=torch.int64), target=torch.full((rows, width), -1),
                 user=torch.from_numpy(np.asarray(users, np.int64)))


def _padded(column: np.ndarray, begin: np.ndarray, end: np.ndarray, pad: int) -> torch.Tensor:
    """Return int64 [B, S]: rows column[begin:end], right-padded to the longest (at least 1)."""
    width = max(1, int((end - begin).max(initial=0)))
    position = begin[:, None] + np.arange(width)
    inside = position < end[:, None]  # [B, S]
    return torch.from_numpy(np.where(inside, column[np.where(inside, position, 0)], pad).astype(np.int64))


def _gather(events: Interactions, begin: np.ndarray, end: np.ndarray, *, request: np.ndarray,
            targets_to: np.ndarray | None = None, user: np.ndarray | None = None) -> Batch:
    """Rows of events [begin, end), right-padded, asked at time `request`; with `targets_to` (= end + 1), position s
    is supervised by event begin + s + 1. user: whose the rows are, else he of their events; without an event nobody (-1)."""
    length = end - begin
    take = lambda column, pad: _padded(column, begin, end, pad)
    item = take(events.item, -1)
    target = torch.full_like(item, -1) if targets_to is None else _padded(events.item, begin + 1, targets_to, -1)
    owner = _padded(events.user, begin, np.minimum(begin + 1, end), -1)[:, 0] if user is None else torch.from_numpy(user.astype(np.int64))
    action = None if events.action is None else take(events.action, -1)
    return Batch(item=item, time=take(events.time, 0), length=torch.from_numpy(length.astype(np.int64)),
                 target=target, user=owner, action=action, extra={"request": torch.from_numpy(request.copy())})
