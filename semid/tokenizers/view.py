"""Which vectors of the catalogue a tokenizer reads: one view, or several side by side with equal weight."""

from __future__ import annotations

import numpy as np

from semid.errors import DataError
from semid.types import Catalog

View = str | tuple[str, ...]
"""The name of a view, or several names: their unit rows are concatenated."""


def composed(catalog: Catalog, view: View) -> np.ndarray:
    """Return float32 [N, D]: the view as it is, or [unit row of a | unit row of b | ...]; rows of zeros stay zero.

    >>> composed(catalog, ("text", "cf")).shape                                # doctest: +SKIP
    (12101, 448)
    """
    if isinstance(view, str):
        return catalog.view(view)
    return np.concatenate([unit(catalog.view(name)) for name in view], axis=1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return the rows of float32 [N, D] at length 1; rows of zeros stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def view_name(view: View) -> str:
    """Return `text` or `text+cf`, for people."""
    return view if isinstance(view, str) else "+".join(view)


def stored_view(view: str | list[str]) -> View:
    """Return a view as JSON gives it back (lists for tuples)."""
    return view if isinstance(view, str) else tuple(view)


def want_enough(vectors: np.ndarray, size: int) -> None:
    """Raise `DataError` unless there are at least as many items, and different vectors among theirs, as codes in a codebook."""
    if len(vectors) < size:
        raise DataError(f"tokenizer: want at least {size} items, one for each code of a codebook, got {len(vectors)}; "
                        f"choose size <= {len(vectors)} or read more items")
    if (found := num_different(vectors)) < size:
        said = ("all equal; give vectors that tell items apart" if found == 1 else
                f"{found:,} of them different; choose size <= {found}, or give vectors that tell more items apart")
        raise DataError(f"tokenizer: want at least {size} different vectors, one for each code of a codebook, got {len(vectors):,}, {said}")


def num_different(vectors: np.ndarray) -> int:
    """Return how many different rows float32 [N, D] vectors have."""
    return len(np.unique(_keys(vectors)))


def num_twins(vectors: np.ndarray) -> int:
    """Return how many rows of float32 [N, D] equal another row; rows of zeros (nothing known) don't count."""
    _, size = np.unique(_keys(vectors[np.abs(vectors).sum(1) > 0]), return_counts=True)
    return int(size[size > 1].sum())


def _keys(vectors: np.ndarray) -> np.ndarray:
    """int64 [N], equal where rows are: a hash of their bytes. O(N D)."""
    return np.array([hash(row.tobytes()) for row in np.ascontiguousarray(vectors) + np.float32(0)], np.int64)  # + 0: -0 is 0
