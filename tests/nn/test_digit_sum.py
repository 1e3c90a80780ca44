import numpy as np
import torch

from semid.nn.digit_sum import digit_sum, digit_sum_plain


def test_compiled_and_plain_sums_equal_numpy():
    rng = np.random.default_rng(0)
    values, codes = rng.normal(size=(3, 5, 9)).astype(np.float32), rng.integers(0, 9, (40, 5))
    expected = values.astype(np.float64)[:, np.arange(5), codes].sum(2)
    for dtype in (torch.int16, torch.int32, torch.int64):
        for way in (digit_sum, digit_sum_plain):
            np.testing.assert_allclose(way(torch.from_numpy(values), torch.from_numpy(codes).to(dtype)).numpy(), expected, atol=1e-5)


def test_a_row_has_the_same_bits_alone_as_among_others():
    torch.manual_seed(0)
    values, codes = torch.randn(9, 8, 16), torch.randint(16, (100, 8))
    assert torch.equal(digit_sum(values[4:5], codes)[0], digit_sum(values, codes)[4])
