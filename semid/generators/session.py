"""Session generator: an encoder-decoder that writes several items after a history, each knowing those before it (OneRec).

Source: OneRec, arXiv 2502.18965, sections 3.2 and 3.3: T5-like, a sparse mixture of experts for the decoder's feed-forward networks,
decoder input BOS s11 .. s1L BOS s21 .. s2L. The first item is what `EncoderDecoder` would write; so all that decodes single items works.
Axes: B rows, S history positions, P items of a session, L levels, V codes in the widest level, J written items, R beam rows, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from semid.generators.encoder_decoder import EncoderDecoder, EncoderDecoderState
from semid.nn.moe import MixtureOfExperts
from semid.nn.t5 import DecoderBlock, hide
from semid.types import Batch, SemanticIds


class SessionGenerator(EncoderDecoder):
    """experts: of each decoder layer, `active` a token, hidden width `feedforward` each; 0 = one network for all tokens.

    A separator stands after each item of the history; the rest as for `EncoderDecoder`.
    """

    def __init__(self, ids: SemanticIds, *, width: int = 128, heads: int = 4, head_width: int = 32, encoder_layers: int = 2,
                 decoder_layers: int = 2, feedforward: int = 256, dropout: float = 0.1, experts: int = 24, active: int = 2):
        super().__init__(ids, width=width, heads=heads, head_width=head_width, encoder_layers=encoder_layers,
                         decoder_layers=decoder_layers, feedforward=feedforward, dropout=dropout, separator=True)
        for block in cast("list[DecoderBlock]", self.decoder.blocks if experts else []):
            block.feedforward = MixtureOfExperts(width, feedforward, experts=experts, active=active, dropout=dropout)

    @property
    def mixtures(self) -> list[MixtureOfExperts]:
        """The decoder's mixtures of experts, one a layer; empty where there are none."""
        blocks = cast("list[DecoderBlock]", list(self.decoder.blocks))
        return [block.feedforward for block in blocks if isinstance(block.feedforward, MixtureOfExperts)]

    def session_logits(self, batch: Batch, sessions: Tensor) -> Tensor:
        """Return float32 [B, C, P, L, V], teacher forced over `sessions` int64 [B, C, P] (-1 pads right), C of them a history.

        -inf beyond a level's size. What stands at a pad means nothing. A history is read once for all its sessions.
        """
        rows, count, items = sessions.shape
        tokens = self.vocabulary.tokens(sessions)  # [B, C, P, L]
        inputs = F.pad(tokens, (1, 0), value=self.bos).flatten(2).flatten(0, 1)  # [B C, P (1 + L)]
        memory, visible, _ = self._read(batch.item, batch.user)
        states = self.decoder(self.embedding(inputs), self.decoder.remember(memory), hide(visible))
        hidden = states.unflatten(1, (items, -1))[:, :, :-1]  # after the last code comes a BOS, which is no choice
        return self.vocabulary.scores(hidden.flatten(0, 1), self._heads()).view(rows, count, items, self.vocabulary.levels, -1)

    def step(self, state: EncoderDecoderState, codes: Tensor | None) -> tuple[Tensor, EncoderDecoderState]:
        """As `EncoderDecoder.step`; after `written` items it goes on with the next one."""
        position, _, rows = state.past[0].shape[:3]
        level = position % (self.vocabulary.levels + 1)
        token = torch.full((rows,), self.bos, device=self.codes.device) if codes is None else self.vocabulary.token(codes, level - 1)
        hidden, past = self.decoder.extend(self.embedding(token), state.memory, state.hidden, state.past)
        return self.vocabulary.level_scores(hidden, self._heads(), level), replace(state, past=past)

    def written(self, state: EncoderDecoderState, item: Tensor) -> EncoderDecoderState:
        """Return the state after each row wrote one more item, int64 [R]: its BOS and all its codes."""
        tokens = F.pad(self.vocabulary.tokens(item), (1, 0), value=self.bos)  # [R, 1 + L]
        for token in tokens.unbind(1):
            _, past = self.decoder.extend(self.embedding(token), state.memory, state.hidden, state.past)
            state = replace(state, past=past)
        return state
