"""What every generator that writes codes level by level promises. A new one adds a line to `GENERATORS`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from semid.data.batch import history_batch
from semid.decoding.beam import beam_search
from semid.generators.causal import Causal
from semid.generators.colarec import ColaRec
from semid.generators.discrec import DiscRec
from semid.generators.encoder_decoder import EncoderDecoder
from semid.generators.relational import Relational
from semid.objectives.next_codes import NextCodes
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds

ITEMS, SIZES = 30, (5, 3, 2)
IDS = SemanticIds(np.stack(np.unravel_index(np.arange(ITEMS), SIZES), axis=1).astype(np.int32), SIZES)
T5 = {"width": 16, "heads": 2, "head_width": 8, "feedforward": 32}
ENCODER_DECODER = {**T5, "encoder_layers": 2, "decoder_layers": 2}
WORDS = torch.arange(ITEMS * 4).view(ITEMS, 4) % 23 - 1

GENERATORS: dict[str, Callable[[], torch.nn.Module]] = {
    "encoder_decoder": lambda: EncoderDecoder(IDS, **ENCODER_DECODER),
    "encoder_decoder tied": lambda: EncoderDecoder(IDS, **ENCODER_DECODER, is_tied=True),
    "encoder_decoder separator, users": lambda: EncoderDecoder(IDS, **ENCODER_DECODER, separator=True, user_tokens=4),
    "encoder_decoder two hidden layers": lambda: EncoderDecoder(IDS, **ENCODER_DECODER, feedforward_layers=2),
    "encoder_decoder causal": lambda: EncoderDecoder(IDS, **ENCODER_DECODER, causal=True),
    "encoder_decoder causal, separator, users": lambda: EncoderDecoder(IDS, **ENCODER_DECODER, causal=True, separator=True, user_tokens=4),
    "causal": lambda: Causal(IDS, width=16, layers=2, heads=2, feedforward=24),
    "causal tied": lambda: Causal(IDS, width=16, layers=2, heads=2, feedforward=24, is_tied=True),
    "relational": lambda: Relational(IDS, torch.randn(ITEMS, 16), torch.randn(4, 8), heads=2, head_width=8, feedforward=16),
    "relational without relations": lambda: Relational(IDS, torch.randn(ITEMS, 16), torch.randn(4, 8), heads=2, head_width=8,
                                                       feedforward=16, is_relational=False),
    "colarec": lambda: ColaRec(IDS, WORDS, num_words=22, num_users=4, layers=2, **T5),
    "colarec cut": lambda: ColaRec(IDS, WORDS, num_words=22, num_users=4, layers=2, max_tokens=12, **T5),
    "colarec bag": lambda: ColaRec(IDS, WORDS, num_words=22, num_users=4, layers=2, is_bag=True, **T5),
    "colarec ids alone": lambda: ColaRec(IDS, WORDS[:, :0], num_words=0, num_users=4, layers=2, **T5),
    "discrec": lambda: DiscRec(IDS, layers=2, **T5),
    "discrec causal": lambda: DiscRec(IDS, layers=2, causal=True, **T5),
    "discrec without positions": lambda: DiscRec(IDS, layers=2, has_positions=False, **T5),
    "discrec without local attention": lambda: DiscRec(IDS, layers=2, has_local_attention=False, **T5),
    "discrec without a gate": lambda: DiscRec(IDS, layers=2, has_gate=False, **T5),
}


@pytest.fixture(params=GENERATORS)
def generator(request):
    torch.manual_seed(0)
    return GENERATORS[request.param]().eval()


def a_batch(histories: list[list[int]], targets: list[int], users: list[int], *, pad: int = 0) -> Batch:
    """Rows with a target after their last item; `pad` more columns than needed."""
    batch = history_batch([np.array(h) for h in histories], users=np.array(users), max_history=10)
    longer = lambda tensor, fill: torch.nn.functional.pad(tensor, (0, pad), value=fill)
    batch = Batch(longer(batch.item, -1), longer(batch.time, 0), batch.length, longer(batch.target, -1), batch.user)
    batch.target[torch.arange(len(targets)), batch.length - 1] = torch.tensor(targets)
    return batch


HISTORIES, TARGETS, USERS = [[1, 2, 3], [4], [9, 8, 7, 6, 5]], [10, 11, 12], [0, 3, -1]
BATCH = a_batch(HISTORIES, TARGETS, USERS)


def test_steps_equal_teacher_forced_logits(generator):
    expected = generator.logits(BATCH)
    state, codes = generator.start(BATCH), None
    for level in range(3):
        logits, state = generator.step(state, codes)
        torch.testing.assert_close(logits, expected[:, level], rtol=1e-5, atol=1e-5)
        codes = generator.codes[TARGETS, level]


def test_padding_and_company_change_nothing(generator):
    padded, alone = a_batch(HISTORIES, TARGETS, USERS, pad=3), a_batch([[4]], [11], [3])
    torch.testing.assert_close(generator.logits(padded), generator.logits(BATCH), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(generator.logits(alone)[0], generator.logits(BATCH)[1], rtol=1e-5, atol=1e-5)


def test_the_history_and_the_codes_before_are_read(generator):
    """Another item, or another code, moves what comes after it; nothing moves what comes before."""
    other = a_batch([[1, 2, 20], [4], [9, 8, 7, 6, 5]], [10, 11 + 6, 12], USERS)
    before, after = generator.logits(BATCH), generator.logits(other)
    assert not torch.allclose(before[0, 0], after[0, 0], atol=1e-4)
    torch.testing.assert_close(before[1, 0], after[1, 0])
    assert not torch.allclose(before[1, 1, :3], after[1, 1, :3], atol=1e-4)


def test_an_empty_history_has_an_answer(generator):
    beams = beam_search(generator, history_batch([np.array([], np.int64)], max_history=10), CodeTree.build(IDS), beams=5)
    assert (beams.item >= 0).all()


def test_the_loss_reaches_what_reads_and_what_writes(generator):
    generator.train()
    NextCodes()(generator, BATCH).total.backward()
    for part in (generator.embedding, *([] if isinstance(generator, Causal) else [generator.encoder, generator.decoder])):
        assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in part.parameters())
