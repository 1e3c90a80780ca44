"""The session generator: its first item is the encoder-decoder's, and writing item by item equals reading the session at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semid.generators.encoder_decoder import EncoderDecoder
from semid.generators.session import SessionGenerator
from tests.objectives.generators import one_target_each, path_codes

SESSIONS = torch.tensor([[[3, 9, 12], [60, 1, 2]], [[5, 5, 7], [8, 6, 4]]])  # [B, C, P]


def generator(experts: int = 4) -> SessionGenerator:
    torch.manual_seed(0)
    return SessionGenerator(path_codes(), width=16, heads=2, head_width=8, encoder_layers=1, decoder_layers=2, feedforward=12,
                            experts=experts, active=2).eval()


def test_the_first_item_is_what_the_encoder_decoder_writes():
    ours = generator(experts=0)
    plain = EncoderDecoder(path_codes(), width=16, heads=2, head_width=8, encoder_layers=1, decoder_layers=2, feedforward=12,
                           separator=True)
    plain.load_state_dict(ours.state_dict())
    batch = one_target_each(5)
    target = batch.target.amax(1)
    sessions = torch.stack([target, target.flip(0)], dim=1)[:, None]  # the item after it changes nothing
    torch.testing.assert_close(ours.session_logits(batch, sessions)[:, 0, 0], plain.eval().logits(batch), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.logits(batch), plain.logits(batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("experts", [0, 4])
def test_writing_item_by_item_equals_reading_the_session_at_once(experts):
    model, batch = generator(experts), one_target_each(2)
    with torch.no_grad():
        wanted = model.session_logits(batch, SESSIONS)
        state = model.start(batch).select(torch.tensor([0, 0, 1, 1]))
        for place, item in enumerate(SESSIONS.flatten(0, 1).unbind(1)):
            logits, going = model.step(state, None)
            for level in range(3):
                np.testing.assert_allclose(logits.numpy(), wanted.flatten(0, 1)[:, place, level].numpy(), atol=1e-4)
                if level < 2:
                    logits, going = model.step(going, model.codes[item, level])
            state = model.written(state, item)


def test_each_item_knows_those_before_it_and_none_after():
    model, batch = generator(), one_target_each(2)
    with torch.no_grad():
        base = model.session_logits(batch, SESSIONS)
        changed = SESSIONS.clone()
        changed[..., 1] = 20
        other = model.session_logits(batch, changed)
    torch.testing.assert_close(other[:, :, 0], base[:, :, 0])
    torch.testing.assert_close(other[:, :, 1, 0], base[:, :, 1, 0])
    assert not torch.allclose(other[:, :, 2], base[:, :, 2], atol=1e-3)


def test_sessions_of_a_history_do_not_see_each_other():
    model, batch = generator(), one_target_each(2)
    with torch.no_grad():
        both = model.session_logits(batch, SESSIONS)
        alone = torch.cat([model.session_logits(batch, SESSIONS[:, c : c + 1]) for c in range(2)], dim=1)
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-4)


def test_every_decoder_layer_has_its_mixture():
    assert len(generator().mixtures) == 2
    assert generator(experts=0).mixtures == []
    assert generator().mixtures[0].inner.shape == (4, 12, 16)
