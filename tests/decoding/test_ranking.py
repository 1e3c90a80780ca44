"""Lists of all items' scores against a stable sort."""

from __future__ import annotations

import pytest
import torch

from semid.decoding.ranking import top_items


@pytest.mark.parametrize("k", [1, 7, 40, 50])
def test_the_best_come_first_and_equal_ones_by_row(k: int):
    """Few values, so that ties lie at the cut; also rows of one value, and rows in which fewer than k may be shown."""
    torch.manual_seed(0)
    scores = torch.randint(0, 4, (300, 40)).float()
    scores[:5], scores[5:9, 3:], scores[9] = 2.0, -torch.inf, -torch.inf
    value, item = top_items(scores, k)
    want, place = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(value, want[:, :k])
    assert torch.equal(item, place[:, :k].masked_fill(want[:, :k] == -torch.inf, -1))


@pytest.mark.parametrize("scores", [[torch.nan, 2, 1, 1], [torch.nan, torch.nan, 1, 1, 1]])
def test_what_is_no_number_stays_in_sight(scores: list[float]):
    value, item = top_items(torch.tensor([scores]), 3)
    assert torch.isnan(value).sum() == torch.isnan(torch.tensor(scores)).sum()
    assert len(set(item[0].tolist())) == 3
