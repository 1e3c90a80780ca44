"""Draw items from a generator, code by code among the children that exist: what plain policy gradients learn from.

Axes: B rows, G draws of a row, W children of the widest node, V codes in the widest level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semid.decoding.normalise import Normalise, advance, log_probabilities, pad_children
from semid.decoding.step import alive, prepare_limits
from semid.protocols import Generator
from semid.tree import CodeTree
from semid.types import Batch


@torch.no_grad()
def sample(generator: Generator, batch: Batch, tree: CodeTree, *, draws: int, seen: Tensor | None = None,
           normalise: Normalise = "vocabulary") -> Tensor:
    """Return item int64 [B, G], drawn with replacement: a code with its probability among those that lead to an item. -1 in rows that
    have seen every item.

    seen: item rows int64 [B, s] never returned (-1 pads). Draws come from torch's generator, all levels at temperature 1. Cost as of a
    beam search with G beams, which returns G different items.
    """
    rows = len(batch)
    limit = prepare_limits(tree, None, seen, rows)
    node = torch.zeros(rows * draws, dtype=torch.int64, device=tree.device)
    row = torch.arange(rows, device=tree.device).repeat_interleave(draws)
    logits, state = generator.step(generator.start(batch), None)
    logits, state = logits[row], state.select(row)
    is_empty = torch.zeros(rows * draws, 1, dtype=torch.bool, device=tree.device)
    for level in range(tree.levels):
        child, code, exists = pad_children(tree, level, node)  # [B G, W]
        logp = log_probabilities(tree, level, logits.float(), node, normalise).gather(1, code.clamp_min(0))
        logp = advance(torch.zeros_like(logp), logp, code, 1.0)
        is_alive = alive(tree, level, child.view(rows, -1), limit).view_as(exists)
        possible = exists & is_alive
        is_empty = ~possible.any(1, keepdim=True)
        possible = torch.where(is_empty, exists, possible)  # a way down, for an answer that is thrown away
        if level == tree.levels - 1:  # items with one code share its probability
            alike = (code[:, :, None] == code[:, None]) & possible[:, None]
            logp = logp - alike.sum(2).clamp_min(1).log()
        pick = torch.softmax(logp.masked_fill(~possible, -torch.inf), dim=1).multinomial(1)
        node = child.gather(1, pick).squeeze(1)
        if level < tree.levels - 1:
            logits, state = generator.step(state, code.gather(1, pick).squeeze(1).clamp_min(0))
    return tree.order[node].long().masked_fill(is_empty.squeeze(1), -1).view(rows, draws)
