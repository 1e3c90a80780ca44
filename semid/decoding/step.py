"""Beam search in plain tensor operations on any device: level by level, the best living children of a row's beams.

Children are ordered by (log-probability, falling; node, rising), at the last level by (log-probability, falling;
item row, rising): a total order, so the same input gives the same bits. A path of log-probability -inf is none.
`fused` does the same in compiled loops on the CPU.

Forced tails: normalised over children, a node of one item is sure of the rest of its path, whatever the logits. So only beams at
other nodes ("open") are stepped; below a forced node there is no open one.

Axes: B rows, K beams entering a level, J leaving it, R = B * K, V codes, W children of the widest node, s seen items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from semid.decoding.normalise import Normalise, advance, log_probabilities, pad_children
from semid.protocols import Generator
from semid.tree import CodeTree, Constraint
from semid.types import Batch


class Frontier(NamedTuple):
    """The beams between two levels, best first. node int64 [B, K] (0 where none); logp float32 [B, K] (-inf where none)."""

    node: Tensor
    logp: Tensor


@dataclass(frozen=True)
class Limits:
    """Which items may be returned. cum: as in `Constraint`, or None = all.
    seen: int64 [B, s] sorted positions of seen items, rising, without repeats; N pads right; s may be 0."""

    cum: tuple[Tensor, ...] | None
    seen: Tensor
    levels: int

    @cached_property
    def arrays(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For compiled code, on the CPU: per level (cum, seen), the same memory; cum is empty where all are allowed."""
        empty = np.empty(0, dtype=np.int32)
        cum = [empty] * self.levels if self.cum is None else [cum.numpy() for cum in self.cum]
        return [(each, self.seen.numpy()) for each in cum]


def prepare_limits(tree: CodeTree, constraint: Constraint | None, seen: Tensor | None, rows: int) -> Limits:
    """Prepare a request's limits, once. seen: item rows int64 [B, s], -1 pads anywhere."""
    cum = None if constraint is None else constraint.cum
    if seen is None or seen.numel() == 0:
        return Limits(cum, torch.empty(rows, 0, dtype=torch.int64, device=tree.device), tree.levels)
    position = tree.position_of(seen.clamp_min(0).flatten()).view(seen.shape)
    void = seen < 0
    if cum is not None:  # only an allowed item can be taken away from the allowed ones
        void |= cum[-1][position + 1] == cum[-1][position]
    position = position.masked_fill(void, len(tree)).sort(dim=1).values
    repeated = position[:, 1:] == position[:, :-1]
    position[:, 1:] = position[:, 1:].masked_fill(repeated, len(tree))
    return Limits(cum, position.sort(dim=1).values, tree.levels)


def alive(tree: CodeTree, level: int, node: Tensor, limit: Limits) -> Tensor:
    """Return bool [B, C]: do nodes int64 [B, C] of `level` hold an item that may be returned to their row?"""
    begin, end = tree.interval(level, node)
    count = end - begin if limit.cum is None else limit.cum[level][node + 1] - limit.cum[level][node]
    if limit.seen.shape[1] == 0:
        return count > 0
    return count > torch.searchsorted(limit.seen, end) - torch.searchsorted(limit.seen, begin)


def expand(tree: CodeTree, level: int, logits: Tensor, beams: Frontier, width: int, *, normalise: Normalise, weight: float,
           limit: Limits) -> tuple[Frontier, Tensor]:
    """Return the best J = `width` living children of the beams, and the row int64 [B * J] of `logits` each comes from.

    logits: float32 [R, V] of what follows each beam. Where there are fewer, logp is -inf, node 0 and the row a valid one.
    """
    rows, k = beams.node.shape
    child, code, exists = pad_children(tree, level, beams.node.flatten())
    logp = log_probabilities(tree, level, logits, beams.node.flatten(), normalise).gather(1, code.clamp_min(0))
    logp = advance(beams.logp.view(-1, 1), logp, code, weight)
    child, exists, logp = child.view(rows, -1), exists.view(rows, -1), logp.view(rows, -1)
    logp = logp.masked_fill(~(exists & alive(tree, level, child, limit)), -torch.inf)

    tie = tree.order[child].long() if level == tree.levels - 1 else child
    index = order_key(logp, tie).topk(min(width, child.shape[1]), dim=1).indices
    best = logp.gather(1, index)
    none = best == -torch.inf
    parent = (index // (child.shape[1] // k)).masked_fill(none, 0)
    node = child.gather(1, index).masked_fill(none, 0)
    missing = (0, width - index.shape[1])
    row = pad(parent, missing) + torch.arange(rows, device=parent.device)[:, None] * k
    return Frontier(pad(node, missing), pad(best, missing, value=-torch.inf)), row.flatten()


def follow(tree: CodeTree, level: int, logits: Tensor, node: Tensor, code: Tensor, *, normalise: Normalise) -> tuple[Tensor, Tensor]:
    """Return (the child int64 [R] of nodes [R] with the given codes int64 [R], which exist; its log-probability float32 [R], 0 for
    padding). logits: float32 [R, V] of what follows each node."""
    logp = log_probabilities(tree, level, logits, node, normalise).gather(1, code.clamp_min(0)[:, None]).squeeze(1)
    return tree.child(level, node, code), logp.masked_fill(code < 0, 0.0)


def search(generator: Generator, batch: Batch, tree: CodeTree, widths: Sequence[int], *, normalise: Normalise,
           weights: Sequence[float], limit: Limits) -> Frontier:
    """Return the beams after the last level. widths: how many are kept, one a level; weights: of `check_levels`."""
    rows = len(batch)
    logits, state = generator.step(generator.start(batch), None)
    root = torch.zeros(rows, 1, dtype=torch.int64, device=tree.device)
    frontier = Frontier(root, torch.zeros(rows, 1, device=tree.device))
    slot = torch.arange(rows, device=tree.device)  # [B * K]: which row of the state a beam's is
    for level, width in enumerate(widths):
        frontier, row = expand(tree, level, logits.float(), frontier, width, normalise=normalise, weight=weights[level], limit=limit)
        if level == tree.levels - 1:
            break
        codes = tree.code[level][frontier.node].long().clamp_min(0)  # [B, J]
        begin, end = tree.interval(level, frontier.node)
        is_open = end - begin > 1 if normalise == "children" else torch.ones_like(begin, dtype=torch.bool)
        num_open = int(is_open.sum(1).max())
        logits = logits.new_zeros(codes.numel(), logits.shape[1])
        if num_open:
            pick = is_open.int().argsort(dim=1, descending=True, stable=True)[:, :num_open]  # [B, num_open]
            state = state.select(slot[row].view_as(codes).gather(1, pick).flatten())
            stepped, state = generator.step(state, codes.gather(1, pick).flatten())
            beam = (pick + codes.shape[1] * torch.arange(rows, device=pick.device)[:, None]).flatten()
            # A row with fewer open beams is filled up with forced ones, whose states may be anybody's: nothing is read of them.
            stepped_open = is_open.gather(1, pick).flatten()
            logits[beam[stepped_open]] = stepped[stepped_open]
            slot = slot.new_zeros(codes.numel())
            slot[beam] = torch.arange(len(beam), device=pick.device)
    return frontier


def order_key(score: Tensor, tie: Tensor) -> Tensor:
    """Return int64 keys that rise with the float32 score and, where it is equal, fall with tie in [0, 2^31)."""
    bits = (score + 0.0).view(torch.int32).long()  # + 0.0: -0 and 0 are one score
    rising = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return (rising << 31) - tie
