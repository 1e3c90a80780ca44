"""Real data inside the package: MovieLens latest-small, for the demo and the tests."""

from __future__ import annotations

from pathlib import Path

from semid.data.read import Dataset, read

FOLDER = Path(__file__).with_name("movielens")
"""interactions.parquet, items.parquet and GroupLens' terms in NOTICE.md."""


def movielens() -> Dataset:
    """Return MovieLens latest-small (October 2016): 100,004 ratings (as value) of 671 users, 9,125 films. Not filtered.

    Source: F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015.
    """
    return read(FOLDER)
