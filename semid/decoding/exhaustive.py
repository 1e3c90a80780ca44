"""Exact scores: of every item, or of given ones. The measure of what a beam misses, and the way to rerank candidates.

Axes: B rows, N items, C candidates or nodes of a piece, L levels, V codes in the widest level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semid.decoding import fused, step
from semid.decoding.normalise import Normalise, advance, check_levels, log_probabilities
from semid.protocols import Generator, State
from semid.tree import CodeTree
from semid.types import Batch


def exhaustive(generator: Generator, batch: Batch, tree: CodeTree, *, normalise: Normalise = "vocabulary",
               level_weights: Sequence[float] | None = None, max_rows: int = 16_384) -> Tensor:
    """Return float32 [B, N]: the log-probability of every item's path, in item order.

    Visits every node of the tree, depth first in pieces of neighbours, with states of at most max(B, max_rows) rows a level.
    """
    weights = check_levels(tree, normalise, level_weights)
    rows, piece = len(batch), max(1, max_rows // max(1, len(batch)))
    scores = torch.empty(rows, len(tree), device=tree.device)  # in sorted order

    def visit(level: int, nodes: Tensor, state: State, codes: Tensor | None, logp: Tensor) -> None:
        """Score what lies below `nodes` [C], neighbours of level - 1; logp [B, C]; state of B * C rows, to be fed `codes`."""
        logits, state = generator.step(state, codes)
        below = log_probabilities(tree, level, logits.float(), nodes.repeat(rows), normalise).view(rows, len(nodes), -1)
        lo, hi = tree.children(level, nodes)
        child = torch.arange(int(lo[0]), int(hi[-1]), device=tree.device)
        parent = torch.arange(len(nodes), device=tree.device).repeat_interleave(hi - lo)
        for part in torch.arange(len(child), device=tree.device).split(piece):
            above, code = parent[part], tree.code[level][child[part]].long()
            here = advance(logp[:, above], below[:, above, code.clamp_min(0)], code, weights[level])  # [B, C']
            if level == tree.levels - 1:
                scores[:, child[part]] = here
            else:
                chosen = state.select((torch.arange(rows, device=tree.device)[:, None] * len(nodes) + above).flatten())
                visit(level + 1, child[part], chosen, code.clamp_min(0).repeat(rows), here)

    root = torch.zeros(1, dtype=torch.int64, device=tree.device)
    visit(0, root, generator.start(batch), None, torch.zeros(rows, 1, device=tree.device))
    out = torch.empty_like(scores)
    out[:, tree.order.long()] = scores
    return out


def score_items(generator: Generator, batch: Batch, tree: CodeTree, items: Tensor, *, normalise: Normalise = "vocabulary",
                level_weights: Sequence[float] | None = None) -> Tensor:
    """Return float32 [B, C]: the log-probability of the paths of candidates, item rows int64 [B, C]; -inf for pads (-1).

    The same numbers as `exhaustive` at these items, for L steps of B * C rows.
    """
    weights = check_levels(tree, normalise, level_weights)
    way = fused if tree.device.type == "cpu" else step
    rows, width = items.shape
    items = items.to(tree.device)
    path = tree.codes[items.clamp_min(0).flatten()].long()  # [B * C, L]
    node = torch.zeros(rows * width, dtype=torch.int64, device=tree.device)
    total = torch.zeros(rows * width, device=tree.device)
    row = torch.arange(rows, device=tree.device).repeat_interleave(width)

    state, codes = generator.start(batch), None
    for level, weight in enumerate(weights):
        logits, state = generator.step(state, codes)
        logits = logits.float()
        if level == 0:  # read once for the row, then one state for each candidate
            logits, state = logits[row], state.select(row)
        node, logp = way.follow(tree, level, logits, node, path[:, level].contiguous(), normalise=normalise)
        total += weight * logp
        codes = path[:, level].clamp_min(0)
    return total.view(rows, width).masked_fill(items < 0, -torch.inf)
