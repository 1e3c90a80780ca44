"""Beam search on the CPU, fused: a level normalises, walks the children that exist, asks the limits and keeps the best in one loop.

`prepare_limits`, `expand`, `follow` and `search` return what those of `step` do: the same nodes in the same order, the same float32 scores.
They are quick since beams stay in arrays that no tensor operation touches, and a level

- visits existing children only, and asks whether one is alive only if its score could enter the beam;
- stops at the first beam whose own score is below the worst kept: beams come best first and children are never better;
- passes over a block of siblings whose greatest score is below it;
- gathers candidates in a short buffer, cut to the best whenever it is full: a few nanoseconds a candidate.

Axes as in `step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor

from semid.decoding import step
from semid.decoding.normalise import Normalise
from semid.decoding.step import Frontier, Limits
from semid.nn.loop import loop
from semid.nn.search import lower_bound
from semid.protocols import Generator
from semid.tree import CodeTree, Constraint
from semid.types import Batch

BLOCK = 32
"""Siblings that are looked at together."""
EVERY = np.empty(0, dtype=np.int64)


class Paths(NamedTuple):
    """`step.Frontier` in arrays. node int64 [B, K]; logp float32 [B, K]."""

    node: np.ndarray
    logp: np.ndarray


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


@numba.njit(fastmath={"nnan", "nsz"})
def _greatest(logits, row, code, lo, hi):
    """The greatest of logits[row] at codes lo .. hi, which are no padding (NaN may get lost); -inf if lo = hi."""
    best = np.float32(-np.inf)
    for child in range(lo, hi):
        best = max(best, logits[row, np.uint32(code[child])])
    return best


@numba.njit(fastmath={"nnan", "nsz"})
def _greatest_between(logits, row, lo, hi):
    """The greatest of logits[row, lo:hi] (NaN may get lost)."""
    best = np.float32(-np.inf)
    for place in range(np.uint32(lo), np.uint32(hi)):
        best = max(best, logits[row, place])
    return best


@numba.njit(fastmath={"reassoc", "contract"})
def _exp(x):
    """e^x for x <= 0, NaN for NaN, relative error 2e-15: x = n log 2 + f, a Taylor sum of e^f, n put into the exponent's bits.

    Unlike the C library's function it can run on a vector of numbers at once.
    """
    x = -708.0 if x < -708.0 else x  # below are no normal numbers
    n = np.floor(x * 1.4426950408889634 + 0.5)
    f = (x - n * 0.693145751953125) - n * 1.42860682030941723212e-06  # log 2 in two parts, the first short: n times it is exact
    total = 1 / 6227020800  # 1 / 13!
    for factor in (1 / 479001600, 1 / 39916800, 1 / 3628800, 1 / 362880, 1 / 40320, 1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5,
                   1.0, 1.0):
        total = total * f + factor
    exponent = np.int64(n if n > -1023.0 else -1023.0) + 1023
    return total * np.int64(exponent << 52).view(np.float64)


@numba.njit(fastmath={"reassoc", "contract"})
def _children_normaliser(logits, row, code, lo, hi):
    """Log-sum-exp in float64 over the distinct real codes of children lo .. hi, of logits[row]. -inf if all are padding."""
    while lo < hi and code[lo] < 0:
        lo += 1
    top = np.float64(_greatest(logits, row, code, lo, hi))
    if top == -np.inf:
        return np.float32(-np.inf)
    total = _exp(np.float64(logits[row, np.uint32(code[lo])]) - top)
    for child in range(lo + 1, hi):
        term = _exp(np.float64(logits[row, np.uint32(code[child])]) - top)
        total += term if code[child] != code[child - 1] else 0.0  # items that share all codes are one outcome
    return np.float32(top + np.log(total))


@numba.njit
def _start(node, begin):
    """The first sorted position of a node; begin is empty at the last level, where it is the node itself."""
    return np.int64(begin[node]) if len(begin) else np.int64(node)


@numba.njit
def _has_unseen(node, begin, cum, seen, row, lo, hi):
    """Does a node hold more allowed items than seen ones? The seen items of its parent are seen[row, lo:hi]."""
    start, end = _start(node, begin), _start(node + 1, begin)
    count = np.int64(cum[node + 1] - cum[node]) if len(cum) else end - start
    return count > hi - lo or count > lower_bound(seen[row], lo, hi, end) - lower_bound(seen[row], lo, hi, start)


@loop()
def _expand(code, first, begin, order, cum, seen, logp, place, over_children, weight, node, parent, out_node, out_logp, out_row):
    """Fill out_node and out_logp [B, J], out_row [B * J].

    begin: empty at the last level, where node c is sorted position c, and `order` breaks ties; else `order` is empty.
    cum: of this level, empty = all allowed. logp float32 [R, V]: log-probabilities, or logits to be normalised over children.
    place int64 [B * K]: the row of logp that a beam's is, -1 = the beam is sure of its child; empty = rows and beams are the same.
    """
    rows, beams = parent.shape
    width = out_logp.shape[1]
    room = 2 * width + 32
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
            here = place[row * beams + beam] if len(place) else row * beams + beam
            is_sure = here < 0
            lo, hi = first[node[row, beam]], first[node[row, beam] + 1]
            seen_lo = lower_bound(seen[row], 0, seen.shape[1], _start(lo, begin))
            seen_hi = lower_bound(seen[row], seen_lo, seen.shape[1], _start(hi, begin))
            norm = np.float32(0.0)
            if not is_sure:
                if over_children:
                    norm = _children_normaliser(logp, here, code, lo, hi)
                broken |= np.isnan(norm) or np.isnan(logp[here, 0])
            broken |= np.isnan(above)
            for block in range(lo, hi, BLOCK):
                end = min(block + BLOCK, hi)
                is_full = worst > np.finfo(np.float32).min
                if is_full and not is_sure and code[block] >= 0 and code[end - 1] - code[block] < 2 * BLOCK:
                    best = _greatest_between(logp, here, code[block], code[end - 1] + 1)
                    if above + weight * min(best - norm, np.float32(0.0)) < worst:  # rounding keeps order: no child exceeds this
                        continue
                for child in range(block, end):
                    new = above
                    if code[child] >= 0 and not is_sure:
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


def expand(tree: CodeTree, level: int, logits: Tensor, beams: Paths, width: int, *, normalise: Normalise, weight: float,
           limit: Limits, place: np.ndarray = EVERY) -> tuple[Paths, np.ndarray]:
    """Return what `step.expand` returns, as arrays. place int64 [B * K]: which row of `logits` is a beam's, -1 = the beam stands at
    a node of one item, to be normalised over children; EVERY = there is a row for each beam, in their order."""
    assert (logits.shape[0] if place is EVERY else len(place)) == beams.node.size  # the loop doesn't check bounds
    rows = len(beams.node)
    over_children = normalise == "children"
    logp = logits.contiguous() if over_children else logits.log_softmax(1)
    node, score = np.empty((rows, width), dtype=np.int64), np.empty((rows, width), dtype=np.float32)
    row = np.empty(rows * width, dtype=np.int64)
    _expand(*tree.arrays[level], *limit.arrays[level], logp.numpy(), place, over_children, np.float32(weight), beams.node, beams.logp,
            node, score, row)
    return Paths(node, score), row


@loop()
def _follow(code, first, logits, over_children, node, wanted, out_node, out_logp):
    """Fill what `step.follow` returns, [R] each; logits: log-probabilities where they need no sum over children."""
    for row in range(len(node)):
        lo, hi = first[node[row]], first[node[row] + 1]
        out_node[row] = lower_bound(code, lo, hi - 1, wanted[row])
        out_logp[row] = 0.0
        if wanted[row] >= 0:
            norm = _children_normaliser(logits, row, code, lo, hi) if over_children else np.float32(0.0)
            logp = logits[row, wanted[row]] - norm
            out_logp[row] = np.float32(0.0) if logp > 0 else logp  # NaN stays


def follow(tree: CodeTree, level: int, logits: Tensor, node: Tensor, code: Tensor, *, normalise: Normalise) -> tuple[Tensor, Tensor]:
    """Return what `step.follow` returns."""
    over_children = normalise == "children"
    logp = logits.contiguous() if over_children else logits.log_softmax(1)
    child, found = torch.empty_like(node), torch.empty(len(node))
    _follow(*tree.arrays[level][:2], logp.numpy(), over_children, node.numpy(), code.numpy(), child.numpy(), found.numpy())
    return child, found


@loop()
def _feed(code, begin, over_children, node, logp, parent, slot, num_states, out_place, out_code, out_row):
    """Decide which beams to step: node [B, J] reached from beams parent [B * J] whose states, num_states of them, stand in slot
    [B * K] (empty: in order).

    Fills out_place [B * J], where the beam's state and logits will stand, -1 if it is not stepped; out_code and out_row, as much of
    [B * J] as is returned: the codes to feed and which state each goes on from. A row of B has as many as any, the rest repeat.
    """
    rows, beams = node.shape
    most = 0
    for row in range(rows):
        count = 0
        for beam in range(beams):
            at = row * beams + beam
            is_open = logp[row, beam] != -np.inf and not (over_children and begin[node[row, beam] + 1] - begin[node[row, beam]] == 1)
            out_place[at] = count if is_open else -1
            count += is_open
        most = max(most, count)
    for row in range(rows):
        filled = 0
        for beam in range(beams):
            at = row * beams + beam
            if out_place[at] >= 0:
                out_place[at] = to = row * most + filled
                out_code[to] = max(code[node[row, beam]], 0)
                out_row[to] = slot[parent[at]] if len(slot) else parent[at]
                filled += 1
        for to in range(row * most + filled, (row + 1) * most):
            out_code[to] = 0
            out_row[to] = row * (num_states // rows)
    return rows * most


def search(generator: Generator, batch: Batch, tree: CodeTree, widths: Sequence[int], *, normalise: Normalise,
           weights: Sequence[float], limit: Limits) -> Frontier:
    """Return what `step.search` returns, for tensors on the CPU."""
    rows = len(batch)
    logits, state = generator.step(generator.start(batch), None)
    paths, place = Paths(np.zeros((rows, 1), dtype=np.int64), np.zeros((rows, 1), dtype=np.float32)), EVERY
    for level, width in enumerate(widths):
        paths, parent = expand(tree, level, logits.float(), paths, width, normalise=normalise, weight=weights[level], limit=limit,
                               place=place)
        if level < len(widths) - 1:
            code, _, begin, _ = tree.arrays[level]
            slot, place, codes, source = place, np.empty_like(parent), np.empty_like(parent), np.empty_like(parent)
            count = _feed(code, begin, normalise == "children", *paths, parent, slot, len(logits), place, codes, source)
            if count:
                state = state.select(torch.from_numpy(source[:count]))
                logits, state = generator.step(state, torch.from_numpy(codes[:count]))
    return Frontier(torch.from_numpy(paths.node), torch.from_numpy(paths.logp))


@loop()
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


@loop()
def _settle(position, items, cum, num_items):
    """Turn position [B, s] into the rising positions of what `items` [B, s] names and is allowed, once each; N pads right."""
    rows, width = position.shape
    for row in range(rows):
        for place in range(width):
            at = position[row, place]
            if items[row, place] < 0 or (len(cum) and cum[at + 1] == cum[at]):  # only an allowed item can be taken from the allowed
                position[row, place] = num_items
        position[row].sort()
        size = 0
        for place in range(width):
            if size == 0 or position[row, place] != position[row, size - 1]:
                position[row, size] = position[row, place]
                size += 1
        position[row, size:] = num_items


def prepare_limits(tree: CodeTree, constraint: Constraint | None, seen: Tensor | None, rows: int) -> Limits:
    """Return what `step.prepare_limits` returns."""
    if seen is None or seen.numel() == 0:
        return step.prepare_limits(tree, constraint, None, rows)
    position = position_of(tree, seen.clamp_min(0).flatten()).view(seen.shape)
    cum = None if constraint is None else constraint.cum
    _settle(position.numpy(), seen.numpy(), np.empty(0, dtype=np.int32) if cum is None else cum[-1].numpy(), len(tree))
    return Limits(cum, position, tree.levels)
