"""How sure are we? Intervals over users, paired tests between two systems, many tests at once, and spread over seeds.

Axes: B cases, U distinct values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semid.errors import DataError

CHUNK = 4_000_000
"""Random numbers drawn at a time: bounds the working memory to some tens of MB."""


def bootstrap(values: np.ndarray, *, user: np.ndarray | None = None, samples: int = 1000, seed: int = 0,
              level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of the mean of float64 [B] under resampling of the users with replacement.

    user: integer [B], whose case each is, where a user may have several, which aren't independent; None = each has one.
    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

    >>> bootstrap(np.array([1.0, 1.0, 1.0]))
    (1.0, 1.0)
    """
    if not len(values):
        raise DataError("bootstrap: want one value at least, got none; there are no cases to evaluate")
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    if user is not None and len(cases := np.bincount(number := numbered(user))) < len(values):
        total, step = np.bincount(number, values), max(1, CHUNK // len(cases))
        for begin in range(0, samples, step):
            drawn = rng.integers(0, len(cases), (min(step, samples - begin), len(cases)), dtype=np.int32)
            means[begin : begin + step] = total[drawn].sum(axis=1) / cases[drawn].sum(axis=1)
        return _percentiles(means, level)
    distinct, counts = np.unique(values, return_counts=True)
    # Values of ranking metrics are few (a rank below k, or none), so draw how often each distinct value comes up: the same
    # distribution. A multinomial draw costs about ten times an index per entry; there are U of the one and B of the other.
    few = 10 * len(distinct) < len(values)
    step = max(1, CHUNK // (len(distinct) if few else len(values)))
    for begin in range(0, samples, step):
        size = min(step, samples - begin)
        if few:
            drawn = rng.multinomial(len(values), counts / len(values), size=size) @ distinct
            means[begin : begin + size] = drawn / len(values)
        else:
            means[begin : begin + size] = values[rng.integers(0, len(values), (size, len(values)), dtype=np.int32)].mean(axis=1)
    return _percentiles(means, level)


def _percentiles(means: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def numbered(user: np.ndarray) -> np.ndarray:
    """Return int64 [B]: users by their number, 0 the lowest."""
    return np.unique(user, return_inverse=True)[1]


def paired_permutation(a: np.ndarray, b: np.ndarray, *, user: np.ndarray | None = None, samples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of "the means of a and b are equal", from values of the same cases in the same order.

    a, b: float64 [B]. Under the null hypothesis each difference may as well have the other sign; p is the share of random sign
    flips whose mean is at least as far from zero, (1 + more extreme) / (1 + samples), so never zero. user: as in `bootstrap`; all cases
    of a user flip together.
    Source: Smucker, Allan & Carterette, CIKM 2007.
    """
    if a.shape != b.shape:
        raise DataError(f"paired test: want the same cases in both runs, got {len(a)} and {len(b)} values")
    difference = a - b if user is None else np.bincount(numbered(user), a - b)
    observed = abs(difference.sum())
    moving = difference[difference != 0]
    blocks = np.pad(moving, (0, -len(moving) % 8)).reshape(-1, 8)
    # A random byte flips eight signs at once: the 256 signed sums of each eight differences stand ready in a table.
    signs = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # [256, 8]
    rng = np.random.default_rng(seed)
    flipped, step = np.zeros(samples), max(1, CHUNK // samples)
    for begin in range(0, len(blocks), step):
        table = blocks[begin : begin + step] @ signs.T  # [n, 256]
        drawn = rng.integers(0, 256, (samples, len(table)), dtype=np.uint8)
        flipped += table[np.arange(len(table)), drawn].sum(axis=1)
    # Sums of the same numbers in another order differ in the last bits; a tie with the observed sum must count.
    extreme = int((np.abs(flipped) >= observed * (1 - 1e-9) - 1e-12).sum())
    return (1 + extreme) / (1 + samples)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return float64 p-values adjusted for being several: reject those below alpha, and no false rejection at that level.

    Source: Holm, Scandinavian Journal of Statistics 1979.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(scaled)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


@dataclass(frozen=True)
class AcrossSeeds:
    """One metric over several trainings. sd is over the seeds' means (n - 1 in the denominator), None with one seed."""

    mean: float
    sd: float | None
    num_seeds: int


def across_seeds(values: Sequence[np.ndarray]) -> AcrossSeeds:
    """Summarise one float64 [B] per seed.

    >>> across_seeds([np.array([0.0, 1.0]), np.array([1.0, 1.0])])
    AcrossSeeds(mean=0.75, sd=0.3535533905932738, num_seeds=2)
    """
    means = [float(v.mean()) for v in values]
    return AcrossSeeds(float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else None, len(means))
