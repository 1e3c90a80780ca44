"""From logits to the log-probabilities of tree paths, the same arithmetic wherever a path is scored.

Axes: R rows, V codes in the widest level, W children of the widest node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from semid.errors import ConfigError
from semid.tree import CodeTree

Normalise = Literal["vocabulary", "children"]
"""Over what a level's log-softmax runs. vocabulary: all codes of the level. children: the codes that exist under the
prefix in the tree, before any constraint, as in training with a loss over real children; a forced code costs nothing."""


def pad_children(tree: CodeTree, level: int, node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (child int64, code int64, exists bool) [R, W]: what `level` holds under nodes [R] of the level above."""
    lo, hi = tree.children(level, node)
    child = lo[:, None] + torch.arange(int((hi - lo).max()), device=node.device)
    exists = child < hi[:, None]
    child = torch.where(exists, child, lo[:, None])
    return child, tree.code[level][child].long(), exists


def log_probabilities(tree: CodeTree, level: int, logits: Tensor, node: Tensor, normalise: Normalise) -> Tensor:
    """Return float32 [R, V], <= 0, of logits float32 [R, V] of `level` under nodes [R] of the level above.

    Codes that are no children have numbers too, without meaning where children are normalised. There the sum runs in
    float64, so that its float32 result doesn't depend on the order of summation. Rounding may exceed 0 and is cut: a
    parent bounds its children in float32 too.
    """
    if normalise == "vocabulary":
        return torch.log_softmax(logits, dim=1).clamp_max(0)
    _, code, exists = pad_children(tree, level, node)
    counted = exists & (code >= 0)
    counted[:, 1:] &= code[:, 1:] != code[:, :-1]  # items that share all codes are one outcome
    real = logits.gather(1, code.clamp_min(0)).double().masked_fill(~counted, -torch.inf)
    return (logits - torch.logsumexp(real, dim=1, keepdim=True).float()).clamp_max(0)


def advance(parent: Tensor, logp: Tensor, code: Tensor, weight: float) -> Tensor:
    """Return the log-probability of children: parent + weight * logp of their code, 0 for padding. Shapes broadcast."""
    return parent + weight * logp.masked_fill(code < 0, 0.0)


def check_levels(tree: CodeTree, normalise: str, level_weights: Sequence[float] | None) -> list[float]:
    """Return L weights; raise `ConfigError` for a normalisation or weights that cannot be used."""
    if normalise not in ("vocabulary", "children"):
        raise ConfigError(f"normalise: want 'vocabulary' or 'children', got {normalise!r}")
    weights = [1.0] * tree.levels if level_weights is None else [float(weight) for weight in level_weights]
    if len(weights) != tree.levels or not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(f"level_weights: want {tree.levels} finite numbers > 0, one a level, got {weights}")
    return weights
