"""Losses over items and codes, as pure functions.

Axes: M supervised positions, D width, N items, K negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, table: Tensor, target: Tensor, smoothing: float, chunk: int, low: torch.dtype) -> Tensor:
        m, n = len(hidden), len(table)
        wide = table.to(low)
        grad_hidden = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device)
        grad_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
        total = hidden.new_zeros((), dtype=torch.float32)
        for begin in range(0, m, chunk):
            h = hidden[begin : begin + chunk].to(low)
            t = target[begin : begin + chunk]
            logits = (h @ wide.T).float()  # [C, N]
            norm = torch.logsumexp(logits, dim=1, keepdim=True)
            total += (norm.squeeze(1) - (1 - smoothing) * logits.gather(1, t[:, None]).squeeze(1)).sum()
            if smoothing:
                total -= smoothing / n * logits.sum()
            grad = logits.sub_(norm).exp_()  # softmax
            grad.scatter_add_(1, t[:, None], torch.full((len(t), 1), smoothing - 1.0, device=grad.device))
            if smoothing:
                grad.sub_(smoothing / n)
            grad = grad.to(low)
            grad_hidden[begin : begin + chunk] = grad @ wide
            grad_table += grad.T @ h
        ctx.save_for_backward(grad_hidden.div_(m), grad_table.div_(m))
        ctx.dtypes = hidden.dtype, table.dtype
        return total / m

    @staticmethod
    def backward(ctx, *grads: Tensor):
        hidden, table = ctx.saved_tensors
        return (grads[0] * hidden).to(ctx.dtypes[0]), (grads[0] * table).to(ctx.dtypes[1]), None, None, None, None


def linear_cross_entropy(hidden: Tensor, table: Tensor, target: Tensor, *, smoothing: float = 0.0,
                         chunk: int = 1024) -> Tensor:
    """Mean cross-entropy of softmax(hidden @ table.T), full softmax over N rows, without keeping [M, N] for backward.

    hidden [M, D], table [N, D], target int64 [M] -> scalar float32; smoothing in [0, 1): that share of each target is spread
    evenly over the rows. The forward pass forms both gradients chunk by chunk.
    Products run in bf16 under autocast, in the tensors' own type otherwise. O(M N D).
    """
    device = hidden.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else table.dtype
    return _LinearCrossEntropy.apply(hidden, table, target, smoothing, chunk, low)


def sampled_softmax(hidden: Tensor, table: Tensor, target: Tensor, negatives: Tensor, *, temperature: float = 1.0,
                    cosine: bool = False) -> Tensor:
    """Mean cross-entropy of the target among itself and negatives.

    hidden [M, D], table [N, D], target int64 [M]; negatives int64 [K], shared by all rows, or [M, K]. The
    negatives are taken as uniform: no logit is corrected by how often its item is drawn.
    cosine: both sides L2-normalised and divided by `temperature` (HSTU's recipe: .05). A negative that equals the
    row's target is masked. Returns a scalar float32.
    """
    h, positive, negative = hidden.float(), table[target].float(), table[negatives].float()
    if cosine:
        h, positive, negative = (F.normalize(t, dim=-1) for t in (h, positive, negative))
    true = (h * positive).sum(1, keepdim=True) / temperature  # [M, 1]
    false = (h @ negative.T if negatives.ndim == 1 else torch.einsum("md,mkd->mk", h, negative)) / temperature  # [M, K]
    false = false.masked_fill(negatives == target[:, None], -torch.inf)
    return (torch.logsumexp(torch.cat([true, false], dim=1), dim=1) - true.squeeze(1)).mean()


def in_batch_contrast(anchor: Tensor, other: Tensor, *, temperature: float = 1.0, same: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of each row's own partner among the partners of all rows (InfoNCE, one direction), a scalar.

    anchor, other float [B, D]; logits anchor_i . other_j / temperature (normalise first for cosines); same bool [B, B]: pairs that
    are no negatives of each other, as they show one thing. 0 for one row.

    Source: InfoNCE, arXiv 1807.03748, equation 4.
    """
    logits = (anchor / temperature) @ other.T
    if same is not None:
        logits = logits.masked_fill(same & ~torch.eye(len(same), dtype=torch.bool, device=same.device), -torch.inf)
    return F.cross_entropy(logits.float(), torch.arange(len(logits), device=logits.device))


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of -log sigma(s+ - s-): Bayesian personalised ranking. positive float [M], negative float [M, K] -> a scalar.

    Source: Rendle et al., UAI 2009, arXiv 1205.2618, section 4.
    """
    return F.softplus(negative - positive[:, None]).mean()


def gbce(positive: Tensor, negative: Tensor, *, num_items: int, calibration: float) -> Tensor:
    """Generalised binary cross-entropy (gSASRec, arXiv 2308.07192, eq. 8 to 10).

    positive float [M], negative float [M, K] logits; calibration t in [0, 1]: 0 is BCE with K negatives, 1 full calibration.
    The positive probability is raised to beta = a (t (1 - 1/a) + 1/a), a = K / (N - 1), at most 1; in float64, since
    sigma(s)**-beta overflows float32. Returns the mean over M of -(beta log sigma(s+) + sum log(1 - sigma(s-))) / (K + 1).
    """
    k = negative.shape[1]
    rate = min(1.0, k / (num_items - 1))
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    log_positive = beta * F.logsigmoid(positive.double())
    log_negative = F.logsigmoid(-negative.double()).sum(1)
    return (-(log_positive + log_negative) / (k + 1)).mean().float()


def known_cross_entropy(logits: Tensor, label: Tensor, is_known: Tensor) -> Tensor:
    """Sum over the last axis of the mean binary cross-entropy over what is known: float [..., T], labels in [0, 1], bool -> a scalar."""
    loss = F.binary_cross_entropy_with_logits(logits, label, reduction="none").masked_fill(~is_known, 0.0).flatten(0, -2)
    return (loss.sum(0) / is_known.flatten(0, -2).sum(0).clamp_min(1)).sum()
