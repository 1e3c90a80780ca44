"""Search along a graph of like items: the best sums of digits without looking at every item.

Any two items are alike by their digits' vectors, so the neighbours of a good item are good too. From a few items spread over the catalogue
the search moves to the neighbours of the best ones found. It visits beams * edges items a step however many there are, and may miss some:
where it visits all, it returns what scoring all returns.

Source: graph-constrained decoding of RPG, Hou et al., KDD 2025, arXiv 2506.05781.
Deviations: (1) all items visited stay candidates (there: those of the last step); (2) the items to begin with are the same for every
request, so that equal requests get equal answers (there: drawn anew).

Axes: B rows, N items, L digits, V codes of the widest digit, D width, E edges, C items visited, k list length, s hidden items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.decoding.ranking import top_items
from semid.nn.digit_sum import digit_sum
from semid.nn.loop import loop


@dataclass(frozen=True)
class ItemGraph:
    """neighbour int32 [N, E]: the most alike items of each; start int64 [b], rising: where a search begins. beams: items whose
    neighbours are visited in a step, of which there are `steps`."""

    neighbour: Tensor
    start: Tensor
    beams: int
    steps: int

    @classmethod
    def build(cls, vectors: Sequence[Tensor], codes: Tensor, *, edges: int, beams: int, steps: int, seed: int) -> ItemGraph:
        """Join each item with the `edges` items whose digits have the nearest vectors: by the mean of the L cosines. O(N^2 L).

        vectors: for each digit float32 [sizes[l], D] of unit length; codes integer [N, L].
        """
        count, width = len(codes), max(len(table) for table in vectors)
        alike = torch.stack([F.pad(table @ table.T, (0, width - len(table), 0, width - len(table))) for table in vectors])  # [L, V, V]
        digits = torch.arange(len(vectors), device=codes.device)
        neighbour = []
        for rows in torch.arange(count, device=codes.device).split(256):
            score = digit_sum(alike[digits, codes[rows].long()], codes)  # [256, N]
            score[torch.arange(len(rows)), rows] = -torch.inf
            neighbour.append(score.topk(min(edges, count - 1), dim=1).indices.int().cpu())
        start = np.random.default_rng(seed).permutation(count)[:beams]
        return cls(torch.cat(neighbour), torch.from_numpy(np.sort(start)), beams, steps)


def graph_search(values: Tensor, codes: Tensor, graph: ItemGraph, *, k: int, allowed: np.ndarray | None = None,
                 hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (score float32 [B, k], item int64 [B, k]), best first, ties to the lower item row; fewer visited give -inf and -1.

    values float32 [B, L, V]: log-probabilities of a digit's codes; codes integer [N, L]. The search passes through all items; those
    not `allowed`, bool [N], and those `hidden`, int64 [B, s] (-1 pads), are left out of the list. k is cut to the items visited.
    """
    count = len(codes)
    room = min(count, len(graph.start) + graph.steps * graph.beams * graph.neighbour.shape[1])
    item, score = np.full((len(values), room), -1), np.full((len(values), room), -np.inf, np.float32)
    _search(values.detach().flatten(1).cpu().numpy(), codes.cpu().numpy(), values.shape[2], graph.neighbour.numpy(), graph.start.numpy(),
            graph.beams, graph.steps, np.ones(count, np.bool_) if allowed is None else allowed,
            np.empty((len(values), 0), np.int64) if hidden is None else hidden.cpu().numpy(), item, score)
    found, place = torch.from_numpy(item).sort(dim=1)
    value, best = top_items(torch.from_numpy(score).gather(1, place), k)
    return value, found.gather(1, best.clamp_min(0)).masked_fill(best < 0, -1)


@loop()
def _search(values, codes, width, neighbour, start, beams, steps, allowed, hidden, found, score):
    """Write the items visited, and their scores, into found and score [B, C]; -inf for those not to be listed."""
    for row in range(len(values)):
        is_visited = np.zeros(len(codes), np.bool_)
        items, scores = found[row], score[row]
        count = 0
        for item in start:
            count = _visit(item, values[row], codes, width, is_visited, items, scores, count)
        is_spread = np.zeros(len(items), np.bool_)
        for _ in range(steps):
            end, left = count, min(beams, count)
            least = np.partition(scores[:end], end - left)[end - left]
            for place in range(end):
                if left and scores[place] >= least:
                    left -= 1
                    if not is_spread[place]:
                        is_spread[place] = True
                        for item in neighbour[items[place]]:
                            count = _visit(item, values[row], codes, width, is_visited, items, scores, count)
        for item in hidden[row]:
            if item >= 0:
                is_visited[item] = False
        for place in range(count):
            if not (is_visited[items[place]] and allowed[items[place]]):
                scores[place] = -np.inf


@numba.njit(nogil=True)
def _visit(item, values, codes, width, is_visited, items, scores, count):
    """Score an item that was not visited before; return how many were."""
    if is_visited[item]:
        return count
    is_visited[item] = True
    total = np.float32(0)
    for digit in range(codes.shape[1]):
        total += values[digit * width + codes[item, digit]]
    items[count], scores[count] = item, total
    return count + 1
