"""The compiled loop equals the gathers, in value and gradient."""

from __future__ import annotations

import torch

from semid.nn.segment import segment_dot, segment_dot_plain, segments


def test_compiled_equals_plain_in_value_and_gradient():
    torch.manual_seed(0)
    hidden, table = torch.randn(5, 17, requires_grad=True), torch.randn(30, 17, requires_grad=True)
    lo, hi = torch.tensor([0, 3, 3, 10, 29]), torch.tensor([2, 3, 20, 11, 30])
    weight = torch.randn(int((hi - lo).sum()))
    results = []
    for way in (segment_dot, segment_dot_plain):
        value = way(hidden, table, lo, hi)
        results.append((value, *torch.autograd.grad((value * weight).sum(), (hidden, table))))
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, atol=1e-5)


def test_segments_name_each_row_and_place():
    row, place = segments(torch.tensor([4, 7, 2]), torch.tensor([6, 7, 3]))
    assert row.tolist() == [0, 0, 2]
    assert place.tolist() == [4, 5, 2]
