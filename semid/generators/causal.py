"""Causal generator: a decoder-only transformer over flattened codes, the whole history supervised in one pass.

Sequence: BOS c11 .. c1L c21 .. c2L ..; the state after a token predicts the next code. Where TIGER's encoder-decoder
spends a pass on each target, every position here is one. Codes that are padding (-1) are read as a `pad` token.
Axes: B rows, S history positions, L levels, V codes in the widest level, M supervised positions, R beam rows, D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generators.vocabulary import Vocabulary
from semid.nn.rotary import RotaryTransformer
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds


@dataclass(frozen=True)
class CausalState:
    """ready: float [R, D], the state after each beam's last token, or after the history; history: keys and values of the
    history, once per user, a tensor [B, 2, H, T, W] a layer; hidden: float [B, 1, 1, T], what to add to their scores;
    past: those of the beams' own tokens, [R, 2, H, t, W] a layer; position: int64 [R], where a beam's next token stands."""

    ready: Tensor
    history: tuple[Tensor, ...]
    hidden: Tensor
    past: tuple[Tensor, ...]
    position: Tensor

    def select(self, rows: Tensor) -> CausalState:
        return replace(self, ready=self.ready[rows], past=tuple(kept[rows] for kept in self.past), position=self.position[rows])


class Causal(nn.Module):
    """Rotary pre-norm transformer (RMS norm, SwiGLU) over code tokens.

    feedforward: hidden width of SwiGLU, which has three matrices. is_tied: scores are products with the token embeddings,
    scaled by D**-.5; otherwise each level has its own head.
    """

    def __init__(self, ids: SemanticIds, *, width: int = 256, layers: int = 6, heads: int = 4, feedforward: int = 512,
                 dropout: float = 0.1, is_tied: bool = False):
        super().__init__()
        self.vocabulary = Vocabulary(ids)
        self.bos = self.vocabulary.pad + 1
        self.embedding = nn.Embedding(self.bos + 1, width)
        self.transformer = RotaryTransformer(width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout)
        self.head = None
        if not is_tied:
            self.head = nn.Parameter(torch.randn(ids.levels, self.vocabulary.width, width) * width**-0.5)  # [L, V, D]

    @property
    def codes(self) -> Tensor:
        """int64 [N + 1, L], -1 pads; the last row is all padding."""
        return self.vocabulary.codes

    def set_ids(self, ids: SemanticIds) -> None:
        """Use other codes, or those of more items, with the same weights."""
        self.vocabulary.set_ids(ids)

    def with_items(self, ids: SemanticIds, tree: CodeTree, content: Tensor) -> Causal:
        """Return a copy of this generator for this one's items and more; it reads codes alone, neither tree nor content."""
        grown = copy.deepcopy(self)
        grown.set_ids(ids)
        return grown

    def logits(self, batch: Batch) -> Tensor:
        """Return float32 [M, L, V], teacher forced; -inf beyond a level's size.

        A target inside the history must be the item that follows (`target[:, s] == item[:, s + 1]`); the newest one may
        lie beyond it.
        """
        row, position = torch.nonzero(batch.target >= 0, as_tuple=True)  # [M]
        item = F.pad(batch.item, (0, 1), value=-1)
        item[row, position + 1] = batch.target[row, position]
        tokens = F.pad(self.vocabulary.tokens(item).flatten(1), (1, -1), value=self.bos)  # [B, (S + 1) L], without the last
        states, _ = self.transformer(self.embedding(tokens))
        # Counting from BOS, the L states from s L on predict the codes of item s.
        hidden = states.unflatten(1, (-1, self.vocabulary.levels))[row, position + 1]  # [M, L, D]
        return self.vocabulary.scores(hidden, self._heads())

    def start(self, batch: Batch) -> CausalState:
        tokens = F.pad(self.vocabulary.tokens(batch.item).flatten(1), (1, 0), value=self.bos)  # [B, 1 + S L]
        states, history = self.transformer(self.embedding(tokens))
        end = batch.length * self.vocabulary.levels  # the token that closes the history
        ready = states[torch.arange(len(batch), device=end.device), end]
        beyond = torch.arange(tokens.shape[1], device=end.device) > end[:, None]  # [B, T]
        hidden = torch.zeros(beyond.shape, device=end.device).masked_fill_(beyond, -torch.inf)[:, None, None]
        return CausalState(ready, history, hidden, tuple(kept[:, :, :, :0] for kept in history), end + 1)

    def step(self, state: CausalState, codes: Tensor | None) -> tuple[Tensor, CausalState]:
        level = state.past[0].shape[3]
        if codes is not None:
            x = self.embedding(self.vocabulary.token(codes, level))[:, None]
            states, past = self.transformer.extend(x, state.position, state.history, state.hidden, state.past)
            state = replace(state, ready=states[:, 0], past=past, position=state.position + 1)
            level += 1
        return self.vocabulary.level_scores(state.ready, self._heads(), level), state

    def _heads(self) -> Tensor:
        """Output vectors [L, V, D] of all codes."""
        return self.vocabulary.tied_heads(self.embedding) if self.head is None else self.head
