import torch

from semid.nn.quantize import residual_codes, sinkhorn_plan
from semid.nn.residual_quantizer import ResidualQuantizer


def quantizer(restart_after: int = 50) -> ResidualQuantizer:
    torch.manual_seed(0)
    module = ResidualQuantizer(3, 8, 5, restart_after=restart_after)
    torch.nn.init.normal_(module.codebooks)
    return module


def test_codes_and_total_equal_the_pure_function():
    module, points = quantizer().eval(), torch.randn(40, 5)
    out = module(points)
    codes, residual = residual_codes(points, module.codebooks)
    assert out.codes.equal(codes)
    torch.testing.assert_close(out.total, points - residual)
    torch.testing.assert_close(out.residual[0], points)


def test_gradients_of_the_loss_reach_codes_and_points_as_their_equation_says():
    module, points = quantizer().eval(), torch.randn(4, 5, requires_grad=True)
    out = module(points)
    out.loss(commitment=0.25).backward()
    difference = (out.chosen - out.residual).detach()                      # [L, B, D]
    want = torch.zeros_like(module.codebooks)
    for level in range(3):
        want[level].index_add_(0, out.codes[:, level], 2 * difference[level] / 20 / 3)
    torch.testing.assert_close(module.codebooks.grad, want)
    torch.testing.assert_close(points.grad, -0.25 * 2 * difference.sum(0) / 20 / 3)


def test_a_code_unused_for_long_restarts_at_a_residual():
    module, points = quantizer(restart_after=3), torch.randn(64, 5)
    with torch.no_grad():
        module.codebooks[0, 0] = 1e3
    for _ in range(3):
        module(points)
        assert module.codebooks[0, 0, 0] == 1e3
    module(points)
    assert (points == module.codebooks[0, 0]).all(dim=1).any()
    assert module.idle[0, 0] == 0


def test_evaluation_restarts_nothing():
    module, points = quantizer(restart_after=1).eval(), torch.randn(64, 5)
    before = module.codebooks.clone()
    for _ in range(5):
        module(points)
    assert module.codebooks.equal(before)


def test_the_last_level_is_spread_evenly_in_training_alone():
    module, points = quantizer(), torch.randn(64, 5)
    module.last_epsilon = 0.003
    with torch.no_grad():
        module.codebooks[2, 1:] += 3  # code 0 is the nearest of nearly every row
    spread, plain = module(points), module.eval()(points)
    assert plain.codes[:, 2].eq(0).float().mean() > 0.9
    used = torch.bincount(spread.codes[:, 2], minlength=8)
    assert used.min() >= 4
    assert used.max() <= 20
    assert spread.codes[:, :2].equal(plain.codes[:, :2])
    cost = ((spread.residual[2][:, None] - module.codebooks[2]) ** 2).sum(2).detach()
    assert spread.codes[:, 2].equal(sinkhorn_plan(cost, epsilon=0.003, iterations=50).argmax(1))
