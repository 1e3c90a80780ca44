"""ColaRec's generator: one T5 reads what users and items are made of, ids and words, and writes codes.

Source: Wang et al., arXiv 2403.18480, and its code. Two tasks share all weights: a user, who is the set of his items, is answered by the
codes of an item that he takes next; an item, with one who took it, by its own codes.
Deviations: (1) weights start at random (the paper: t5-small's), and words are those of the catalogue; (2) an item that nobody took has a
stranger for a taker.
Axes: B rows, S history positions, N items, W words of an item, T tokens, L levels, V codes in the widest level, M items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.generators.encoder_decoder import EncoderDecoder
from semid.types import SemanticIds

PAD, OF_USER, OF_ITEM, END, FIRST = range(5)
"""Rows of the input table: padding, the two tasks' prompts, the end, and the first item; words come after the items."""


@dataclass(frozen=True)
class Described:
    """What the encoder says of B users or items. memory float [B, T, D]; visible bool [B, 1, 1, T]; summary float [B, D]: the state at the
    end token, by which users and items are compared."""

    memory: Tensor
    visible: Tensor
    summary: Tensor

    def first(self, rows: int) -> Described:
        return Described(self.memory[:rows], self.visible[:rows], self.summary[:rows])


class ColaRec(EncoderDecoder):
    """T5 over [task] i1 w11 w12 .. i2 w21 .. [end], the latest item first; for an item, its taker before the end.

    words: int64 [N, W] rows of word numbers below `num_words` (-1 pads right). has_ids: items have vectors of their own beside the words.
    max_tokens: of the encoder; what does not fit is left out, the oldest items first. is_bag: an item is one token, the mean of its id's
    and its words' vectors: 20 times fewer tokens, for machines without a GPU (not in the paper).
    """

    words: Tensor

    def __init__(self, ids: SemanticIds, words: Tensor, *, num_words: int, num_users: int, width: int = 512, heads: int = 8,
                 head_width: int = 64, layers: int = 6, feedforward: int = 2048, dropout: float = 0.1, max_tokens: int = 256,
                 has_ids: bool = True, is_bag: bool = False):
        super().__init__(ids, width=width, heads=heads, head_width=head_width, encoder_layers=layers, decoder_layers=layers,
                         feedforward=feedforward, dropout=dropout)
        self.max_tokens, self.has_ids, self.is_bag = max_tokens, has_ids, is_bag
        self.input = nn.Embedding(FIRST + len(ids) + num_words, width, padding_idx=PAD)
        self.user = nn.Embedding(num_users + 1, width)  # a last row for strangers
        for table in (self.input, self.user):
            nn.init.normal_(table.weight)
        with torch.no_grad():
            self.input.weight[PAD] = 0
        self.register_buffer("words", F.pad(words, (0, 0, 0, 1), value=-1))  # a last row for padding

    def read_history(self, item: Tensor) -> Described:
        """Describe users by their items, int64 [B, S] oldest first (-1 pads right)."""
        position = (item >= 0).sum(1, keepdim=True) - 1 - torch.arange(item.shape[1], device=item.device)
        latest_first = item.gather(1, position.clamp_min(0)).masked_fill(position < 0, -1)
        return self._describe(OF_USER, latest_first, None)

    def read_items(self, item: Tensor, taker: Tensor) -> Described:
        """Describe items int64 [M] by their content and one who took them, taker int64 [M] (-1: nobody known)."""
        stranger = len(self.user.weight) - 1
        return self._describe(OF_ITEM, item[:, None], self.user(torch.where((taker < 0) | (taker > stranger), stranger, taker)))

    def write(self, described: Described, item: Tensor) -> Tensor:
        """Return float32 [M, L, V]: the logits of the codes of items int64 [M], teacher forced; -inf beyond a level's size."""
        hidden = self._write(self.vocabulary.tokens(item), described.memory, described.visible)
        return self.vocabulary.scores(hidden, self._heads())

    def _read(self, item: Tensor, user: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        described = self.read_history(item)
        return described.memory, described.visible, torch.arange(described.memory.shape[1], device=item.device)

    def _describe(self, task: int, item: Tensor, taker: Tensor | None) -> Described:
        """item int64 [B, S] (-1 pads right), taker float [B, D] or None."""
        body, count = self._content(item)  # [B, X, D], [B]
        prompt, end = (self.input(torch.full((len(item), 1), token, device=item.device)) for token in (task, END))
        tail = end if taker is None else torch.cat([taker[:, None], end], dim=1)
        last = count + tail.shape[1]  # [B]: where the end token stands
        x = F.pad(torch.cat([prompt, body], dim=1), (0, 0, 0, tail.shape[1]))
        row = torch.arange(len(item), device=item.device)
        place = 1 + count[:, None] + torch.arange(tail.shape[1], device=item.device)
        x = x.index_put((row[:, None], place), tail)
        visible = (torch.arange(x.shape[1], device=item.device) <= last[:, None])[:, None, None]
        memory = self.encoder(x, visible)
        return Described(memory, visible, memory[row, last])

    def _content(self, item: Tensor) -> tuple[Tensor, Tensor]:
        """Return ([B, X, D], int64 [B]): vectors of the items' tokens, and how many of them are real; the real ones come first."""
        word = self.words[item]  # [B, S, W]
        tokens = torch.where(word < 0, PAD, FIRST + len(self.words) - 1 + word)
        if self.has_ids:
            tokens = torch.cat([torch.where(item < 0, PAD, FIRST + item)[..., None], tokens], dim=2)
        if self.is_bag:
            return self.input(tokens).sum(2) / (tokens != PAD).sum(2, keepdim=True).clamp_min(1), (item >= 0).sum(1)
        tokens = tokens.flatten(1)
        real_first = (tokens == PAD).byte().argsort(dim=1, stable=True)
        count = (tokens != PAD).sum(1).clamp_max(self.max_tokens - 3)  # the task, a taker and the end
        return self.input(tokens.gather(1, real_first)[:, : int(count.max())]), count
