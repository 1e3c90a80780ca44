"""Losses of generators that write sessions: the codes of every item in turn, and preferences between whole sessions.

A model is a `generators.session.SessionGenerator`. Source: OneRec, arXiv 2502.18965, equations 7 and 13 to 15.
Axes: B rows, C sessions of a history, P items of a session, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semid.errors import DataError
from semid.nn.dropout import without_dropout
from semid.objectives.preference import pair_signals, preference_loss
from semid.types import Batch, Loss


def session_log_probabilities(model, batch: Batch, sessions: Tensor) -> Tensor:
    """Return float32 [B, C, P, L]: the natural log-probability of each code of `sessions` int64 [B, C, P] given all before; 0 at pads."""
    codes = model.codes[sessions].long()  # [B, C, P, L]; item -1 is a row of -1
    logp = torch.log_softmax(model.session_logits(batch, sessions), dim=-1)
    return logp.gather(4, codes.clamp_min(0)[..., None]).squeeze(4).masked_fill(codes < 0, 0.0)


@dataclass(frozen=True)
class NextSession:
    """Cross-entropy of extra["session"]: the mean over its items of the sum over levels of -log p(code | all codes before), so that one
    item a session is `NextCodes`.

    balance: weight of the experts' balance loss, mean over layers. Parts: item_1 .. item_P (nats an item at that place), balance.
    Signals: experts (in use in effect, the least of all layers), busiest (largest share of the load that any expert has).
    """

    balance: float = 0.01

    def __call__(self, model, batch: Batch) -> Loss:
        session = batch.extra["session"]  # [B, P]
        nats = -session_log_probabilities(model, batch, session[:, None]).sum(3).squeeze(1)  # [B, P]
        is_item = session >= 0
        loss = nats.sum() / is_item.sum()
        by_place = nats.detach().sum(0) / is_item.sum(0).clamp_min(1)
        parts = {f"item_{place}": part for place, part in enumerate(by_place, start=1)}
        routings = [mixture.routing for mixture in model.mixtures if mixture.routing is not None]
        if not routings:
            return Loss(loss, parts)
        balance = torch.stack([routing.balance() for routing in routings]).mean()
        signals = {"experts": torch.stack([routing.effective() for routing in routings]).amin(),
                   "busiest": torch.stack([routing.load for routing in routings]).amax()}
        return Loss(loss + self.balance * balance, parts | {"balance": balance.detach()}, signals)


@dataclass(frozen=True)
class SessionPreference:
    """`supervised` of all rows, and for those with a pair in extra["session_pair"] int64 [B, 2, P] (-1 = none) the DPO loss of its first
    session over its second, times `weight`, summed over pairs and divided by all rows: the paper adds it to the samples it draws.

    reference: of `paths.frozen`; a session's log-probability is the sum over all its codes. Signals as of `Preference`.
    """

    reference: nn.Module
    supervised: NextSession
    beta: float = 0.1
    weight: float = 1.0

    def __call__(self, model, batch: Batch) -> Loss:
        pair = batch.extra["session_pair"]
        check_session_pairs(model.codes, pair)
        kept = self.supervised(model, batch)
        has_pair = pair[:, 1, 0] >= 0
        if not has_pair.any():
            none = kept.total.detach() * 0
            return Loss(kept.total, {"supervised": kept.total.detach(), "preference": none}, {"pairs": none})
        rows = torch.nonzero(has_pair).squeeze(1)
        few = batch.only(rows)
        with without_dropout(model):  # policy and reference shall differ by their weights alone
            logp = session_log_probabilities(model, few, pair[rows]).sum((2, 3))  # [pairs, 2]
        with torch.no_grad():
            before = session_log_probabilities(self.reference, few, pair[rows]).sum((2, 3))
        gain = logp - before
        loss = preference_loss(gain[:, 0], gain[:, 1:], self.beta)
        signals = pair_signals(gain.detach(), logp[:, 0].detach(), torch.ones_like(rows, dtype=torch.bool))
        return Loss(kept.total + self.weight * loss.sum() / len(batch),
                    {"preference": loss.detach().mean(), "supervised": kept.total.detach()}, signals | {"pairs": has_pair.float().mean()})


def check_session_pairs(codes: Tensor, pair: Tensor) -> None:
    """Raise `DataError` if a session is preferred to itself or to one with the same codes: such a pair has no gradient.

    codes integer [N + 1, L], pair int64 [B, 2, P]; rows of -1 have no pair.
    """
    if pair.ndim != 3 or pair.shape[1] != 2:
        raise DataError(f"session pairs: want two sessions a row, [B, 2, P], got {tuple(pair.shape)}")
    same = (codes[pair[:, 0]] == codes[pair[:, 1]]).flatten(1).all(1) & (pair[:, 1, 0] >= 0)
    if same.any():
        row = int(same.int().argmax())
        raise DataError(f"session pairs: want two sessions with different codes, got items {pair[row, 0].tolist()} preferred to "
                        f"{pair[row, 1].tolist()} in row {row} of the batch; drop such pairs")
