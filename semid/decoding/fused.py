"""One step of beam search on the CPU, fused: normalise, walk the children that exist, ask the limits, keep the best.

`position_of` returns what `CodeTree.position_of` does, `expand` what `step.expand` does: the same nodes in the same
order, the same float32 scores. It is quick since it

- visits existing children only, and asks whether one is alive only if its score could enter the beam;
- stops at the first beam whose own score is below the worst kept: beams come best first and children are never better;
- gathers candidates in a short buffer, cut to the best whenever it is full: a few nanoseconds a candidate.

Axes as in `step`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numba
import numpy as np
import torch
from torch import Tensor

from semid.decoding.normalise import Normalise
from semid.decoding.step import Frontier, Limits
from semid.tree import CodeTree


def _compiled(function: Callable) -> Callable:
    """Compile on first use, with what it calls; keep the machine code on disk, in memory alone if no folder can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # neither __pycache__ nor the user's cache folder: numba refuses when it decorates
        logging.getLogger(__name__).warning("no writable folder for compiled code: decoding compiles anew in each process "
                                            "(seconds); set NUMBA_CACHE_DIR to a writable folder")
        return numba.njit(nogil=True)(function)


@numba.njit
def _keep_best(key, slot, size, width):
    """Move the `width` greatest keys of key[:size] (all distinct), and their slots, to the front, in no order (quickselect)."""
    lo, hi = 0, size - 1
    while lo < hi:
        pivot = key[(lo + hi) >> 1]
        left, right = lo, hi
        while left <= right:
            while key[left] > pivot:
                left += 1
            while key[right] < pivot:
                right -= 1
            if left <= right:
                key[left], key[right] = key[right], key[left]
                slot[left], slot[right] = slot[right], slot[left]
                left += 1
                right -= 1
        if width <= right + 1:
            hi = right
        elif width > left:
            lo = left
        else:
            return


@numba.njit
def _sort_falling(key, slot, size):
    """Sort key[:size] from great to small, and its slots with it (Shell sort: short lists, no second array)."""
    gap = 1
    while gap < size:
        gap = 3 * gap + 1
    while gap > 1:
        gap //= 3
        for i in range(gap, size):
            moved, its_slot, at = key[i], slot[i], i
            while at >= gap and key[at - gap] < moved:
                key[at], slot[at] = key[at - gap], slot[at - gap]
                at -= gap
            key[at], slot[at] = moved, its_slot


@numba.njit
def _children_normaliser(logits, row, code, lo, hi):
    """Log-sum-exp in float64 over the distinct real codes of children lo .. hi, of logits[row]. -inf if all are padding."""
    top = -np.inf
    for child in range(lo, hi):
        if code[child] >= 0 and logits[row, code[child]] > top:
            top = np.float64(logits[row, code[child]])
    if top == -np.inf:
        return np.float32(-np.inf)
    total = 0.0
    for child in range(lo, hi):
        if code[child] >= 0 and (child == lo or code[child] != code[child - 1]):
            total += np.exp(np.float64(logits[row, code[child]]) - top)
    return np.float32(top + np.log(total))


@numba.njit
def _start(node, begin):
    """The first sorted position of a node; begin is empty at the last level, where it is the node itself."""
    return np.int64(begin[node]) if len(begin) else np.int64(node)


@numba.njit
def _lower_bound(values, row, lo, hi, bound):
    """The first slot in [lo, hi) of the rising values[row] that holds `bound` or more, hi if none does."""
    while lo < hi:
        middle = (lo + hi) >> 1
        if values[row, middle] < bound:
            lo = middle + 1
        else:
            hi = middle
    return lo


@numba.njit
def _has_unseen(node, begin, cum, seen, row, lo, hi):
    """Does a node hold more allowed items than seen ones? The seen items of its parent are seen[row, lo:hi]."""
    start, end = _start(node, begin), _start(node + 1, begin)
    count = np.int64(cum[node + 1] - cum[node]) if len(cum) else end - start
    return count > hi - lo or count > _lower_bound(seen, row, lo, hi, end) - _lower_bound(seen, row, lo, hi, start)


@_compiled
def _expand(code, first, begin, order, cum, seen, logp, over_children, weight, node, parent, out_node, out_logp, out_row):
    """Fill out_node and out_logp [B, J], out_row [B * J].

    begin: empty at the last level, where node c is sorted position c, and `order` breaks ties; else `order` is empty.
    cum: of this level, empty = all allowed. logp float32 [R, V]: log-probabilities, or logits to be normalised over children.
    """
    rows, beams = parent.shape
    width = out_logp.shape[1]
    room = 3 * width + 64
    key = np.empty(room, dtype=np.int64)  # as `step.order_key`: one integer orders by score, then tie
    slot = np.empty(room, dtype=np.int64)  # child * beams + beam
    number = np.empty(1, dtype=np.float32)
    bits = number.view(np.int32)
    for row in range(rows):
        size = 0
        worst = np.finfo(np.float32).min  # children below it are not among the best; -inf is no path
        broken = False
        for beam in range(beams):
            above = parent[row, beam]
            if above < worst:
                break
            here = row * beams + beam
            lo, hi = first[node[row, beam]], first[node[row, beam] + 1]
            seen_lo = _lower_bound(seen, row, 0, seen.shape[1], _start(lo, begin))
            seen_hi = _lower_bound(seen, row, seen_lo, seen.shape[1], _start(hi, begin))
            norm = _children_normaliser(logp, here, code, lo, hi) if over_children else np.float32(0.0)
            broken |= np.isnan(norm) or np.isnan(above) or np.isnan(logp[here, 0])
            for child in range(lo, hi):
                new = above
                if code[child] >= 0:
                    new += weight * min(logp[here, np.uint32(code[child])] - norm, np.float32(0.0))
                if new < worst or (len(cum) and cum[child + 1] == cum[child]):
                    continue
                if seen_lo < seen_hi and not _has_unseen(child, begin, cum, seen, row, seen_lo, seen_hi):
                    continue
                number[0] = new + np.float32(0.0)  # -0 and 0 are one score
                rising = np.int64(bits[0]) if bits[0] >= 0 else -np.int64(bits[0] & 0x7FFFFFFF)
                key[size] = (rising << 31) - (order[child] if len(order) else child)
                slot[size] = child * beams + beam
                size += 1
                if size == room:
                    _keep_best(key, slot, size, width)
                    size = width
                    rising = (key[:width].min() + 0x7FFFFFFF) >> 31
                    bits[0] = rising if rising >= 0 else -rising - 0x80000000
                    worst = number[0]
        if size > width:
            _keep_best(key, slot, size, width)
            size = width
        _sort_falling(key, slot, size)
        for rank in range(width):
            if rank < size:
                rising = (key[rank] + 0x7FFFFFFF) >> 31
                bits[0] = rising if rising >= 0 else -rising - 0x80000000
                out_logp[row, rank] = number[0]
                out_node[row, rank] = slot[rank] // beams
                out_row[row * width + rank] = row * beams + slot[rank] % beams
            else:
                out_logp[row, rank] = -np.inf
                out_node[row, rank] = 0
                out_row[row * width + rank] = row * beams
        if broken:
            out_logp[row] = np.nan


def expand(tree: CodeTree, level: int, logits: Tensor, beams: Frontier, width: int, *, normalise: Normalise, weight: float,
           limit: Limits) -> tuple[Frontier, Tensor]:
    """Return what `step.expand` returns, for tensors on the CPU."""
    assert len(logits) == beams.node.numel(), "one row of logits for each beam; the compiled loop doesn't check bounds"
    shape = len(beams.node), width
    over_children = normalise == "children"
    logp = logits.contiguous() if over_children else torch.log_softmax(logits, dim=1)
    node, score = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
    row = np.empty(shape[0] * width, dtype=np.int64)
    _expand(*tree.arrays[level], *limit.arrays[level], logp.numpy(), over_children, np.float32(weight), beams.node.numpy(),
            beams.logp.numpy(), node, score, row)
    return Frontier(torch.from_numpy(node), torch.from_numpy(score)), torch.from_numpy(row)


@_compiled
def _descend(code, first, order, wanted, items, node):
    """Replace each node of the level above, node int64 [M], by its child with the code wanted [M] (which it has).

    order: empty above the last level; there, of the items with that code, the one whose row is in items [M].
    """
    for i in range(len(node)):
        lo, hi = first[node[i]], first[node[i] + 1]
        while lo < hi:
            middle = (lo + hi) >> 1
            if code[middle] < wanted[i] or (len(order) and code[middle] == wanted[i] and order[middle] < items[i]):
                lo = middle + 1
            else:
                hi = middle
        node[i] = lo


def position_of(tree: CodeTree, items: Tensor) -> Tensor:
    """Return int64 [M]: the sorted position of item rows int64 [M]."""
    node = np.zeros(len(items), dtype=np.int64)
    codes = tree.codes.numpy()[items.numpy()].T.astype(np.int64, order="C")  # [L, M]
    for level in range(tree.levels):
        code, first, _, order = tree.arrays[level]
        _descend(code, first, order, codes[level], items.numpy(), node)
    return torch.from_numpy(node)
