"""semid: generative recommendation with semantic IDs.

>>> import semid
>>> data = semid.read("events.parquet", items="items.parquet")          # doctest: +SKIP
>>> run = semid.train("semid", data, out="runs/first")                  # doctest: +SKIP
>>> run.recommend(user="A3...", k=10, where="price < 20")               # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semid.comparison import compare
    from semid.data.read import read
    from semid.errors import SemidError
    from semid.run import Run, load, train
    from semid.types import Protocol

_HOME = {"read": "semid.data.read", "train": "semid.run", "load": "semid.run", "Run": "semid.run",
         "compare": "semid.comparison", "Protocol": "semid.types", "SemidError": "semid.errors"}

__all__ = ["Protocol", "Run", "SemidError", "compare", "load", "read", "train"]


def __getattr__(name: str):
    """Import on first use: `import semid` itself loads neither torch nor DuckDB."""
    if name not in _HOME:
        raise AttributeError(f"module 'semid' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
