"""Beam search down the code tree: only paths of real items are walked, so every result is an item that may be shown.

A level's children are ordered by (log-probability, falling; node, rising), the last level's by (log-probability, falling;
item row, rising): a total order, so the same input gives the same bits. A path of log-probability -inf is none.
A node is alive iff it holds more allowed items than seen ones; dead nodes never enter a beam, so no beam dies later,
and beams at least as wide as the catalogue return what exhaustive scoring does.

`expand` below is the plain version, on any device; `fused.expand` does the same in one compiled loop on the CPU.

Axes: B rows, K beams entering a level, J leaving it, R = B * K, V codes, W children of the widest node, s seen items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semid.decoding.normalise import Normalise, advance, check_levels, log_normaliser, pad_children
from semid.errors import ConfigError, SemidError
from semid.protocols import Generator
from semid.tree import CodeTree, Constraint
from semid.types import Batch, Beams


@dataclass(frozen=True)
class Frontier:
    """The beams between two levels, best first. node int64 [B, K] (0 where none); logp float32 [B, K] (-inf where none)."""

    node: Tensor
    logp: Tensor


@dataclass(frozen=True)
class Limits:
    """Which items may be returned. cum: as in `Constraint`, or None = all;
    seen: int64 [B, s] sorted positions of seen items, rising, without repeats; N pads right; s may be 0."""

    cum: Tensor | None
    seen: Tensor


def limits(tree: CodeTree, constraint: Constraint | None, seen: Tensor | None, rows: int) -> Limits:
    """Prepare a request's limits, once. seen: item rows int64 [B, s], -1 pads anywhere."""
    cum = None if constraint is None else constraint.cum
    if seen is None or seen.numel() == 0:
        return Limits(cum, torch.empty(rows, 0, dtype=torch.int64, device=tree.device))
    position = tree.position_of(seen.clamp_min(0).flatten()).view(seen.shape)
    void = seen < 0
    if cum is not None:  # only an allowed item can be taken away from the allowed ones
        void |= cum[position + 1] == cum[position]
    position = position.masked_fill(void, len(tree)).sort(dim=1).values
    repeated = position[:, 1:] == position[:, :-1]
    position[:, 1:] = position[:, 1:].masked_fill(repeated, len(tree))
    return Limits(cum, position.sort(dim=1).values)


def alive(tree: CodeTree, level: int, node: Tensor, limit: Limits) -> Tensor:
    """Return bool [B, C]: do nodes int64 [B, C] of `level` hold an item that may be returned to their row?"""
    begin, end = tree.interval(level, node)
    count = end - begin if limit.cum is None else limit.cum[end] - limit.cum[begin]
    if limit.seen.shape[1] == 0:
        return count > 0
    return count > torch.searchsorted(limit.seen, end) - torch.searchsorted(limit.seen, begin)


def expand(tree: CodeTree, level: int, logits: Tensor, beams: Frontier, width: int, *, normalise: Normalise, weight: float,
           limit: Limits) -> tuple[Frontier, Tensor]:
    """Return the best `width` living children of the beams, and the row int64 [B * J] of `logits` each comes from.

    logits: float32 [R, V] of what follows each beam. Children beyond the last living one have logp -inf.
    """
    rows, k = beams.node.shape
    child, code, exists = pad_children(tree, level, beams.node.flatten())
    norm = log_normaliser(tree, level, logits, beams.node.flatten(), normalise)
    logit = logits.gather(1, code.clamp_min(0))
    logp = advance(beams.logp.view(-1, 1), logit, norm[:, None], code, weight)
    child, exists, logp = child.view(rows, -1), exists.view(rows, -1), logp.view(rows, -1)
    logp = logp.masked_fill(~(exists & alive(tree, level, child, limit)), -torch.inf)

    tie = tree.order[child].long() if level == tree.levels - 1 else child
    index = _order_key(logp, tie).topk(min(width, child.shape[1]), dim=1).indices  # [B, J]
    best = logp.gather(1, index)
    none = best == -torch.inf
    parent = torch.where(none, 0, index // (child.shape[1] // k))
    node = child.gather(1, index).masked_fill(none, 0)
    row = parent + torch.arange(rows, device=parent.device)[:, None] * k
    return Frontier(node, best), row.flatten()


def _order_key(score: Tensor, tie: Tensor) -> Tensor:
    """Return int64 keys that rise with the float32 score and, where it is equal, fall with tie in [0, 2^31)."""
    bits = (score + 0.0).view(torch.int32).long()  # + 0.0: -0 and 0 are one score
    rising = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return (rising << 31) - tie


def beam_search(generator: Generator, batch: Batch, tree: CodeTree, *, beams: int, k: int | None = None,
                constraint: Constraint | None = None, seen: Tensor | None = None, normalise: Normalise = "vocabulary",
                level_weights: Sequence[float] | None = None) -> Beams:
    """Return the best k items of each row, found with at most `beams` paths a level.

    k: length of the result, `beams` if None; it may exceed `beams`. constraint: of `tree.allow`. seen: item rows
    int64 [B, s] never returned (-1 pads). level_weights: L factors of the levels' log-probabilities.
    Items that share their codes have equal scores, lowest row first. Where fewer than k items are left, item is -1,
    logp -inf and codes -1. The generator must be on the tree's device.
    """
    k = beams if k is None else k
    if beams < 1 or k < 1:
        raise ConfigError(f"beams and k: want at least 1, got {beams} and {k}")
    weights = check_levels(tree, normalise, level_weights)
    rows, last = len(batch), tree.levels - 1
    limit = limits(tree, constraint, seen, rows)

    state = generator.start(batch)
    frontier = Frontier(torch.zeros(rows, 1, dtype=torch.int64, device=tree.device), torch.zeros(rows, 1, device=tree.device))
    codes = None
    for level in range(tree.levels):
        logits, state = generator.step(state, codes)
        width = min(k if level == last else beams, tree.num_nodes(level))
        frontier, row = expand(tree, level, logits.float(), frontier, width, normalise=normalise, weight=weights[level],
                               limit=limit)
        if level < last:
            state = state.select(row)
            codes = tree.code[level][frontier.node.flatten()].long().clamp_min(0)
    if frontier.logp.isnan().any():
        raise SemidError("beam search: want finite logits, got NaN; the generator's weights or inputs are not finite")
    item = tree.order[frontier.node].long()
    none = frontier.logp == -torch.inf
    path = tree.codes[item].long().masked_fill(none[..., None], -1)
    missing = k - item.shape[1]
    pad = torch.nn.functional.pad
    return Beams(pad(path, (0, 0, 0, missing), value=-1), pad(frontier.logp, (0, missing), value=-torch.inf),
                 pad(item.masked_fill(none, -1), (0, missing), value=-1))
