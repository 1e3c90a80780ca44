"""Binary search for compiled loops."""

from __future__ import annotations

import numba


@numba.njit
def lower_bound(values, lo, hi, bound):
    """The first slot in [lo, hi) of values, which rise there, that holds `bound` or more; hi if none does."""
    while lo < hi:
        middle = (lo + hi) >> 1
        if values[middle] < bound:
            lo = middle + 1
        else:
            hi = middle
    return lo
