"""The two-level generator in compiled loops, for inference on the CPU: a request is one call to read it and one a level.

A tensor operation on one user's vectors costs more to call than to compute, and there would be a hundred of them. The loops read the
weights where they lie; products run at the speed of torch's fastest (4 x 4 tiles that stay in registers). All is in one file since
numba's cache on disk doesn't notice changes in another.

Axes: B users, S history positions, R beam rows, D width, H heads, F feed-forward width, L levels, V codes in the widest level,
n(l) nodes of level l. A norm is (weight [D], bias [D]), a linear layer (weight [out, in], bias [out]); a block is (norm, linear
D -> 3 D, linear D -> D, norm, linear D -> F, linear F -> D), as in `nn.transformer.Block`. Sums are float32, in any order.
"""

from __future__ import annotations

import numba
import numpy as np

from semid.nn.loop import loop
from semid.nn.search import lower_bound
from semid.types import DAY

EPS = 1e-5  # of torch's layer norm
ROWS = 64  # of a product's left side that stay in the cache
LOOSE = {"reassoc", "contract", "nsz"}


@numba.njit(nogil=True, fastmath=LOOSE)
def _exp(x):
    """e^x in float32, for x <= 0, relative error 2e-7; a Taylor sum and a shift, so that many run at once. NaN stays."""
    x = np.float32(-87.0) if x < np.float32(-87.0) else x
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    f = (x - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)
    total = np.float32(1 / 5040)
    for factor in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        total = total * f + np.float32(factor)
    exponent = np.int32(n if n > np.float32(-127.0) else np.float32(-127.0)) + np.int32(127)
    return total * np.int32(exponent << 23).view(np.float32)


@numba.njit(nogil=True, fastmath=LOOSE)
def gelu(x):
    """Replace float32 [M, N] by x/2 (1 + erf(x / sqrt 2)).

    erf to 2e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    flat = x.reshape(-1)
    for i in range(len(flat)):
        z = abs(flat[i]) * np.float32(0.70710678)
        t = np.float32(1.0) / (np.float32(1.0) + np.float32(0.3275911) * z)
        poly = np.float32(1.061405429)
        for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            poly = poly * t + np.float32(factor)
        tail = poly * t * _exp(-z * z)  # 1 - erf(z)
        flat[i] *= np.float32(0.5) * (np.float32(2.0) - tail if flat[i] > 0 else tail)


@numba.njit(nogil=True, fastmath=LOOSE)
def product(x, weight, bias, out):
    """Write x [M, K] times weight [N, K] plus bias [N] (or [0]: none) into out [M, N]."""
    rows, width = x.shape
    columns = len(weight)
    tiled = columns - columns % 4
    for top in range(0, rows, ROWS):
        end = min(top + ROWS, rows)
        last = end - (end - top) % 4
        for n in range(0, tiled, 4):
            w0, w1, w2, w3 = weight[n], weight[n + 1], weight[n + 2], weight[n + 3]
            for m in range(top, last, 4):
                x0, x1, x2, x3 = x[m], x[m + 1], x[m + 2], x[m + 3]
                a00 = a01 = a02 = a03 = a10 = a11 = a12 = a13 = np.float32(0.0)
                a20 = a21 = a22 = a23 = a30 = a31 = a32 = a33 = np.float32(0.0)
                for k in range(width):
                    p0, p1, p2, p3, q0, q1, q2, q3 = x0[k], x1[k], x2[k], x3[k], w0[k], w1[k], w2[k], w3[k]
                    a00, a01, a02, a03 = a00 + p0 * q0, a01 + p0 * q1, a02 + p0 * q2, a03 + p0 * q3
                    a10, a11, a12, a13 = a10 + p1 * q0, a11 + p1 * q1, a12 + p1 * q2, a13 + p1 * q3
                    a20, a21, a22, a23 = a20 + p2 * q0, a21 + p2 * q1, a22 + p2 * q2, a23 + p2 * q3
                    a30, a31, a32, a33 = a30 + p3 * q0, a31 + p3 * q1, a32 + p3 * q2, a33 + p3 * q3
                out[m, n], out[m, n + 1], out[m, n + 2], out[m, n + 3] = a00, a01, a02, a03
                out[m + 1, n], out[m + 1, n + 1], out[m + 1, n + 2], out[m + 1, n + 3] = a10, a11, a12, a13
                out[m + 2, n], out[m + 2, n + 1], out[m + 2, n + 2], out[m + 2, n + 3] = a20, a21, a22, a23
                out[m + 3, n], out[m + 3, n + 1], out[m + 3, n + 2], out[m + 3, n + 3] = a30, a31, a32, a33
            for m in range(last, end):
                x0 = x[m]
                a00 = a01 = a02 = a03 = np.float32(0.0)
                for k in range(width):
                    a00, a01, a02, a03 = a00 + x0[k] * w0[k], a01 + x0[k] * w1[k], a02 + x0[k] * w2[k], a03 + x0[k] * w3[k]
                out[m, n], out[m, n + 1], out[m, n + 2], out[m, n + 3] = a00, a01, a02, a03
        for m in range(top, end):
            for n in range(tiled, columns):
                out[m, n] = _dot(x[m], weight[n])
            if len(bias):
                for n in range(columns):
                    out[m, n] += bias[n]


@numba.njit(nogil=True, fastmath=LOOSE)
def _dot(a, b):
    total = np.float32(0.0)
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@numba.njit(nogil=True, fastmath=LOOSE)
def _norm(x, norm):
    """Layer norm of x [M, D]."""
    weight, bias = norm
    out = np.empty_like(x)
    width = np.float32(x.shape[1])
    for m in range(len(x)):
        mean = np.float32(0.0)
        for d in range(x.shape[1]):
            mean += x[m, d]
        mean /= width
        spread = np.float32(0.0)
        for d in range(x.shape[1]):
            spread += (x[m, d] - mean) ** 2
        scale = np.float32(1.0) / np.sqrt(spread / width + np.float32(EPS))
        for d in range(x.shape[1]):
            out[m, d] = (x[m, d] - mean) * scale * weight[d] + bias[d]
    return out


@numba.njit(nogil=True, fastmath=LOOSE)
def _linear(x, layer):
    out = np.empty((len(x), len(layer[0])), dtype=np.float32)
    product(x, layer[0], layer[1], out)
    return out


@numba.njit(nogil=True, fastmath=LOOSE)
def _attend(qkv, heads, start):
    """Causal attention of the queries from position `start` on: qkv [S, 3 D] -> [S - start, D]."""
    length, width = len(qkv), qkv.shape[1] // 3
    each = width // heads
    out = np.zeros((length - start, width), dtype=np.float32)
    weight = np.empty(length, dtype=np.float32)
    scale = np.float32(1.0 / np.sqrt(each))
    for head in range(heads):
        lo, hi = head * each, (head + 1) * each
        for at in range(start, length):
            query = qkv[at, lo:hi]
            top = np.float32(-np.inf)
            for j in range(at + 1):
                weight[j] = scale * _dot(query, qkv[j, width + lo : width + hi])
                top = max(top, weight[j])
            total = np.float32(0.0)
            for j in range(at + 1):
                weight[j] = _exp(weight[j] - top)
                total += weight[j]
            mixed = out[at - start, lo:hi]
            for j in range(at + 1):
                share = weight[j] / total
                value = qkv[j, 2 * width + lo : 2 * width + hi]
                for d in range(each):
                    mixed[d] += share * value[d]
    return out


@numba.njit(nogil=True)
def _block(x, block, heads, start):
    """`nn.transformer.Block` on x [S, D]: its output from position `start` on, [S - start, D]."""
    norm, qkv, out, feed_norm, wide, narrow = block
    x = x[start:] + _linear(_attend(_linear(_norm(x, norm), qkv), heads, start), out)
    hidden = _linear(_norm(x, feed_norm), wide)
    gelu(hidden)
    return x + _linear(hidden, narrow)


@loop()
def read(item, time, length, codes, content, offset, code_table, item_table, gap_table, position_table, scale, blocks, norm, heads):
    """Return float32 [B, D]: the user after the last of each history's items; that of an empty one has read a zero vector.

    item, time int64 [B, S] (-1 pads), length int64 [B]; codes [N, L]; content float32 [B, S, D]: projected, or [0, 0, D];
    offset int64 [L]: where a level's vectors begin in code_table [., D]; item_table and gap_table are [0, D] if there are none;
    scale: of the item's vector, before those of gap and position are added.
    """
    users = np.empty((len(item), code_table.shape[1]), dtype=np.float32)
    for row in range(len(item)):
        size = max(length[row], 1)
        x = content[row, :size].copy() if len(content) else np.zeros((size, code_table.shape[1]), dtype=np.float32)
        for place in range(size):
            which = item[row, place]
            if which < 0:
                x[place] = position_table[place]
            else:
                for level in range(codes.shape[1]):
                    x[place] += code_table[offset[level] + codes[which, level]]
                if len(item_table):
                    x[place] += item_table[which]
                x[place] = x[place] * scale + position_table[place]
            if len(gap_table):  # the buckets of `gap_bucket`
                days = max(time[row, place] - time[row, place - 1], 0) // DAY if place else 0
                bucket = 0
                while days and bucket < len(gap_table) - 1:
                    days >>= 1
                    bucket += 1
                x[place] += gap_table[bucket]
        for number in range(len(blocks)):
            x = _block(x, blocks[number], heads, size - 1 if number == len(blocks) - 1 else 0)
        users[row] = _norm(x[-1:], norm)[0]
    return users


@loop()
def enter(code, first, table, node, codes, prefix):
    """Let every beam choose a code: move node int64 [R] to that child and add the code's vector to prefix [R, D], both in place.

    code, first: of the level, as in `CodeTree.arrays`; table float32 [V, D]: the codes' vectors.
    A beam whose node has no such child (a dead one) goes to any.
    """
    for row in range(len(node)):
        node[row] = lower_bound(code, first[node[row]], first[node[row] + 1] - 1, codes[row])
        prefix[row] += table[codes[row]]


@loop()
def choose(code, first, node, user, owner, prefix, width, wide, narrow, norm, shared_table, own_table):
    """Return float32 [R, width]: logits of the children of node int64 [R], -inf for codes no child has.

    code, first: of the children's level; user [B, D]; owner int64 [R]: whose beam a row is; prefix [R, D]; wide and narrow: linear
    layers 2 D -> 2 D -> D; shared_table [V, D]: the codes' vectors; own_table [n(level), D]: the nodes' own, or [0, D].
    """
    rows, depth = prefix.shape
    both = np.empty((rows, 2 * depth), dtype=np.float32)
    total = np.empty((rows, depth), dtype=np.float32)
    for row in range(rows):
        both[row, :depth] = user[owner[row]]
        both[row, depth:] = prefix[row]
        total[row] = user[owner[row]] + prefix[row]
    inner = _linear(both, wide)
    gelu(inner)
    hidden = _norm(total + _linear(inner, narrow), norm)
    shared = np.empty((rows, len(shared_table)), dtype=np.float32)
    product(hidden, shared_table, np.empty(0, dtype=np.float32), shared)
    out = np.full((rows, width), -np.inf, dtype=np.float32)
    for row in range(rows):
        for child in range(first[node[row]], first[node[row] + 1]):
            own = _dot(hidden[row], own_table[child]) if len(own_table) else np.float32(0.0)
            out[row, code[child]] = shared[row, code[child]] + own
    return out
