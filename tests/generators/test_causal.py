import numpy as np
import torch

from semid.generators.causal import Causal
from semid.types import Batch, SemanticIds

SIZES = (5, 6, 3)


def model(*, codes=None):
    rng = np.random.default_rng(0)
    if codes is None:
        codes = np.stack([rng.integers(0, size, 30) for size in SIZES], 1).astype(np.int32)
    torch.manual_seed(0)
    return Causal(SemanticIds(codes, SIZES), width=16, layers=2, heads=2, feedforward=24, dropout=0.0).eval()


def histories(rows, after, *, pad=0):
    """Each row's items, supervised everywhere; `after[b]` follows the last. `pad` more columns than needed."""
    width = max(map(len, rows)) + pad
    fill = lambda row: row + [-1] * (width - len(row))
    item = torch.tensor([fill(r) for r in rows])
    target = torch.tensor([fill((r + [a])[1:]) for r, a in zip(rows, after)])
    return Batch(item, torch.zeros_like(item), torch.tensor([len(r) for r in rows]), target,
                 torch.zeros(len(rows), dtype=torch.int64))


ROWS, AFTER = [[1, 2, 3], [4], [9, 8, 7, 6, 5]], [10, 11, 12]


def test_one_pass_equals_a_pass_for_each_target():
    generator = model()
    together = generator.logits(histories(ROWS, AFTER))
    apart = []
    for row, after in zip(ROWS, AFTER):
        for end, target in enumerate((row + [after])[1:], start=1):
            apart.append(generator.logits(histories([row[:end]], [target]))[-1])
    torch.testing.assert_close(together, torch.stack(apart), rtol=1e-5, atol=1e-5)


def test_later_items_change_nothing_before_them():
    generator = model()
    one = generator.logits(histories([[1, 2, 3, 4]], [5]))
    other = generator.logits(histories([[1, 2, 3, 9]], [6]))
    torch.testing.assert_close(one[:1], other[:1])
    torch.testing.assert_close(one[2, 0], other[2, 0])  # its first level has read items 1 2 3 alone
    assert not torch.allclose(one[3, 0, :5], other[3, 0, :5])


def test_padding_changes_nothing():
    generator = model()
    batch, padded = histories(ROWS, AFTER), histories(ROWS, AFTER, pad=3)
    torch.testing.assert_close(generator.logits(padded), generator.logits(batch), rtol=1e-5, atol=1e-5)
    codes = torch.tensor([1, 2, 3])
    scores = [generator.step(generator.start(b), codes)[0] for b in (batch, padded)]
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)


def test_only_supervised_positions_are_returned_in_row_order():
    generator, batch = model(), histories(ROWS, AFTER)
    everything = generator.logits(batch)
    batch.target[0, 1] = batch.target[2, 3] = -1
    torch.testing.assert_close(generator.logits(batch), everything[[0, 2, 3, 4, 5, 6, 8]])


def test_beams_share_their_user_s_history():
    generator, batch = model(), histories(ROWS, AFTER)
    rows = torch.tensor([0, 0, 1, 1, 2, 2])
    _, state = generator.step(generator.start(batch), None)
    _, state = generator.step(state.select(rows), torch.tensor([0, 1, 2, 3, 4, 0]))
    order = torch.tensor([1, 1, 2, 3, 5, 4])
    two, state = generator.step(state.select(order), torch.tensor([5, 4, 3, 2, 1, 0]))
    assert state.history[0].shape[0] == 3
    for beam, first, second in zip(range(6), [1, 1, 2, 3, 0, 4], [5, 4, 3, 2, 1, 0]):
        user = int(rows[beam])
        alone = generator.start(histories([ROWS[user]], [0]))
        for codes in (first, second):
            logits, alone = generator.step(alone, torch.tensor([codes]))
        torch.testing.assert_close(two[beam], logits[0], rtol=1e-5, atol=1e-5)


def test_codes_beyond_a_level_cannot_be_drawn():
    logits = model().logits(histories(ROWS, AFTER))
    for level, size in enumerate(SIZES):
        assert logits[:, level, :size].isfinite().all()
        assert (logits[:, level, size:] == -torch.inf).all()


def test_an_empty_history_is_answered():
    item = torch.full((1, 2), -1)
    batch = Batch(item, item, torch.tensor([0]), item, torch.tensor([-1]))
    generator = model()
    state = generator.start(batch)
    for level, codes in enumerate((None, torch.tensor([1]), torch.tensor([2]))):
        logits, state = generator.step(state, codes)
        assert logits[0, : SIZES[level]].isfinite().all()


def test_ids_of_different_depth_are_read():
    codes = np.array([[0, -1, -1], [1, 2, -1], [1, 2, 2]], np.int32)
    generator = model(codes=codes)
    logits = generator.logits(histories([[0, 1, 2]], [1]))
    assert logits.shape == (3, 3, 6)
    assert not logits.isnan().any()


def test_gradients_reach_every_parameter():
    generator = model()
    logits = generator.logits(histories([*ROWS, list(range(30))], [*AFTER, 0]))
    logits.masked_fill(generator.vocabulary.outside, 0).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())
