import numpy as np
import pytest
import torch

from semid.errors import ConfigError
from semid.generators.encoder_decoder import EncoderDecoder
from semid.types import Batch, SemanticIds

SIZES = (5, 6, 3)


def some_ids(items=30, seed=0):
    rng = np.random.default_rng(seed)
    return SemanticIds(np.stack([rng.integers(0, size, items) for size in SIZES], 1).astype(np.int32), SIZES)


def model(**changes):
    torch.manual_seed(0)
    settings = {"width": 16, "heads": 2, "head_width": 8, "encoder_layers": 2, "decoder_layers": 2, "feedforward": 32,
                "dropout": 0.0, **changes}
    return EncoderDecoder(some_ids(), **settings).eval()


def a_batch(histories, targets, *, user=None):
    """Rows with a target after their last item."""
    width = max(map(len, histories))
    item = torch.tensor([h + [-1] * (width - len(h)) for h in histories])
    length = torch.tensor([len(h) for h in histories])
    target = torch.full_like(item, -1)
    target[torch.arange(len(histories)), length - 1] = torch.tensor(targets)
    user = torch.tensor(user if user else [7] * len(histories))
    return Batch(item, torch.zeros_like(item), length, target, user)


VARIANTS = [{}, {"is_tied": True}, {"separator": True, "user_tokens": 4}, {"feedforward_layers": 2}, {"causal": True},
            {"causal": True, "separator": True, "user_tokens": 4}]
BATCH = a_batch([[1, 2, 3], [4], [9, 8, 7, 6, 5]], [10, 11, 12])


@pytest.mark.parametrize("changes", VARIANTS)
def test_several_targets_in_a_row_equal_a_row_each(changes):
    generator = model(**changes)
    item = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1]])
    target = torch.tensor([[2, -1, 4, 20], [6, 21, -1, -1]])
    together = Batch(item, torch.zeros_like(item), torch.tensor([4, 2]), target, torch.tensor([7, 7]))
    apart = a_batch([[1], [1, 2, 3], [1, 2, 3, 4], [5], [5, 6]], [2, 4, 20, 6, 21])
    torch.testing.assert_close(generator.logits(together), generator.logits(apart), rtol=1e-5, atol=1e-5)


def test_a_separator_is_a_learnt_token_behind_each_item():
    plain, parted = model(), model(separator=True)
    assert plain._read(BATCH.item, BATCH.user)[0].shape[1] == 5 * 3
    assert parted._read(BATCH.item, BATCH.user)[0].shape[1] == 5 * (3 + 1)
    parted.logits(BATCH).logsumexp(2).sum().backward()
    assert parted.embedding.weight.grad[parted.bos + 1].abs().sum() > 0


def test_a_second_hidden_layer_of_each_feed_forward_network_is_there():
    size = lambda generator: sum(parameter.numel() for parameter in generator.parameters())
    assert size(model(feedforward_layers=2)) - size(model()) == 4 * 32 * 32  # two blocks of the encoder, two of the decoder


def test_beams_move_with_their_past():
    generator = model()
    _, state = generator.step(generator.start(BATCH), None)
    rows = torch.tensor([0, 0, 1, 1, 2, 2])
    codes = torch.tensor([0, 1, 2, 3, 4, 0])
    one, state = generator.step(state.select(rows), codes)
    swap = torch.tensor([1, 0, 3, 2, 5, 4])
    two, _ = generator.step(state, torch.tensor([1, 2, 3, 4, 5, 0]))
    swapped, _ = generator.step(state.select(swap), torch.tensor([1, 2, 3, 4, 5, 0])[swap])
    torch.testing.assert_close(swapped, two[swap])
    assert not torch.allclose(one[0], one[1])


def test_codes_beyond_a_level_cannot_be_drawn():
    logits = model().logits(BATCH)
    assert logits.shape == (3, 3, 6)
    assert logits.dtype == torch.float32
    for level, size in enumerate(SIZES):
        assert logits[:, level, :size].isfinite().all()
        assert (logits[:, level, size:] == -torch.inf).all()


def test_an_empty_history_has_finite_scores_that_padding_does_not_change():
    generator = model()
    scores = []
    for width in (1, 4):
        item = torch.full((1, width), -1)
        batch = Batch(item, item, torch.tensor([0]), item, torch.tensor([-1]))
        scores.append(generator.step(generator.start(batch), None)[0][:, : SIZES[0]])
    assert scores[0].isfinite().all()
    torch.testing.assert_close(scores[0], scores[1])


def test_users_share_a_token_by_hash_and_strangers_have_none():
    generator = model(user_tokens=4)
    known, same, other, stranger = (generator.logits(a_batch([[1, 2]], [3], user=[u]))[..., :3] for u in (1, 5, 2, -1))
    assert torch.equal(known, same)
    assert not torch.allclose(known, other)
    assert not torch.allclose(known, stranger)


def test_swapped_ids_are_read_at_once_and_need_the_same_levels():
    generator = model()
    before = generator.logits(BATCH)
    generator.set_ids(some_ids(items=50, seed=1))
    assert not torch.allclose(generator.logits(BATCH)[..., :3], before[..., :3])
    with pytest.raises(ConfigError, match="want level sizes"):
        generator.set_ids(SemanticIds(np.zeros((3, 2), np.int32), (5, 6)))


def test_the_paper_s_shape_has_the_parameters_counted_by_hand():
    ids = SemanticIds(np.zeros((1, 4), np.int32), (256,) * 4)
    attention, feedforward, norm, bias = 4 * 128 * 384, 2 * 128 * 1024, 128, 32 * 6
    encoder = 4 * (attention + feedforward + 2 * norm) + bias + norm
    decoder = 4 * (2 * attention + feedforward + 3 * norm) + bias + norm
    count = sum(p.numel() for p in EncoderDecoder(ids, is_tied=True).parameters())
    assert count == encoder + decoder + (4 * 256 + 2) * 128 == 4_590_976


def test_gradients_reach_every_parameter():
    generator = model(user_tokens=2, separator=True)
    generator.logits(BATCH).masked_fill(generator.vocabulary.outside, 0).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())
