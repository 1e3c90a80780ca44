"""Beam search that no code tree guides: what a generator would write if it were left alone. A sign of health, not a way to recommend.

Axes: B rows, K beams, L levels, V codes in the widest level.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semid.protocols import Generator
from semid.tree import CodeTree
from semid.types import Batch


@torch.no_grad()
def valid_share(generator: Generator, batch: Batch, tree: CodeTree, *, beams: int) -> float:
    """Return which share of the `beams` best code paths of all rows are those of items, in [0, 1].

    Every level is normalised over its whole vocabulary. A path that has passed a whole shorter id is that item.
    Source: the invalid ids of TIGER, arXiv 2305.05065, section 5.
    """
    rows = torch.arange(len(batch), device=tree.device)[:, None]
    score = torch.zeros(len(batch), 1, device=tree.device)  # [B, K]
    node = torch.zeros(len(batch), dtype=torch.int64, device=tree.device)  # [B * K], -1 where no item has the prefix
    logits, state = generator.step(generator.start(batch), None)
    for level in range(tree.levels):
        logp = torch.log_softmax(logits.float(), dim=-1).unflatten(0, score.shape) + score[..., None]  # [B, K, V]
        width = logp.shape[2]
        score, flat = logp.flatten(1).topk(min(beams, logp[0].numel()), dim=1)
        row = (rows * logp.shape[1] + flat // width).flatten()
        code = (flat % width).flatten()
        node = _descend(tree, level, node[row], code)
        if level < tree.levels - 1:
            logits, state = generator.step(state.select(row), code)
    real = score > -torch.inf  # a narrow level has fewer codes than beams
    return float(((node.view_as(score) >= 0) & real).sum() / real.sum())


def _descend(tree: CodeTree, level: int, node: Tensor, code: Tensor) -> Tensor:
    """Return the child of each node by its code, or the padding that continues an id that is over; -1 below nothing."""
    parent = node.clamp_min(0)
    child, padding = tree.child(level, parent, code), tree.child(level, parent, torch.full_like(code, -1))
    return torch.where(node < 0, -1, torch.where(child >= 0, child, padding))
