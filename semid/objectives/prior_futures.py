"""Losses of scorers with heads: each head learns from the futures it answers for, or the best head from every future.

A model is a `scorers.prior_heads.PriorHeadScorer`. Source: arXiv 2511.10492.
Axes: B rows, S positions, D width, H heads, C priors, P future items, M positions with a future, N items, K negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.nn.prior_heads import discounts, future_contrast, futures
from semid.types import Batch, Loss


@dataclass(frozen=True)
class PriorFutures:
    """Sum over heads of weight times the head's contrast: over the future offsets p of its segment, discount_p times the mean over the
    positions whose item at p carries its prior. A head without any is 0.

    horizon: P; segment floor(p / (P / G)); discounts are decay^p, of sum 1. share: float [C], the weight of each prior (its part of the
    training events, or 1 / C); heads without a prior weigh 1, and heads of single indices (additive) half. negatives: uniform distinct
    items, drawn once a batch; is_within: a head's negatives carry its prior too. Where the model has a gate, its binary cross-entropy is
    added: will a prior come within the horizon? A prior that comes with probability q has its positives weighted by (1 - q) / q. The gate
    reads the states as they are: its gradient ends there.
    """

    share: Tensor
    horizon: int = 8
    decay: float = 0.99
    negatives: int = 4096
    is_within: bool = False

    def __call__(self, model, batch: Batch) -> Loss:
        plain, future = _supervised(model, batch, self.horizon)
        state = _unit_heads(model, plain)
        table, negatives = model.item_vectors(), _drawn(model, self.negatives)
        heads, segments = model.heads, int(model.heads.segment.max()) + 1
        is_single = bool((heads.segment < 0).any())  # additive: every future trains two heads
        segment_of = torch.arange(self.horizon, device=future.device) * segments // self.horizon  # [P]
        weight = discounts(self.horizon, self.decay).to(future.device)
        share = self.share.to(future.device)
        parts = []
        for head, (prior, segment) in enumerate(zip(heads.prior.tolist(), heads.segment.tolist(), strict=True)):
            fits = future >= 0
            if segment >= 0:
                fits = fits & (segment_of == segment)
            if prior >= 0:
                fits = fits & model.tags[future.clamp_min(0), prior]
            own = negatives[model.tags[negatives, prior]] if self.is_within and prior >= 0 else negatives
            loss = _head_loss(state[head], table, future, fits, own, model.scale(), weight)
            parts.append(loss * (share[prior] if prior >= 0 else 1.0) * (0.5 if is_single else 1.0))
        total = torch.stack(parts).sum()
        said = {"scale": model.scale().detach()}
        if model.gate is None:
            return Loss(total, signals=said)
        comes = (model.tags[future.clamp_min(0)] & (future >= 0)[..., None]).any(1).float()  # [M, C]
        rate = comes.mean(0).clamp(1e-3, 1 - 1e-3)
        gate = F.binary_cross_entropy_with_logits(model.gate(plain.detach()).float(), comes, pos_weight=(1 - rate) / rate)
        return Loss(total + gate, {"contrast": total.detach(), "gate": gate.detach()}, said)


@dataclass(frozen=True)
class RoutedFutures:
    """Multi-interest learning without priors: each future item trains the head that scores it highest, and only that.

    The rest as in `PriorFutures`. Source: the hard routing of ComiRec, arXiv 2005.09347, equation 6.
    """

    horizon: int = 8
    decay: float = 0.99
    negatives: int = 4096

    def __call__(self, model, batch: Batch) -> Loss:
        plain, future = _supervised(model, batch, self.horizon)
        state = _unit_heads(model, plain)
        table, negatives = model.item_vectors(), _drawn(model, self.negatives)
        weight = discounts(self.horizon, self.decay).to(future.device)
        with torch.no_grad():
            wanted = table[future.clamp_min(0)].to(state[0].dtype)  # [M, P, D]
            route = torch.stack([(z[:, None] * wanted).sum(-1) for z in state]).argmax(0)  # [M, P]
        count = ((future >= 0).sum(0)).clamp_min(1)
        total = torch.stack([_head_loss(z, table, future, (future >= 0) & (route == head), negatives, model.scale(), weight, count)
                             for head, z in enumerate(state)]).sum()
        used = torch.bincount(route[future >= 0], minlength=len(state)).float()
        used = used / used.sum()
        return Loss(total, signals={"scale": model.scale().detach(), "largest_route": used.amax()})


def _supervised(model, batch: Batch, horizon: int) -> tuple[Tensor, Tensor]:
    """Return (states [M, D], future int64 [M, P]) of the positions that have a future."""
    where = torch.nonzero(batch.target.flatten() >= 0).squeeze(1)
    return model.states(batch).flatten(0, 1)[where], futures(batch.target, horizon).flatten(0, 1)[where]


def _unit_heads(model, state: Tensor) -> list[Tensor]:
    """Return H tensors [M, D] of unit rows."""
    return [F.normalize(z, dim=1) for z in model.heads(state)]


def _drawn(model, count: int) -> Tensor:
    """Return int64 [K] distinct items, all of them where there are no more."""
    return torch.randperm(len(model.tags), device=model.tags.device)[:count]


def _head_loss(state: Tensor, table: Tensor, future: Tensor, fits: Tensor, negatives: Tensor, scale: Tensor, weight: Tensor,
               count: Tensor | None = None) -> Tensor:
    """Return the scalar sum over p of weight[p] times the mean over positions with fits[:, p] (or the sum over count[p])."""
    position, offset = torch.nonzero(fits, as_tuple=True)
    if not len(position) or not len(negatives):
        return 0.0 * state.sum()  # the head stays in the graph: every process has the same gradients
    used, row = position.unique(return_inverse=True)
    loss = future_contrast(state[used], table, row, future[position, offset], negatives, scale)
    share = weight / (fits.sum(0).clamp_min(1) if count is None else count)
    return (loss * share[offset]).sum()
