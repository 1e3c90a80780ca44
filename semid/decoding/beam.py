"""Beam search down the code tree: only paths of real items are walked, so every result is an item that may be shown.

A node is alive iff it holds more allowed items than seen ones; dead nodes never enter a beam, so no beam dies later,
and beams at least as wide as the catalogue return what exhaustive scoring does. The order of results is `step`'s.

Axes: B rows, K beams, k list length, L levels, s seen items.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from semid.decoding import fused, step
from semid.decoding.normalise import Normalise, check_levels
from semid.errors import ConfigError, SemidError
from semid.protocols import Generator
from semid.tree import CodeTree, Constraint
from semid.types import Batch, Beams


@torch.no_grad()
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
    if tree.device.type == "cpu":
        expand, position_of = fused.expand, fused.position_of
    else:
        expand, position_of = step.expand, CodeTree.position_of
    limit = step.prepare_limits(tree, constraint, seen, rows, position_of)

    logits, state = generator.step(generator.start(batch), None)
    root = torch.zeros(rows, 1, dtype=torch.int64, device=tree.device)
    frontier = step.Frontier(root, torch.zeros(rows, 1, device=tree.device))
    slot = torch.arange(rows, device=tree.device)  # [B * K]: which row of the state a beam's is
    for level in range(tree.levels):
        width = min(k if level == last else beams, tree.num_nodes(level))
        frontier, row = expand(tree, level, logits.float(), frontier, width, normalise=normalise, weight=weights[level],
                               limit=limit)
        if level == last:
            break
        codes = tree.code[level][frontier.node].long().clamp_min(0)  # [B, J]
        # Forced tails: normalised over children, a node of one item is sure of the rest of its path, whatever the logits.
        # Only the others ("open") are stepped; below a forced node there is no open one.
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
    if frontier.logp.isnan().any():
        raise SemidError("beam search: want finite logits, got NaN; the generator's weights or inputs are not finite")
    item = tree.order[frontier.node].long()
    none = frontier.logp == -torch.inf
    path = tree.codes[item].long().masked_fill(none[..., None], -1)
    missing = k - item.shape[1]
    return Beams(pad(path, (0, 0, 0, missing), value=-1), pad(frontier.logp, (0, missing), value=-torch.inf),
                 pad(item.masked_fill(none, -1), (0, missing), value=-1))
