"""What each part must do. Structural: a class with these methods fits, no inheritance needed.

Axes: N items, D width, B rows, S history positions, L levels, V codes in a level (the widest), M supervised positions
(row-major over [B, S]), R beam rows (B times the beams of a row, grouped by row), K beams, k list length.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from semid.types import Batch, Catalog, Interactions, Loss, Recommendations, SemanticIds


@runtime_checkable
class Encoder(Protocol):
    """Item content to vectors."""

    def encode(self, catalog: Catalog) -> np.ndarray:
        """Return float32 [N, D], finite, in item order."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Histories to a score for every item."""

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N]; higher is better. Only `item`, `time`, `length` of the batch are read, `user` by those who know users
        (-1: a stranger), and `request` by those who know the time they are asked at."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Item vectors to semantic ids (before any collision policy)."""

    @property
    def width(self) -> int:
        """D of the vectors it was fitted to."""
        ...

    def fit(self, catalog: Catalog, interactions: Interactions | None = None, *, seed: int) -> Tokenizer: ...

    def assign(self, catalog: Catalog) -> SemanticIds:
        """Return codes of the catalogue's items; new items too."""
        ...

    def distances(self, catalog: Catalog, codes: np.ndarray) -> np.ndarray:
        """Return float32 [N, V]: squared distance of each item's last-level residual to every last-level code."""
        ...

    def unexplained(self, catalog: Catalog, codes: np.ndarray) -> list[float]:
        """Return L shares in [0, 1]: variance of what it encodes (vectors or latents) that is left after each level of the codes."""
        ...

    def save(self, path: Path) -> None:
        """Write one file (safetensors) from which its class reads it again."""
        ...


class CollisionPolicy(Protocol):
    """Makes code tuples unique, once, after any tokenizer."""

    def __call__(self, ids: SemanticIds, distances: np.ndarray, popularity: np.ndarray) -> SemanticIds:
        """distances float32 [N, V] as of `Tokenizer.distances`; popularity int64 [N] from training rows."""
        ...


class State(Protocol):
    """What a generator remembers between two levels. Rows are beams, grouped by the batch row they belong to."""

    def select(self, rows: Tensor) -> State:
        """Return the state of `rows` int64 [R'] (R' = B * K', grouped by batch row): reorders and repeats beams."""
        ...


@runtime_checkable
class Generator(Protocol):
    """History to the codes of the next item, level by level. An `nn.Module`; `ids` may be swapped by `set_ids`."""

    def logits(self, batch: Batch) -> Tensor:
        """Return float32 [M, L, V], teacher forced at the supervised positions (target >= 0); -inf beyond a level's size."""
        ...

    def start(self, batch: Batch) -> State:
        """Read each history once (after its last position). The state has R = B rows."""
        ...

    def step(self, state: State, codes: Tensor | None) -> tuple[Tensor, State]:
        """Advance every row by its `codes` int64 [R] (None at the first level). Returns (logits float32 [R, V], state)."""
        ...


@runtime_checkable
class ParallelGenerator(Protocol):
    """History to all code digits at once (set identifiers): one pass, no beam."""

    def level_logits(self, batch: Batch) -> Tensor:
        """Return float32 [B, L, V]."""
        ...


class Objective(Protocol):
    """A loss over a model and a batch."""

    def __call__(self, model, batch: Batch) -> Loss: ...


class Batches(Protocol):
    """Training batches as a pure function of the step, so that resuming needs no state."""

    @property
    def steps_per_epoch(self) -> int: ...

    def at(self, step: int) -> Batch:
        """Return batch number `step` (0-based, runs over epochs); the same bits each time."""
        ...


@runtime_checkable
class Recommender(Protocol):
    """A finished system: histories in, items out."""

    def recommend(self, histories: Batch, *, k: int, allowed: np.ndarray | None = None, seen: str = "keep") -> Recommendations:
        """allowed: bool [N] mask of items that may be shown; seen: "keep" or "remove" the items of the history itself."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights and codes (safetensors, Parquet, JSON) into an existing folder."""
        ...
