"""Beam search over sessions: several items one after another, every one real, allowed and not in the session yet.

Axes: B rows, K sessions of a row, W items that each session is extended by, P items of a session, s seen items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from semid.decoding.beam import beam_search
from semid.decoding.normalise import Normalise
from semid.errors import ConfigError
from semid.protocols import Generator
from semid.tree import CodeTree, Constraint
from semid.types import Batch


class Sessions(NamedTuple):
    """The best sessions of each row, best first. item int64 [B, K, P] (-1 = nothing left to add); logp float32 [B, K, P]: the natural
    log-probability of the session up to each item, -inf where there is none."""

    item: Tensor
    logp: Tensor


@dataclass(frozen=True)
class _GoingOn:
    """A generator whose histories were read before: it starts where `state` is."""

    generator: Any
    state: Any

    def start(self, batch: Batch) -> Any:
        return self.state

    def step(self, state: Any, codes: Tensor | None) -> tuple[Tensor, Any]:
        return self.generator.step(state, codes)


@torch.no_grad()
def session_search(generator: Any, batch: Batch, tree: CodeTree, *, items: int, beams: int, width: int | None = None,
                   constraint: Constraint | None = None, seen: Tensor | None = None, normalise: Normalise = "vocabulary") -> Sessions:
    """Return the K = `beams` best sessions of `items` items that a search with as many sessions an item finds.

    generator: a `generators.session.SessionGenerator`, in evaluation mode. Each kept session is extended by its `width` best items, more
    while there are few sessions (a beam search of its own down the code tree), then the best K of a row stay; None = K, which loses
    nothing. The same items in another order are another session. constraint, seen: as for `beam_search`. Where a row has fewer sessions,
    item is -1.
    """
    width = beams if width is None else width
    if items < 1 or beams < 1 or width < 1:
        raise ConfigError(f"sessions: want at least one item, one beam and a width of one, got {items}, {beams} and {width}")
    rows = len(batch)
    state = generator.start(batch)
    session = torch.full((rows, 1, 0), -1, device=tree.device)
    logp = torch.zeros(rows, 1, 0, device=tree.device)
    for _ in range(items):
        count = session.shape[1]
        wide = min(max(width, -(-beams // count)), len(tree))  # the first items fill the beams
        row = torch.arange(rows, device=tree.device).repeat_interleave(count)
        hidden = session.flatten(0, 1) if seen is None else torch.cat([seen[row], session.flatten(0, 1)], dim=1)
        found = beam_search(cast("Generator", _GoingOn(generator, state)), batch.only(row), tree, beams=wide, constraint=constraint,
                            seen=hidden, normalise=normalise)
        before = logp[:, :, -1] if logp.shape[2] else logp.new_zeros(rows, count)
        total = (before.flatten()[:, None] + found.logp).view(rows, -1)  # [B, count W]
        best, place = total.topk(min(beams, total.shape[1]), dim=1)
        parent = place // wide
        item = found.item.view(rows, -1).gather(1, place).masked_fill(best == -torch.inf, -1)
        pick = parent[..., None].expand(-1, -1, session.shape[2])
        session = torch.cat([session.gather(1, pick), item[..., None]], dim=2)
        logp = torch.cat([logp.gather(1, pick), best[..., None]], dim=2)
        written = (parent + torch.arange(rows, device=parent.device)[:, None] * count).flatten()
        state = generator.written(state.select(written), item.flatten())
    return Sessions(session, logp)
