"""Loops compiled for the CPU whose machine code is kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numba


def loop(*, fastmath: bool | set[str] = False) -> Callable[[Callable], Callable]:
    """Compile on first use, with what it calls; keep the machine code on disk, in memory alone if no folder can be written.

    fastmath: sums may be reordered; or which of LLVM's liberties are taken. Other threads go on meanwhile.
    """
    def compiled(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, nogil=True, fastmath=fastmath)(function)
        except RuntimeError:  # neither __pycache__ nor the user's cache folder: numba refuses when it decorates
            logging.getLogger(__name__).warning("no writable folder for compiled code: it is compiled anew in each process "
                                                "(seconds); set NUMBA_CACHE_DIR to a writable folder")
            return numba.njit(nogil=True, fastmath=fastmath)(function)

    return compiled
