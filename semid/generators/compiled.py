"""The two-level generator's loops for inference on the CPU: what `TwoLevel` does around its matrix products, in one pass each.

A tensor operation on one user's vectors costs more to call than to compute, and there would be fifty of them.
Axes: B users, S history positions, R beam rows, D width, L levels, V codes in the widest level, n(l) nodes of level l.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def read(item, time, codes, offset, code_table, item_table, gap_table, total):
    """Add to total float32 [B, S, D] what a history shows at each position: vectors of the codes, the item, the days since the event
    before. item, time int64 [B, S] (pads read item 0); codes [N, L]; offset int64 [L]: where a level's vectors begin
    in code_table [., D]; item_table and gap_table are [0, D] if there are none. The buckets of days are those of `gap_bucket`.
    """
    rows, length, width = total.shape
    for row in range(rows):
        for place in range(length):
            out = total[row, place]
            which = max(item[row, place], 0)
            for level in range(codes.shape[1]):
                vector = code_table[offset[level] + codes[which, level]]
                for d in range(width):
                    out[d] += vector[d]
            if len(item_table):
                for d in range(width):
                    out[d] += item_table[which, d]
            if len(gap_table):
                days = max(time[row, place] - time[row, place - 1], 0) // 86_400 if place else 0
                bucket = 0
                while days and bucket < len(gap_table) - 1:
                    days >>= 1
                    bucket += 1
                for d in range(width):
                    out[d] += gap_table[bucket, d]


@numba.njit(cache=True, nogil=True)
def enter(code, first, table, node, codes, user, owner, prefix):
    """Let every beam choose a code: move node int64 [R] to that child, in place, and add the code's vector to its prefix.

    code, first: of the level, as in `CodeTree.arrays`; table float32 [V, D]: the codes' vectors; user [B, D]; owner int64 [R]: whose
    beam a row is; prefix [R, D]. Returns (both float32 [R, 2 D]: user and new prefix side by side, total float32 [R, D]: their sum).
    A beam whose node has no such child (a dead one) goes to any.
    """
    rows, width = prefix.shape
    both = np.empty((rows, 2 * width), dtype=np.float32)
    total = np.empty((rows, width), dtype=np.float32)
    for row in range(rows):
        lo, hi = first[node[row]], first[node[row] + 1] - 1
        while lo < hi:
            middle = (lo + hi) >> 1
            if code[middle] < codes[row]:
                lo = middle + 1
            else:
                hi = middle
        node[row] = lo
        for d in range(width):
            both[row, d] = user[owner[row], d]
            both[row, width + d] = prefix[row, d] + table[codes[row], d]
            total[row, d] = both[row, d] + both[row, width + d]
    return both, total


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def children_logits(code, first, node, hidden, shared, table, width):
    """Return float32 [R, width]: logits of the children of node int64 [R], -inf for codes no child has.

    code, first: of the children's level; hidden float32 [R, D]; shared float32 [R, sizes[level]]: products with the codes' vectors;
    table float32 [n(level), D]: the nodes' own vectors, or [0, D] if they have none.
    """
    out = np.full((len(node), width), -np.inf, dtype=np.float32)
    for row in range(len(node)):
        for child in range(first[node[row]], first[node[row] + 1]):
            total = np.float32(0.0)
            if len(table):
                for d in range(hidden.shape[1]):
                    total += hidden[row, d] * table[child, d]
            out[row, code[child]] = shared[row, code[child]] + total
    return out
