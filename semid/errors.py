"""What a user can do wrong, as exceptions: each message says what, where, wanted, got and fix.

The command line prints the message alone and exits with code 2; a stack trace means a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SemidError(ValueError):
    """Anything a caller can mend. Every other exception is a defect of semid."""


class DataError(SemidError):
    """A table, a column, a row or a value that cannot be used as it is."""


class ConfigError(SemidError):
    """An unknown recipe, setting or option, or a value of the wrong type or range."""


class RunError(SemidError):
    """A run folder that is missing, incomplete, edited, or written by a newer version."""


class UnknownId(SemidError):
    """A user or item id that the data do not hold."""


class MissingExtra(SemidError):
    """An optional library is needed; the message names the pip command."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known name, or an empty string.

    >>> did_you_mean("tigr", ["tiger", "grid"])
    " (did you mean 'tiger'?)"
    """
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
