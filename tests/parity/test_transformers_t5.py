"""Our T5 against transformers' with the same weights: values, gradients, and the code table in between."""

import numpy as np
import pytest
import torch

from semid.generators.encoder_decoder import EncoderDecoder
from semid.types import Batch, SemanticIds

transformers = pytest.importorskip("transformers")

SIZES, ITEMS, WIDTH, HEADS, HEAD_WIDTH, HIDDEN = (7, 7, 7), 40, 24, 3, 10, 36


def pair(*, is_tied: bool):
    """(ours, theirs, `matched` parameters as a list) with equal random weights."""
    rng = np.random.default_rng(0)
    ids = SemanticIds(rng.integers(0, 7, (ITEMS, 3)).astype(np.int32), SIZES)
    torch.manual_seed(0)
    ours = EncoderDecoder(ids, width=WIDTH, heads=HEADS, head_width=HEAD_WIDTH, encoder_layers=3, decoder_layers=2,
                          feedforward=HIDDEN, dropout=0.0, is_tied=is_tied)
    tokens = ours.embedding.num_embeddings
    config = transformers.T5Config(vocab_size=tokens, d_model=WIDTH, d_kv=HEAD_WIDTH, num_heads=HEADS, d_ff=HIDDEN,
                                   num_layers=3, num_decoder_layers=2, dropout_rate=0.0, tie_word_embeddings=is_tied,
                                   feed_forward_proj="relu", pad_token_id=21, decoder_start_token_id=22, eos_token_id=21)
    theirs = transformers.T5ForConditionalGeneration(config)
    if not is_tied:  # transformers 5 shares the head's tensor even then, and only drops the scaling
        theirs.lm_head.weight = torch.nn.Parameter(torch.randn(tokens, WIDTH))
    matches = list(matched(ours, theirs))
    with torch.no_grad():
        for copy, parameters in matches:
            parameters[0].copy_(copy(*parameters[1:]))
    return ours, theirs, matches


def matched(ours, theirs):
    """Yield (function of their parameters that gives ours, [our parameter, their parameters...])."""
    same, stacked = lambda w: w, lambda *w: torch.cat(w)
    yield same, [ours.embedding.weight, theirs.shared.weight]
    if ours.head is not None:
        yield lambda w: w[:21].view(3, 7, -1), [ours.head, theirs.lm_head.weight]
    for our_stack, their_stack in ((ours.encoder, theirs.encoder), (ours.decoder, theirs.decoder)):
        yield same, [our_stack.bias.table.weight, their_stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight]
        yield same, [our_stack.norm.weight, their_stack.final_layer_norm.weight]
        for block, their_block in zip(our_stack.blocks, their_stack.block):
            parts = [(block.norm, block.attention, their_block.layer[0].layer_norm, their_block.layer[0].SelfAttention)]
            if our_stack is ours.decoder:
                their_cross = their_block.layer[1]
                parts.append((block.cross_norm, block.cross, their_cross.layer_norm, their_cross.EncDecAttention))
            for norm, attention, their_norm, their_attention in parts:
                yield same, [norm.weight, their_norm.weight]
                yield same, [attention.query.weight, their_attention.q.weight]
                yield stacked, [attention.key_value.weight, their_attention.k.weight, their_attention.v.weight]
                yield same, [attention.out.weight, their_attention.o.weight]
            feed = their_block.layer[-1]
            yield same, [block.feed_norm.weight, feed.layer_norm.weight]
            yield same, [block.feedforward.layers[0].weight, feed.DenseReluDense.wi.weight]
            yield same, [block.feedforward.layers[1].weight, feed.DenseReluDense.wo.weight]


@pytest.mark.parametrize("is_tied", [False, True])
def test_values_and_gradients_equal_transformers_t5(is_tied):
    ours, theirs, matches = pair(is_tied=is_tied)
    generator = torch.Generator().manual_seed(1)
    length = torch.tensor([1, 25, 60, 4, 33])  # up to 180 tokens: beyond the last bucket's distance of 128
    item = torch.randint(ITEMS, (5, 60), generator=generator).masked_fill(torch.arange(60) >= length[:, None], -1)
    target = torch.full_like(item, -1)
    goal = torch.randint(ITEMS, (5,), generator=generator)
    target[torch.arange(5), length - 1] = goal
    batch = Batch(item, torch.zeros_like(item), length, target, torch.zeros(5, dtype=torch.int64))

    offsets = torch.tensor([0, 7, 14])
    tokens = torch.where(item[..., None] < 0, 21, ours.codes[item] + offsets).flatten(1)
    labels = ours.codes[goal] + offsets
    wide = theirs(input_ids=tokens, attention_mask=(tokens != 21).long(),
                  decoder_input_ids=torch.cat([torch.full((5, 1), 22), labels[:, :-1]], 1)).logits
    expected = torch.stack([wide[:, level, 7 * level : 7 * level + 7] for level in range(3)], dim=1)
    got = ours.logits(batch)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)

    weight = torch.randn(got.shape, generator=generator)
    (got * weight).sum().backward()
    (expected * weight).sum().backward()
    for copy, (parameter, *originals) in matches:
        gradients = [w.grad for w in originals]
        torch.testing.assert_close(parameter.grad, copy(*gradients), rtol=1e-4, atol=1e-5 * gradients[0].abs().max().item())


def test_beams_of_one_user_equal_transformers_on_copied_users():
    """Memory kept once per user, beams as queries: the same logits as copying the history to every beam."""
    ours, theirs, _ = pair(is_tied=True)
    item = torch.tensor([[3, 9, 11], [5, 7, -1]])
    batch = Batch(item, torch.zeros_like(item), torch.tensor([3, 2]), torch.full_like(item, -1),
                  torch.zeros(2, dtype=torch.int64))
    with torch.no_grad():
        _, state = ours.step(ours.start(batch), None)
        first = torch.tensor([0, 4, 6, 2, 2, 5])
        logits, state = ours.step(state.select(torch.tensor([0, 0, 0, 1, 1, 1])), first)
        second = torch.tensor([1, 1, 0, 3, 6, 2])
        order = torch.tensor([2, 0, 1, 4, 3, 3])
        logits, _ = ours.step(state.select(order), second)
        tokens = torch.where(item[..., None] < 0, 21, ours.codes[item] + torch.tensor([0, 7, 14])).flatten(1)
        tokens = tokens.repeat_interleave(3, dim=0)
        decoder = torch.stack([torch.full((6,), 22), first[order], second + 7], dim=1)
        wide = theirs(input_ids=tokens, attention_mask=(tokens != 21).long(), decoder_input_ids=decoder).logits
    torch.testing.assert_close(logits, wide[:, 2, 14:21], rtol=1e-5, atol=1e-5)
