"""Products of each row with its own run of table rows: the children of a tree node lie side by side.

Axes: M rows, D width, N table rows, T = sum of the runs' lengths.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semid.nn.loop import loop


def segment_dot(hidden: Tensor, table: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """Return float32 [T]: hidden[m] . table[n] for n in lo[m] .. hi[m], row after row.

    hidden float [M, D], table float32 [N, D], lo, hi int64 [M]. On CPU one compiled loop each way, without the [T, D] copies
    of the plain version (a third of a training step of the two-level generator); elsewhere the plain version.
    """
    if hidden.device.type != "cpu":
        return segment_dot_plain(hidden, table, lo, hi)
    return _SegmentDot.apply(hidden.float(), table, lo, hi)


def segment_dot_plain(hidden: Tensor, table: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """`segment_dot` by gathers, on any device."""
    row, place = segments(lo, hi)
    return (hidden.float()[row] * table[place]).sum(-1)


def segments(lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
    """Return (row, place) int64 [T]: the rows m, each as often as its run is long, and the numbers lo[m] .. hi[m]."""
    count = hi - lo
    row = torch.arange(len(lo), device=lo.device).repeat_interleave(count)
    place = torch.arange(len(row), device=lo.device) + (lo - (count.cumsum(0) - count)).repeat_interleave(count)
    return row, place


class _SegmentDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, table: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, table, lo, hi)
        out = torch.empty(int((hi - lo).sum()))
        _forward(_array(hidden), _array(table), _array(lo), _array(hi), out.numpy())
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor):
        hidden, table, lo, hi = ctx.saved_tensors
        grad_hidden, grad_table = torch.zeros_like(hidden), torch.zeros_like(table)
        _backward(_array(hidden), _array(table), _array(lo), _array(hi), _array(grads[0]), grad_hidden.numpy(), grad_table.numpy())
        return grad_hidden, grad_table, None, None


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


@loop(fastmath=True)
def _forward(hidden, table, lo, hi, out):
    t = 0
    for m in range(len(lo)):
        for n in range(lo[m], hi[m]):
            total = np.float32(0)
            for d in range(hidden.shape[1]):
                total += hidden[m, d] * table[n, d]
            out[t] = total
            t += 1


@loop(fastmath=True)
def _backward(hidden, table, lo, hi, grad, grad_hidden, grad_table):
    t = 0
    for m in range(len(lo)):
        for n in range(lo[m], hi[m]):
            g = grad[t]
            for d in range(hidden.shape[1]):
                grad_hidden[m, d] += g * table[n, d]
                grad_table[n, d] += g * hidden[m, d]
            t += 1
