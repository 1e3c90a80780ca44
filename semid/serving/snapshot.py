"""What one answer is made from: a catalogue, a recommender over it, and what was worked out about them. It never changes.

A change of the catalogue makes the next snapshot (`added`, `updated`, `with_alive`); answers that began with this one end with it.

Axes: N items (removed ones keep their rows), L levels, F width of what a generator reads of an item's content, T of its text part.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from semid.data.where import matches
from semid.errors import ConfigError
from semid.generators.two_level import TwoLevel
from semid.newcomers import Newcomers
from semid.recommenders import CodeRecommender, Fusion, ItemRecommender
from semid.run import Run, find_recipe
from semid.serving.contract import Neighbour
from semid.serving.incoming import widened
from semid.serving.recent import Recent
from semid.serving.together import Together
from semid.tree import Constraint
from semid.types import Batch, Catalog, IdMap, Recommendations

RULE_BYTES = 256 << 20
"""What masks of predicates, and the predicates, may take."""


def model_name(folder: Path) -> str:
    """Name the trained model by the hash of its manifest, which lists the hash of every file."""
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:12]


@dataclass(frozen=True)
class Admitted:
    """The items a predicate admits. mask: bool [N], None = all; constraint: the same for the code tree; count: how many."""

    mask: np.ndarray | None
    constraint: Constraint | None
    count: int

    def best(self, recommender: CodeRecommender | ItemRecommender | Fusion, batch: Batch, k: int) -> Recommendations:
        """Return the k best of these items for each history, without those that the batch hides (`extra["seen"]`)."""
        if isinstance(recommender, ItemRecommender):
            return recommender.recommend(batch, k=k, allowed=self.mask, seen="remove")
        return recommender.recommend(batch, k=k, allowed=self.mask, constraint=self.constraint, seen="remove")


@dataclass(frozen=True)
class Snapshot:
    """run: as it was trained. catalog, recommender: over N items, those of the run first. alive: bool [N], False = removed.
    popularity: int64 [N], training events; 0 of items added later. newcomers: how new items get codes, None = they can't.
    together: who took what, in training. model: a name of what was trained. rules: masks by predicate, of this snapshot alone, so
    that a change of the attributes forgets them."""

    run: Run
    catalog: Catalog
    recommender: CodeRecommender | ItemRecommender | Fusion
    alive: np.ndarray
    popularity: np.ndarray
    newcomers: Newcomers | None
    together: Together
    model: str
    version: int
    rules: Recent[Admitted] = field(default_factory=lambda: Recent[Admitted](RULE_BYTES))

    @classmethod
    def of(cls, run: Run, version: int = 1) -> Snapshot:
        """The snapshot of a run in a folder, as it was trained."""
        assert run.folder is not None
        takes_items = _newcomers_of(run)
        has_tokenizer = (run.folder / "tokenizer.safetensors").exists()  # not where the codes were published ones
        newcomers = takes_items(run.config, run.catalog, run.folder) if takes_items is not None and has_tokenizer else None
        return cls(run, run.catalog, run.recommender, np.ones(len(run.catalog), bool), run.split.train.counts, newcomers,
                   Together(run.split.train), model_name(run.folder), version)

    def __len__(self) -> int:
        return len(self.catalog)

    @cached_property
    def num_alive(self) -> int:
        return int(self.alive.sum())

    @property
    def recipe_takes_items(self) -> bool:
        """Whether the recipe knows how to give codes to new items, where it made the codes itself."""
        return _newcomers_of(self.run) is not None

    @property
    def takes_items(self) -> bool:
        """Whether new items can come; `Engine.add` says why not."""
        return self.codes is not None and self.newcomers is not None

    @property
    def codes(self) -> CodeRecommender | None:
        """The part that generates codes, None where items are ranked directly."""
        found = self.recommender.first if isinstance(self.recommender, Fusion) else self.recommender
        return found if isinstance(found, CodeRecommender) else None

    @property
    def content(self) -> torch.Tensor | None:
        """float32 [N, T]: content vectors of length 1 (or 0), without behaviour; None where the run keeps none."""
        kept = self.kept_content
        if kept is None or self.newcomers is None or self.newcomers.content_width <= 0:
            return None
        return kept[:, : self.newcomers.content_width]

    @property
    def kept_content(self) -> torch.Tensor | None:
        """float32 [N, F]: what the generator reads of every item beside its codes."""
        generator = None if self.codes is None else self.codes.generator
        return generator.input.content if isinstance(generator, TwoLevel) else None

    def user_rows(self, ids: Sequence[str | None]) -> np.ndarray:
        """Return int64 [len(ids)]: rows of users of the run's data; -1 for the unknown and None."""
        users = self.run.split.source.users
        return np.array([-1 if id_ is None else users.rows([id_])[0] for id_ in ids], np.int64)

    @cached_property
    def most_popular(self) -> np.ndarray:
        """int64 [N]: item rows, the most taken first, ties to the lower row."""
        return np.argsort(-self.popularity, kind="stable")

    def remembered(self, where: str | None, only: Sequence[str] | None) -> Admitted | None:
        """Return what `admitted` returned for the same, None where it isn't kept."""
        return self.rules.get(_key(where, only))

    def admitted(self, where: str | None, only: Sequence[str] | None) -> Admitted:
        """Return the living items that satisfy `where` and are among the ids `only`; kept for the next time.

        Raises `DataError` for a condition that cannot be asked.
        """
        if (known := self.remembered(where, only)) is not None:
            return known
        mask = self.alive.copy()
        if only is not None:
            rows = self.catalog.items.rows(only)
            chosen = np.zeros(len(self), bool)
            chosen[rows[rows >= 0]] = True
            mask &= chosen
        if where is not None:
            mask &= matches(self.catalog, where)
        if mask.all():
            found = Admitted(None, None, len(self))
        else:
            constraint = None if self.codes is None else self.codes.tree.allow(mask)
            found = Admitted(mask, constraint, int(mask.sum()))
        size = len(mask) + (0 if found.constraint is None else sum(cum.nbytes for cum in found.constraint.cum))
        self.rules.put(_key(where, only), found, size + sum(map(sys.getsizeof, [where, only, *(only or ())])))
        return found

    def near(self, row: int, k: int, by: Literal["content", "codes", "together"]) -> list[Neighbour]:
        """Return up to k living items near one, itself left out. Raises `ConfigError` where the run has no such nearness."""
        if by == "together":
            rows, score = self.together.near(row)
        elif by == "codes":
            if self.codes is None:
                raise ConfigError(f"similar by codes: recipe {self.run.recipe!r} has no codes; want by together")
            codes = self.codes.ids.codes
            score = np.logical_and.accumulate(codes == codes[row], axis=1).mean(axis=1)
            rows = np.flatnonzero(score > 0)
            score = score[rows]
        elif by == "content":
            content = self.content
            if content is None:
                raise ConfigError(f"similar by content: this run of recipe {self.run.recipe!r} keeps no content vectors; "
                                  f"want by {'together' if self.codes is None else 'codes or by together'}")
            score = (content @ content[row]).numpy()
            rows = np.arange(len(self))
        else:
            raise ConfigError(f"similar: want by content, codes or together, got {by!r}")
        keep = self.alive[rows] & (rows != row)
        rows, score = rows[keep], score[keep]
        order = np.lexsort((rows, -score))[:k]
        return self.neighbours(rows[order], score[order].tolist())

    def neighbours(self, rows: np.ndarray, scores: Sequence[float]) -> list[Neighbour]:
        """Return items by row, with their scores."""
        return [Neighbour(str(self.catalog.items.ids[row]), self.catalog.titles[row], float(score))
                for row, score in zip(rows, scores, strict=True)]

    def added(self, ids: Sequence[str], table: pa.Table, text: dict[str, list[str]], codes: np.ndarray,
              content: np.ndarray) -> Snapshot:
        """Return the next snapshot, with n more items. table: their n rows of the catalogue's columns; text: of its fields;
        codes: integer [n, L]; content: float32 [n, F], what the generator reads of them."""
        old = self.catalog
        both = pa.concat_tables([widened(old.table, table), widened(table, old.table)])
        catalog = Catalog(IdMap([*old.items.ids.tolist(), *ids]), both.combine_chunks(),
                          {name: [*texts, *text[name]] for name, texts in old.text.items()})
        assert not isinstance(self.recommender, ItemRecommender), "who asks has made sure that items have codes"
        return replace(self._next(), catalog=catalog, recommender=self.recommender.with_items(codes, content),
                       alive=np.append(self.alive, np.ones(len(ids), bool)),
                       popularity=np.append(self.popularity, np.zeros(len(ids), np.int64)))

    def updated(self, rows: np.ndarray, table: pa.Table, text: dict[str, list[str]]) -> Snapshot:
        """Return the next snapshot, with the columns of `table` [n], and `text`, in place at item rows int64 [n]. Codes stay."""
        source = np.arange(len(self))
        source[rows] = len(self) + np.arange(len(rows))
        current, texts = widened(self.catalog.table, table), dict(self.catalog.text)
        table = widened(table, current)
        for name in table.column_names:
            place = current.schema.get_field_index(name)
            both = pa.chunked_array([*current[name].chunks, *table[name].chunks], current.schema.field(place).type)
            current = current.set_column(place, current.schema.field(place), both.take(pa.array(source)))
        for name, values in text.items():
            both = [*texts[name], *values]
            texts[name] = [both[row] for row in source.tolist()]
        return replace(self._next(), catalog=replace(self.catalog, table=current.combine_chunks(), text=texts))

    def with_alive(self, rows: np.ndarray, is_alive: bool) -> Snapshot:
        """Return the next snapshot, where the items at `rows` are shown, or never are. They stay in histories."""
        alive = self.alive.copy()
        alive[rows] = is_alive
        return replace(self._next(), alive=alive)

    def _next(self) -> Snapshot:
        return replace(self, version=self.version + 1, rules=Recent[Admitted](RULE_BYTES))


def _key(where: str | None, only: Sequence[str] | None) -> tuple[str | None, tuple[str, ...] | None]:
    return where, None if only is None else tuple(only)


def _newcomers_of(run: Run) -> Callable[[Any, Catalog, Path], Newcomers | None] | None:
    """Return what a recipe may define beside `run` and `load`: how new items come in."""
    return getattr(find_recipe(run.recipe)[0], "newcomers", None)
