"""What a generator says of given items: the log-probability of each code on their paths. Policy objectives stand on it.

Axes: B rows, C candidates of a row, L levels, V codes in the widest level.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semid.types import Batch


@dataclass(frozen=True)
class Paths:
    """logp float32 [B, C, L]: natural log-probability of each code given those before, 0 for padding codes; entropy float32
    [B, C, L], no gradient: of the distribution that the code was chosen from, in nats, 0 for padding; is_code bool [B, C, L]."""

    logp: Tensor
    entropy: Tensor
    is_code: Tensor


def paths(generator: Any, batch: Batch, items: Tensor) -> Paths:
    """Follow the paths of `items` int64 [B, C] (-1 pads have no codes) after each whole history, gradients included.

    generator: a `protocols.Generator` with `codes` integer [N, L]. The same numbers as log-softmax of its `logits` with these
    targets, but a history is read once for all its candidates. Cost: B histories and L steps of B C rows.
    """
    rows, width = items.shape
    codes = generator.codes[items.clamp_min(0).flatten()].long()  # [B C, L]
    is_code = (codes >= 0) & (items >= 0).flatten()[:, None]
    beam_row = torch.arange(rows, device=codes.device).repeat_interleave(width)
    logits, state = generator.step(generator.start(batch), None)
    logits, state = logits[beam_row], state.select(beam_row)
    logp, entropy = [], []
    for level in range(codes.shape[1]):
        if level:
            logits, state = generator.step(state, codes[:, level - 1].clamp_min(0))
        log_share = torch.log_softmax(logits.float(), dim=1)  # [B C, V]
        logp.append(log_share.gather(1, codes[:, level, None].clamp_min(0)).squeeze(1))
        fixed = log_share.detach()
        entropy.append(-(fixed.exp() * fixed.masked_fill(fixed == -torch.inf, 0.0)).sum(1))
    whole = lambda levels: torch.stack(levels, dim=1).masked_fill(~is_code, 0.0).view(rows, width, -1)
    return Paths(whole(logp), whole(entropy), is_code.view(rows, width, -1))


def frozen(generator: nn.Module) -> nn.Module:
    """Return a copy that no optimizer moves: the reference of a policy objective. Weights that none moves anyway are shared."""
    shared = {id(parameter): parameter for parameter in generator.parameters() if not parameter.requires_grad}
    return copy.deepcopy(generator, shared).requires_grad_(False).eval()
