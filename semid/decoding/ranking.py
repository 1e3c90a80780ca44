"""From scores of all items to a list. Axes: B rows, N items, k list length."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mask_items(scores: Tensor, allowed: np.ndarray | None, hidden: Tensor | None) -> Tensor:
    """Set items that may not be shown to -inf. scores [B, N]; allowed bool [N]; hidden int64 [B, S] item rows (-1 pad).

    Returns a tensor that may be `scores` itself, if nothing is hidden.
    """
    if allowed is not None:
        scores = scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)
    if hidden is not None:
        row, position = torch.nonzero(hidden >= 0, as_tuple=True)
        scores = scores.index_put((row, hidden[row, position]), torch.tensor(-torch.inf, device=scores.device))
    return scores


def top_items(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return (score float32 [B, k], item int64 [B, k]), best first, ties to the lower item row; -inf scores give item -1.

    k is cut to N. `torch.topk` alone leaves the order and the choice among ties open.
    """
    n = scores.shape[1]
    k = min(k, n)
    value, item = scores.topk(min(k + 1, n), dim=1)
    if n > k:  # which of several equal items made the cut is open: settle these rows, the lowest items first
        tied = torch.nonzero((value[:, k - 1] == value[:, k]) & (value[:, k] > -torch.inf)).squeeze(1)
        for rows in tied.split(256):
            last = value[rows, k - 1 : k]
            is_above, is_equal = ~(scores[rows] <= last), scores[rows] == last  # NaN is above all, as in topk, so that it is seen
            is_in = is_above | (is_equal & (is_equal.cumsum(1) <= k - is_above.sum(1, keepdim=True)))  # k of each row
            item[rows, :k] = torch.nonzero(is_in)[:, 1].view(-1, k)
            value[rows, :k] = scores[rows[:, None], item[rows, :k]]
        value, item = value[:, :k], item[:, :k]
    by_item = item.argsort(dim=1)
    value, item = value.gather(1, by_item), item.gather(1, by_item)
    by_value = value.argsort(dim=1, descending=True, stable=True)
    value, item = value.gather(1, by_value), item.gather(1, by_value)
    return value, item.masked_fill(value == -torch.inf, -1)
