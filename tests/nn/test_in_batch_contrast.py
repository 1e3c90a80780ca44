import numpy as np
import pytest
import torch

from semid.nn.losses import in_batch_contrast


def info_nce(anchor: np.ndarray, other: np.ndarray, temperature: float, same: np.ndarray | None = None) -> float:
    """Row by row, as the equation is written."""
    losses = []
    for i in range(len(anchor)):
        logits = [anchor[i] @ other[j] / temperature for j in range(len(other)) if j == i or same is None or not same[i, j]]
        losses.append(np.log(np.exp(logits).sum()) - anchor[i] @ other[i] / temperature)
    return float(np.mean(losses))


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_it_equals_numpy(temperature):
    rng = np.random.default_rng(0)
    anchor, other = rng.normal(size=(2, 9, 5)) * 0.5
    got = in_batch_contrast(torch.tensor(anchor).float(), torch.tensor(other).float(), temperature=temperature)
    assert got.item() == pytest.approx(info_nce(anchor, other, temperature), abs=1e-5)


def test_pairs_that_are_the_same_are_no_negatives():
    rng = np.random.default_rng(0)
    anchor, other = rng.normal(size=(2, 6, 4))
    group = np.array([0, 1, 1, 2, 1, 3])
    same = group[:, None] == group
    got = in_batch_contrast(torch.tensor(anchor), torch.tensor(other), same=torch.tensor(same))
    assert got.item() == pytest.approx(info_nce(anchor, other, 1.0, same), abs=1e-5)


def test_one_row_costs_nothing_and_order_does_not_matter():
    anchor, other = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    assert in_batch_contrast(anchor[:1], other[:1]).item() == 0
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    torch.testing.assert_close(in_batch_contrast(anchor[order], other[order]), in_batch_contrast(anchor, other))
