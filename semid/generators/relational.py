"""A generator that reads a history as a set of item vectors, with attention to how they relate; TIGER's decoder writes the codes.

Source: MMGRec, arXiv 2404.16555. Deviations: (1) the decoder is T5's (positions as a bias, pre-norm), each level has its own codes and
head, and there is no end token, as in `EncoderDecoder`; (2) a user without training events is conditioned on as the mean of those
with some.
Axes: B rows, S history positions, N items, U users, D width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from semid.generators.encoder_decoder import EncoderDecoder
from semid.nn.relation import RelationEncoder
from semid.tree import CodeTree
from semid.types import SemanticIds


class Relational(EncoderDecoder):
    """item float32 [N, D], user float32 [U, F]: vectors of a graph encoder, frozen; a stranger gets the mean of `user`. The order of a
    history means nothing, and the user's vector only says how much relations count. is_relational: false = ordinary attention without
    positions."""

    item: Tensor
    user: Tensor

    def __init__(self, ids: SemanticIds, item: Tensor, user: Tensor, *, heads: int = 4, head_width: int = 64, layers: int = 2,
                 feedforward: int = 64, dropout: float = 0.2, is_relational: bool = True):
        width = item.shape[1]
        super().__init__(ids, width=width, heads=heads, head_width=head_width, encoder_layers=0, decoder_layers=layers,
                         feedforward=feedforward, dropout=dropout)
        self.encoder = RelationEncoder(layers, width=width, heads=heads, head_width=head_width, user_width=user.shape[1],
                                       feedforward=feedforward, dropout=dropout, is_relational=is_relational)
        self.register_buffer("item", torch.cat([item, item.new_zeros(1, width)]))  # a last row for padding
        self.register_buffer("user", torch.cat([user, user.mean(0, keepdim=True)]))  # a last row for strangers

    def with_items(self, ids: SemanticIds, tree: CodeTree, content: Tensor) -> Relational:
        """content: float32 [new, D], what the graph encoder says of the new items."""
        grown = cast("Relational", super().with_items(ids, tree, content))
        grown.item = torch.cat([self.item[:-1], content.to(self.item), self.item[-1:]])
        return grown

    def _read(self, item: Tensor, user: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        real = (item >= 0)[:, None, None]  # [B, 1, 1, S]
        known = torch.where(user < len(self.user) - 1, user, -1)
        owner = torch.arange(item.shape[1], device=item.device)
        return self.encoder(self.item[item], self.user[known], real), real, owner
