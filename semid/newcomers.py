"""How items that came after training get codes: encode them as the run's items were, ask its tokenizer, take what is free.

A recipe that makes codes of content says how in a function `newcomers(config, catalog, folder) -> Newcomers`, None where these settings
leave no way; it is asked only for runs with a tokenizer of their own. A recipe without it (SASRec, item-kNN: a vector or a row of counts
for each item) can't take new items.

Axes: n new items, L levels, F width of an item's content, T width of its text part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Event, Lock
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.encoders.content import text_encoder
from semid.encoders.text import item_texts, text_fields
from semid.errors import ConfigError, DataError
from semid.protocols import Tokenizer
from semid.tokenizers.view import View, composed
from semid.types import Catalog, SemanticIds

Free = Callable[[SemanticIds, np.ndarray, np.ndarray], np.ndarray]

NEAREST = 10
"""Known items whose behaviour a new one is expected to have."""

AT_ONCE = 1 << 25
"""Cosines that are held at a time."""

SAMPLE = 16
"""Old items that are encoded again, to see that it is the run's encoder."""


@dataclass(frozen=True)
class Near:
    """The known items whose content is nearest to that of n others. item int64 [n, K]: rows; share float32 [n, K]: of the cosines that are
    above 0, sum 1, or all 0 where nothing is near."""

    item: Tensor
    share: Tensor

    @classmethod
    def of(cls, content: Tensor, known: Tensor) -> Near:
        """content float32 [n, F] of the others, known float32 [N, F]."""
        length = known.norm(dim=1).clamp_min(1e-12)
        pieces = F.normalize(content, dim=1).split(max(1, AT_ONCE // len(known)))
        found = [(rows @ known.T).div_(length).topk(min(NEAREST, len(known)), dim=1) for rows in pieces]
        value, item = (torch.cat(parts) for parts in zip(*found, strict=True))
        value = value.clamp_min(0)
        return cls(item, value / value.sum(1, keepdim=True).clamp_min(1e-12))

    def and_also(self, more: Near) -> Near:
        return Near(torch.cat([self.item, more.item]), torch.cat([self.share, more.share]))

    def expected(self, scores: Tensor) -> Tensor:
        """Put the mean over what is near, float32 [B, N + n], in the place of the last n scores."""
        item, share = self.item.to(scores.device), self.share.to(scores.device)
        mean = sum(scores[:, column] * part for column, part in zip(item.T, share.T, strict=True))
        return torch.cat([scores[:, : scores.shape[1] - len(item)], cast(Tensor, mean)], dim=1)


@dataclass(frozen=True)
class Newcomers:
    """tokenizer: as the run learnt it. view: an item's content, what the generator and the tokenizer read of it, the text vectors first;
    width: F. text: which text vectors, see `with_text_view`. behaviour: {view: width} of what new items don't have yet, one or none; see
    `_expected`. free: codes [n, L] from (the ids that are taken, the tokenizer's codes, its distances), such as
    `collisions.nearest_free_code`. known: the run's catalogue; kept: float32 [N, F], its content as the generator has it, None where it
    has none. is_checked: whether the encoder at hand is known to be the run's; preparing: held meanwhile.
    """

    tokenizer: Tokenizer
    view: View
    width: int
    text: str
    behaviour: dict[str, int]
    free: Free
    known: Catalog
    kept: np.ndarray | None = None
    is_checked: Event = field(default_factory=Event)
    preparing: Lock = field(default_factory=Lock)

    @classmethod
    def of_text(cls, tokenizer: Tokenizer, view: str, text: str, free: Free, known: Catalog) -> Newcomers:
        """For a generator that reads codes alone, of one view."""
        return cls(tokenizer, view, tokenizer.width, text=text, behaviour={}, free=free, known=known)

    @property
    def content_width(self) -> int:
        """T."""
        return self.width - sum(self.behaviour.values())

    @cached_property
    def encode(self) -> Callable[[Catalog], np.ndarray]:
        """Catalogue of new items to float32 [n, T]. Seconds once (weights, or axes of the known texts), then quick."""
        if self.content_width <= 0:
            raise ConfigError("the codes of this run come from behaviour alone, which new items don't have; want a run trained on items "
                              "with text, or train again with the new items")
        return text_encoder(self.text).for_new(self.known, self._kept_text)

    def take_over(self, before: Newcomers | None) -> None:
        """Use the encoder of `before` where it has one, made of the same items: a run that is read again need not make it anew."""
        if before is not None and "encode" in vars(before) and self._encoder_rests_on == before._encoder_rests_on:
            vars(self)["encode"] = before.encode

    @property
    def _encoder_rests_on(self) -> tuple:
        kept = self._kept_text
        return (self.text, self.content_width, self.known.items.ids.tolist(), self.known.text, None if kept is None else kept.tobytes())

    @cached_property
    def _kept_text(self) -> np.ndarray | None:
        """float32 [N, T]: the text vectors of the known items, as kept."""
        return None if self.kept is None else np.ascontiguousarray(self.kept[:, : self.content_width])

    @property
    def _text_view(self) -> str:
        return self.view if isinstance(self.view, str) else self.view[0]

    def prepare(self, ids: SemanticIds) -> None:
        """Do once what the first new item would wait for: the encoder, and whether it is the run's. Arguments and errors of `place`.
        Other threads wait for the one that does it."""
        with self.preparing:
            if not self.is_checked.is_set():
                self._check_encoder(ids)
                self.is_checked.set()

    def place(self, new: Catalog, ids: SemanticIds) -> tuple[np.ndarray, np.ndarray]:
        """Return (codes [n, L], the content float32 [n, F]).

        new: items with the text fields of the run, or with a view "text" of vectors. ids: all codes so far, the run's own items
        first. Raises `DataError` where an item has nothing to
        encode or no free code is near, `ConfigError` where the encoder at hand is another than the run's.
        """
        name = self._text_view
        if name not in new.views:
            self.prepare(ids)
            mute = [id_ for id_, text in zip(new.items.ids.tolist(), item_texts(new, text_fields(self.known)), strict=True) if not text]
            if mute:
                raise DataError(f"new item {mute[0]!r}{f' and {len(mute) - 1} more' if len(mute) > 1 else ''}: no text to encode; "
                                f"want words in one of its columns {', '.join(text_fields(self.known))}")
            new = new.with_view(name, self.encode(new))
        if (got := new.view(name).shape[1]) != self.content_width:
            raise DataError(f"view {name!r} of the new items: want width {self.content_width} as in training, got {got}")
        if self.behaviour:
            assert self.kept is not None, "a generator whose codes hold behaviour keeps it as content"
            new = new.with_view(*self._expected(new.view(name), self.kept))
        wanted = self.tokenizer.assign(new).codes
        return self.free(ids, wanted, self.tokenizer.distances(new, wanted)), composed(new, self.view)

    def _expected(self, text: np.ndarray, content: np.ndarray) -> tuple[str, np.ndarray]:
        """Return (view, float32 [n, width]): the behaviour to expect of new items, the mean of that of the nearest known ones.

        Nobody took them yet; zeros would put them among the items that nobody takes. Mean over the `NEAREST` by the cosine of text
        [n, T], weighted by it, unit length; zero where nothing is near.
        """
        [name] = self.behaviour
        known, past = torch.from_numpy(content[:, : self.content_width]), torch.from_numpy(content[:, self.content_width :])
        near = Near.of(torch.from_numpy(text), known)
        mean = torch.einsum("nk,nkw->nw", near.share, past[near.item])
        return name, F.normalize(mean, dim=1).numpy()

    def _check_encoder(self, ids: SemanticIds) -> None:
        """Encode some known items again: their vectors, or where none are kept their first codes, must be those of the run."""
        told = np.flatnonzero([bool(text) for text in item_texts(self.known, text_fields(self.known))])
        rows = told[np.unique(np.linspace(0, len(told) - 1, min(SAMPLE, len(told))).astype(np.int64))]
        sample = replace(self.known, views={}).take(rows)
        vectors = self.encode(sample)
        if self._kept_text is not None:
            kept = self._kept_text[rows]
            same = kept.shape == vectors.shape and float((kept * vectors).sum(1).mean()) > 0.98
        else:
            kept = ids.codes[rows, 0]
            same = float((self.tokenizer.assign(sample.with_view(self._text_view, vectors)).codes[:, 0] == kept).mean()) > 0.9
        if not same:
            raise ConfigError("the text encoder at hand is not the one this run was trained with: known items get other vectors; "
                              "install that one (see: semid doctor), or give the new items' vectors: --view text=FILE.npy")
