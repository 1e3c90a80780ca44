import numpy as np
import pytest
import torch

from semid.nn.quantize import (
    _balance,
    _balanced_of_torch,
    least,
    nearest,
    quantization_loss,
    residual_after,
    residual_codes,
    sinkhorn_plan,
    squared_distances,
    straight_through,
)


def numpy_residual_codes(points, codebooks):
    """The textbook loop, in float64."""
    codes, quantised = np.zeros((len(points), len(codebooks)), int), np.zeros_like(points)
    for row, point in enumerate(points):
        residual = point.copy()
        for level, codebook in enumerate(codebooks):
            codes[row, level] = ((residual - codebook) ** 2).sum(1).argmin()
            residual = residual - codebook[codes[row, level]]
        quantised[row] = point - residual
    return codes, quantised


def test_residual_codes_equal_the_textbook_loop():
    rng = np.random.default_rng(0)
    points, codebooks = rng.normal(size=(200, 12)), rng.normal(size=(3, 16, 12))
    codes, residual = residual_codes(torch.from_numpy(points).float(), torch.from_numpy(codebooks).float())
    want, quantised = numpy_residual_codes(points, codebooks)
    np.testing.assert_array_equal(codes, want)
    np.testing.assert_allclose(points - residual.numpy(), quantised, atol=1e-5)


def test_nearest_ties_go_to_the_lowest_code():
    codebook = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[0.0, 5.0], [2.0, 0.0]]), codebook).tolist() == [0, 0]


def test_nearest_is_as_exact_under_autocast():
    rng = torch.Generator().manual_seed(0)
    codebook = 10 + torch.randn(64, 8, generator=rng)  # far from the origin, where bfloat16 tells few distances apart
    points = codebook[torch.randint(64, (500,), generator=rng)] + 0.3 * torch.randn(500, 8, generator=rng)
    want = torch.cdist(points.double(), codebook.double()).argmin(1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(points, codebook), want)
    assert torch.equal(nearest(points, codebook), want)


def test_squared_distances_equal_cdist():
    points, codebook = torch.randn(20, 5), torch.randn(7, 5)
    torch.testing.assert_close(squared_distances(points, codebook), torch.cdist(points, codebook) ** 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("unit", [False, True])
def test_residual_after_the_own_codes_leaves_the_own_last_code_nearest(unit):
    points, codebooks = torch.randn(50, 6), torch.randn(3, 8, 6) * 0.5
    codes, _ = residual_codes(points, codebooks, unit_residuals=unit)
    before_last = residual_after(points, codes[:, :2], codebooks, unit_residuals=unit)
    assert nearest(before_last, codebooks[2]).equal(codes[:, 2])


def test_straight_through_has_the_value_of_the_code_and_the_gradient_of_the_identity():
    z, q, weight = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    out = straight_through(z, q)
    torch.testing.assert_close(out, q)
    (out * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)
    assert q.grad is None


def test_quantization_loss_has_the_value_and_gradients_of_its_equation():
    r, e = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    loss = quantization_loss(r, e, commitment=0.25)
    difference = (e - r).detach()
    torch.testing.assert_close(loss.detach(), 1.25 * difference.square().mean())
    loss.backward()
    torch.testing.assert_close(e.grad, 2 * difference / 12)
    torch.testing.assert_close(r.grad, -0.25 * 2 * difference / 12)


def test_sinkhorn_equals_numpy_and_is_even_over_columns():
    cost = torch.rand(6, 4)
    c = cost.double().numpy()
    middle = (c.max() + c.min()) / 2
    plan = np.exp(-((c - middle) / (c.max() - middle + 1e-5)) / 0.05)
    for _ in range(50):
        plan /= plan.sum(1, keepdims=True) * 6
        plan /= plan.sum(0, keepdims=True) * 4
    got = sinkhorn_plan(cost, epsilon=0.05, iterations=50)
    np.testing.assert_allclose(got, plan, atol=1e-5)
    np.testing.assert_allclose(got.sum(0), 0.25, atol=1e-12)


def test_sinkhorn_of_other_devices_is_that_of_the_cpu():
    plan = torch.exp(-torch.rand(40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 0.1)
    in_place = plan.clone()
    _balance(in_place.numpy(), 20)
    torch.testing.assert_close(_balanced_of_torch(plan, 20), in_place)
    torch.testing.assert_close(in_place.sum(0), torch.full((8,), 1 / 8, dtype=torch.float64))


def test_sinkhorn_stays_finite_at_the_paper_s_epsilon():
    assert torch.isfinite(sinkhorn_plan(torch.rand(5, 256) * 100, epsilon=0.003, iterations=50)).all()


def test_the_first_least_of_a_row_is_torch_s():
    values = torch.randint(3, (50, 7)).float()
    assert least(values).tolist() == [row.index(min(row)) for row in values.tolist()]
    assert least(values.bfloat16()).shape == (50,)
