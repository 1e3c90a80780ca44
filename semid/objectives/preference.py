"""Learn from pairs: a chosen item shall gain on rejected ones, measured against a frozen reference. DPO, S-DPO, DDRO, OneRec's IPA.

gain = log p(item) - log p_reference(item), summed over the codes of the path (a mean would favour short ones). They differ in data:

- DPO (Rafailov et al., NeurIPS 2023, arXiv 2305.18290, equation 7): one rejected item, beta .1;
- S-DPO (Chen et al., NeurIPS 2024, arXiv 2406.09215): several rejected items, a softmax over them; with one it is DPO;
- DDRO (SIGIR 2025, arXiv 2504.05181): DPO with one hard irrelevant item, beta .4, no other loss, a very small learning rate;
- OneRec (arXiv 2502.18965): best and worst of the model's own beams by a reward, next to the supervised loss.

The loss falls as well when both sides lose likelihood: watch `chosen`, or keep the supervised loss in the sum.
Axes: B rows, K rejected items of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import DataError
from semid.nn.dropout import without_dropout
from semid.objectives.paths import paths
from semid.protocols import Objective
from semid.types import Batch, Loss


def preference_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Return float [B]: -log sigmoid(-log sum_k exp(beta (rejected_k - chosen))), log(1 + K) where nothing was gained.

    chosen float [B], rejected float [B, K]: gains; -inf leaves a rejected item out, one at least must remain.
    """
    return F.softplus(torch.logsumexp(beta * (rejected - chosen[:, None]), dim=1))


@dataclass(frozen=True)
class Preference:
    """`preference_loss` of extra["chosen"] over extra["rejected"]; a row whose rejected items are all -1 has no pair.

    reference: of `paths.frozen`. supervised: a loss to keep in the sum (dropout stays on in it), None for pairs alone.
    weight: of the preference loss. Signals: margin (nats that the chosen gained on the mean rejected item), accuracy
    (share of pairs where it gained on all), chosen (mean log p of the chosen: should not fall), pairs (share of rows with one).
    """

    reference: nn.Module
    beta: float = 0.1
    supervised: Objective | None = None
    weight: float = 1.0

    def __call__(self, model, batch: Batch) -> Loss:
        chosen, rejected = batch.extra["chosen"], batch.extra["rejected"]
        check_pairs(model.codes, chosen, rejected)
        has_pair = (rejected >= 0).any(1)
        items = torch.cat([chosen[:, None], rejected], dim=1)
        with without_dropout(model):  # policy and reference shall differ by their weights alone
            logp = paths(model, batch, items).logp.sum(2)  # [B, 1 + K]
        with torch.no_grad():
            before = paths(self.reference, batch, items).logp.sum(2)
        gain = (logp - before).masked_fill(items < 0, -torch.inf)[has_pair]
        loss = preference_loss(gain[:, 0], gain[:, 1:], self.beta).sum() / has_pair.sum().clamp_min(1)
        signals = pair_signals(gain.detach(), logp[:, 0].detach(), has_pair)
        if self.supervised is None:
            return Loss(self.weight * loss, {"preference": loss.detach()}, signals)
        kept = self.supervised(model, batch)
        return Loss(kept.total + self.weight * loss, {"preference": loss.detach(), "supervised": kept.total.detach()}, signals)


def pair_signals(gain: Tensor, chosen: Tensor, has_pair: Tensor) -> dict[str, Tensor]:
    """Return the signals margin, accuracy, chosen and pairs, as `Preference` tells them.

    gain float [pairs, 1 + K], the chosen first, -inf left out; chosen float [B]: its log p; has_pair bool [B].
    """
    best, others = gain[:, 0], gain[:, 1:]
    is_item = others > -torch.inf
    mean = others.masked_fill(~is_item, 0).sum(1) / is_item.sum(1)
    over_pairs = lambda values: values.float().sum() / has_pair.sum().clamp_min(1)
    return {"margin": over_pairs(best - mean), "accuracy": over_pairs(best > others.amax(1)), "chosen": chosen.mean(),
            "pairs": has_pair.float().mean()}


def check_pairs(codes: Tensor, chosen: Tensor, rejected: Tensor) -> None:
    """Raise `DataError` if an item is preferred to itself or to one with the same codes: such a pair has no gradient.

    codes integer [N, L], chosen int64 [B], rejected int64 [B, K] (-1 pads).
    """
    if chosen.ndim != 1 or rejected.ndim != 2 or len(chosen) != len(rejected):
        raise DataError(f"preference pairs: want chosen [B] and rejected [B, K], got {tuple(chosen.shape)} and {tuple(rejected.shape)}")
    if (chosen < 0).any():
        raise DataError(f"preference pairs: want a chosen item in every row, got none in row {int((chosen < 0).int().argmax())}; "
                        "give rows without a pair rejected items of -1 and their target as chosen")
    same = (codes[chosen][:, None] == codes[rejected.clamp_min(0)]).all(2) & (rejected >= 0)  # [B, K]
    if same.any():
        row, place = (int(at) for at in torch.nonzero(same)[0])
        a, b = int(chosen[row]), int(rejected[row, place])
        raise DataError(f"preference pairs: want two items with different codes, got item row {a} preferred to "
                        f"{'itself' if a == b else f'item row {b}, which has the same codes,'} in row {row} of the batch; drop such pairs")
