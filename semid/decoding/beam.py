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
    way = fused if tree.device.type == "cpu" else step
    limit = way.prepare_limits(tree, constraint, seen, len(batch))
    widths = [min(beams, tree.num_nodes(level)) for level in range(tree.levels - 1)] + [min(k, len(tree))]
    frontier = way.search(generator, batch, tree, widths, normalise=normalise, weights=weights, limit=limit)
    if frontier.logp.isnan().any():
        raise SemidError("beam search: want finite logits, got NaN; the generator's weights or inputs are not finite")
    item = tree.order[frontier.node].long()
    none = frontier.logp == -torch.inf
    path = tree.codes[item].long().masked_fill(none[..., None], -1)
    found, missing = Beams(path, frontier.logp, item.masked_fill(none, -1)), k - item.shape[1]
    if missing == 0:
        return found
    return Beams(pad(found.codes, (0, 0, 0, missing), value=-1), pad(found.logp, (0, missing), value=-torch.inf),
                 pad(found.item, (0, missing), value=-1))
