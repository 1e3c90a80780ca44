"""Encoder-decoder generator: T5 reads the history's codes and writes the next item's (TIGER, arXiv 2305.05065).

Deviations: (1) a level's softmax covers that level's codes alone, also with a tied head, so there is no illegal token and
no end token: all ids have L codes; (2) `causal` is not in the paper, see `EncoderDecoder`.
Axes: B rows, S history positions, L levels, V codes in the widest level, T encoder tokens, M supervised positions,
R beam rows, D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.generators.vocabulary import CodeWriter, Vocabulary
from semid.nn.t5 import Decoder, Encoder, hide
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds


@dataclass(frozen=True)
class EncoderDecoderState:
    """memory: keys and values of the history, once per user, a tensor [2, B, H, T, W] a layer; hidden: float [B, 1, 1, T],
    what to add to their scores; past: those of the beams' own t tokens, [t, 2, R, H, W] a layer; inputs: those of a layer before
    the decoder, where there is one (`generators.discrec`)."""

    memory: tuple[Tensor, ...]
    hidden: Tensor
    past: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...] = ()

    def select(self, rows: Tensor) -> EncoderDecoderState:
        of_rows = lambda tensors: tuple(kept.index_select(2, rows) for kept in tensors)
        return replace(self, past=of_rows(self.past), inputs=of_rows(self.inputs))


class EncoderDecoder(CodeWriter):
    """T5 over flattened codes: [user] c11 .. c1L [sep] c21 .. -> BOS c1 .. cL.

    feedforward, feedforward_layers: width and number of the hidden layers of each feed-forward network (GRID: 2).
    user_tokens: how many tokens users are hashed into (row modulo this), 0 = none; a user of row -1 has none.
    separator: a learned token after each item (GRID).
    is_tied: scores are products with the token embeddings, scaled by D**-.5, as in T5; otherwise each level has
    its own head (GRID).
    causal: an encoder token sees its own item and the items before, so that one pass over a history serves a target at
    every position; the paper's encoder sees everything, and each supervised position costs an encoder pass of its own.
    """

    def __init__(self, ids: SemanticIds, *, width: int = 128, heads: int = 6, head_width: int = 64, encoder_layers: int = 4,
                 decoder_layers: int = 4, feedforward: int = 1024, feedforward_layers: int = 1, dropout: float = 0.1,
                 user_tokens: int = 0, separator: bool = False, is_tied: bool = False, causal: bool = False):
        super().__init__()
        if decoder_layers < 1:
            raise ConfigError(f"setting layers: want at least 1 in the decoder, got {decoder_layers}")
        self.vocabulary = Vocabulary(ids)
        self.user_tokens, self.separator, self.causal = user_tokens, separator, causal
        self.bos = self.vocabulary.pad + 1
        self.first_user = self.bos + 1 + separator
        self.embedding = nn.Embedding(self.first_user + user_tokens, width)
        nn.init.normal_(self.embedding.weight)
        shape = {"width": width, "heads": heads, "head_width": head_width, "dropout": dropout,
                 "hidden": (feedforward,) * feedforward_layers}
        self.encoder: nn.Module = Encoder(encoder_layers, **shape)
        self.decoder = Decoder(decoder_layers, **shape)
        self.head = None if is_tied else self.vocabulary.new_heads(width)

    def with_items(self, ids: SemanticIds, tree: CodeTree, content: Tensor) -> EncoderDecoder:
        """Return a copy of this generator for this one's items and more; it reads codes alone, neither tree nor content."""
        grown = copy.deepcopy(self)
        grown.set_ids(ids)
        return grown

    def logits(self, batch: Batch) -> Tensor:
        """Return float32 [M, L, V], teacher forced; -inf beyond a level's size.

        Rows with several supervised positions cost an encoder row each, unless `causal`.
        """
        row, position = torch.nonzero(batch.target >= 0, as_tuple=True)  # [M]
        tokens = self.vocabulary.tokens(batch.target[row, position])  # [M, L]
        if self.causal:
            hidden = self._states_of_one_pass(batch, row, position, tokens)
        else:
            step = torch.arange(batch.item.shape[1], device=row.device)
            item = torch.where(step <= position[:, None], batch.item[row], -1)  # [M, S]
            memory, visible, _ = self._read(item, batch.user[row])
            hidden = self._write(tokens, memory, visible)
        return self.vocabulary.scores(hidden, self._heads())

    def start(self, batch: Batch) -> EncoderDecoderState:
        memory, visible, _ = self._read(batch.item, batch.user)
        memory = self.decoder.remember(memory)
        empty = memory[0].new_empty(0, 2, len(batch), *memory[0].shape[2::2])
        return EncoderDecoderState(memory, hide(visible), (empty,) * len(memory))

    def step(self, state: EncoderDecoderState, codes: Tensor | None) -> tuple[Tensor, EncoderDecoderState]:
        level, _, rows = state.past[0].shape[:3]
        if codes is None:
            token = torch.full((rows,), self.bos, device=self.codes.device)
        else:
            token = self.vocabulary.token(codes, level - 1)
        x, inputs = self._next_input(token, state.inputs)
        hidden, past = self.decoder.extend(x, state.memory, state.hidden, state.past)
        return self.vocabulary.level_scores(hidden, self._heads(), level), replace(state, past=past, inputs=inputs)

    def _read(self, item: Tensor, user: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """item [B, S], user [B] -> (memory [B, T, D], bool [B, 1, 1, T] of tokens that are no padding, owner [T]: the
        position whose item a token belongs to, -1 for the user)."""
        tokens = self.vocabulary.tokens(item)  # [B, S, L]
        if self.separator:
            after = torch.where(item[..., None] < 0, self.vocabulary.pad, self.bos + 1)
            tokens = torch.cat([tokens, after], dim=2)
        owner = torch.arange(item.shape[1], device=item.device).repeat_interleave(tokens.shape[2])
        tokens = tokens.flatten(1)
        if self.user_tokens:
            token = torch.where(user < 0, self.vocabulary.pad, self.first_user + user % self.user_tokens)
            tokens, owner = torch.cat([token[:, None], tokens], dim=1), F.pad(owner, (1, 0), value=-1)
        real = (tokens != self.vocabulary.pad)[:, None, None]  # [B, 1, 1, T]
        seen = real & (owner <= owner[:, None]) if self.causal else real
        return self.encoder(self._history_inputs(tokens), seen), real, owner

    def _states_of_one_pass(self, batch: Batch, row: Tensor, position: Tensor, tokens: Tensor) -> Tensor:
        """row, position [M], target tokens [M, L] -> states [M, L, D]; the M decoder rows of a user share one memory."""
        memory, visible, owner = self._read(batch.item, batch.user)
        supervised = batch.target >= 0
        num_slots, levels = int(supervised.sum(1).max()), tokens.shape[1]
        slot = supervised.cumsum(1)[row, position] - 1  # [M]: rows with fewer targets are padded to `num_slots` decoder rows
        inputs = tokens.new_full((len(batch), num_slots, levels), self.vocabulary.pad)
        inputs[row, slot] = tokens
        reach = torch.zeros_like(inputs[..., 0])
        reach[row, slot] = position
        visible = visible & (owner <= reach.repeat_interleave(levels, dim=1)[:, None, :, None])  # [B, 1, num_slots L, T]
        return self._write(inputs.flatten(0, 1), memory, visible).unflatten(0, inputs.shape[:2])[row, slot]

    def _write(self, tokens: Tensor, memory: Tensor, visible: Tensor) -> Tensor:
        """Target tokens [R, L], memory [B, T, D], visible [B, 1, ..., T] -> states [R, L, D]; state l has read codes 0..l-1."""
        inputs = F.pad(tokens[:, :-1], (1, 0), value=self.bos)
        return self.decoder(self._target_inputs(inputs), self.decoder.remember(memory), hide(visible))

    def _history_inputs(self, tokens: Tensor) -> Tensor:
        """History tokens [B, T] -> what the encoder reads, [B, T, D]."""
        return self.embedding(tokens)

    def _target_inputs(self, tokens: Tensor) -> Tensor:
        """BOS and target tokens [R, L] -> what the decoder reads, [R, L, D]."""
        return self.embedding(tokens)

    def _next_input(self, token: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`_target_inputs` one token a beam: token [R], past = the state's `inputs` -> ([R, D], `inputs` with it)."""
        return self.embedding(token), past
