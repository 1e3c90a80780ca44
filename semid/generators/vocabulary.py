"""Items to tokens: the code table of a generator that reads flattened codes.

Token of code c at level l is l * V + c with V the widest level, then `pad`, then whatever specials a generator adds.
Axes: N items, L levels, V codes in the widest level, M supervised positions, R beam rows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.types import SemanticIds


class Vocabulary(nn.Module):
    """Holds the codes of all items on the model's device; weights depend on the level sizes only, so codes can be swapped."""

    codes: Tensor
    outside: Tensor

    def __init__(self, ids: SemanticIds):
        super().__init__()
        self.sizes, self.levels, self.width = ids.sizes, ids.levels, max(ids.sizes)
        self.pad = self.levels * self.width
        self.is_ragged = min(ids.sizes) < self.width
        # Rebuilt from codes.parquet, not from the weights: their number changes with the catalogue.
        self.register_buffer("codes", torch.empty(0), persistent=False)
        level_sizes = torch.tensor(ids.sizes)[:, None]
        self.register_buffer("outside", torch.arange(self.width) >= level_sizes, persistent=False)  # [L, V]
        self.set_ids(ids)

    def set_ids(self, ids: SemanticIds) -> None:
        """Use other codes, or those of more items. Raises `ConfigError` if the levels differ from those built for."""
        if ids.sizes != self.sizes:
            raise ConfigError(f"ids: want level sizes {self.sizes} as the generator was built for, got {ids.sizes}; "
                              "build the generator with these ids")
        codes = torch.full((len(ids) + 1, self.levels), -1)  # a last row of -1, so that item -1 has only padding
        codes[:-1] = torch.from_numpy(ids.codes)
        self.codes = codes.to(self.outside.device)

    def tokens(self, item: Tensor) -> Tensor:
        """item int64 [...] (-1 pads) -> token int64 [..., L]; `pad` where an item has no code."""
        codes = self.codes[item]
        first = torch.arange(0, self.pad, self.width, device=item.device)
        return torch.where(codes < 0, self.pad, codes + first)

    def token(self, codes: Tensor, level: int) -> Tensor:
        """Codes of one level, int64 [R] (-1 = none) -> token int64 [R]."""
        return torch.where(codes < 0, self.pad, codes + level * self.width)

    def scores(self, hidden: Tensor, heads: Tensor) -> Tensor:
        """States hidden [M, L, D] times output vectors heads [L, V, D] -> float32 [M, L, V], -inf beyond a level's size."""
        logits = torch.einsum("mld,lvd->mlv", hidden, heads.to(hidden.dtype)).float()
        return logits.masked_fill(self.outside, -torch.inf) if self.is_ragged else logits

    def level_scores(self, hidden: Tensor, heads: Tensor, level: int) -> Tensor:
        """`scores` of one level: hidden [R, D] -> float32 [R, V]."""
        logits = F.linear(hidden, heads[level].to(hidden.dtype)).float()
        return logits.masked_fill(self.outside[level], -torch.inf) if self.is_ragged else logits

    def tied_heads(self, embedding: nn.Embedding) -> Tensor:
        """Output vectors [L, V, D] that are the token embeddings times D**-.5, T5's scaling."""
        table = embedding.weight[: self.pad] * embedding.embedding_dim**-0.5
        return table.view(self.levels, self.width, -1)

    def new_heads(self, width: int) -> nn.Parameter:
        """Return output vectors [L, V, width] of their own, random, for states of unit elements to score in unit variance."""
        return nn.Parameter(torch.randn(self.levels, self.width, width) * width**-0.5)


class CodeWriter(nn.Module):
    """What generators over token embeddings share: their code table, and scores by heads of their own or by the embeddings.

    A subclass sets the three when it is built; head: float [L, V, D], None = tied to the embeddings.
    """

    vocabulary: Vocabulary
    embedding: nn.Embedding
    head: nn.Parameter | None

    @property
    def codes(self) -> Tensor:
        """int64 [N + 1, L], -1 pads; the last row is all padding."""
        return self.vocabulary.codes

    def set_ids(self, ids: SemanticIds) -> None:
        """Use other codes, or those of more items, with the same weights."""
        self.vocabulary.set_ids(ids)

    def _heads(self) -> Tensor:
        """Output vectors [L, V, D] of all codes."""
        return self.vocabulary.tied_heads(self.embedding) if self.head is None else self.head
