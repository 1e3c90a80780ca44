"""Item texts to rows of word numbers, for models that learn their own vectors of words. No weights, no library.

Axes: N items, W words of an item.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from semid.encoders.hashed import WORD

BUCKETS = 256
"""Numbers that the words of a single item share."""


def word_rows(texts: Sequence[str], most: int) -> tuple[np.ndarray, int]:
    """Return (int64 [N, W] numbers of each text's first `most` words, -1 pads right; how many numbers there are).

    A word that two texts have gets a number of its own; the others share `BUCKETS` by their CRC-32.

    >>> rows, count = word_rows(["red case", "Red cable!", ""], most=5)
    >>> rows[:, 0].tolist(), count
    ([256, 256, -1], 257)
    """
    spelled = [WORD.findall(text.lower()) for text in texts]
    holders = Counter(word for words in spelled for word in set(words))
    shared = sorted(word for word, count in holders.items() if count > 1)
    number = {word: BUCKETS + place for place, word in enumerate(shared)}
    cut = [words[:most] for words in spelled]
    rows = np.full((len(texts), max(map(len, cut), default=0)), -1)
    for row, words in enumerate(cut):
        rows[row, : len(words)] = [number.get(word, zlib.crc32(word.encode()) % BUCKETS) for word in words]
    return rows, BUCKETS + len(shared)
