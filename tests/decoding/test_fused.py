import pytest
import torch

from semid.decoding import fused


@pytest.mark.parametrize("size", [1, 2, 7, 500])
def test_the_best_are_kept_and_sorted(size):
    rng = torch.Generator().manual_seed(size)
    key = torch.randperm(10_000, generator=rng)[:size]
    for width in {1, size // 2 + 1, size}:
        kept, slot = key.clone(), torch.arange(size)
        fused._keep_best(kept.numpy(), slot.numpy(), size, width)
        fused._sort_falling(kept.numpy(), slot.numpy(), width)
        assert kept[:width].tolist() == sorted(key.tolist(), reverse=True)[:width]
        assert torch.equal(key[slot[:width]], kept[:width])
