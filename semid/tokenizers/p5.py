"""P5's indexers: seven ways to name items by tokens without learning anything, each a function that returns distinct codes.

Source: Hua et al., "How to Index Item IDs for Recommendation Foundation Models", SIGIR-AP 2023, arXiv 2305.06569, and the settings of its
code. There a token is a piece of text for T5; here it is a code of a level, so that every generator of this house can write it:
(1) numbers are cut into pairs of decimal digits from the right (there: as SentencePiece happens to cut them);
(2) title words are codes, the rare ones share 256 buckets, titles are cut to a few words (there: all pieces of the title);
(3) paths have one length: where a path of clusters or categories ends early, the code 0 follows. It is the only child of its node or
says "this path ends here", which is what the end token of a text says.

The seventh, hybrid, has the codes of `collaborative` (or `semantic`) with a private token for the last: a generator gives an item vectors
of its own for that (an id embedding where it reads, a node vector where it writes), see `recipes.p5`.

Axes: N items, L levels, E training events.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from semid.errors import ConfigError
from semid.nn.counting import Weighted, summed
from semid.nn.spectral import spectral_clusters
from semid.tokenizers.collisions import extra_level
from semid.tokenizers.groups import groups
from semid.types import Interactions, SemanticIds

FIRST = 1000
"""The lowest number given to an item; the paper draws from [1000, 13000)."""

BUCKETS = 256
"""Codes that rare words share."""

Order = Literal["original", "long_to_short", "short_to_long", "random"]


def random_index(count: int, *, seed: int) -> SemanticIds:
    """Give each item a random number of its own (RID): unlike items share pieces."""
    return _spelled(FIRST + np.random.default_rng(seed).permutation(count), "random numbers")


def independent_index(count: int) -> SemanticIds:
    """Give each item a token of its own (IID), as id embeddings do: one level of N codes."""
    return _ids(np.arange(count)[:, None], (count,), "one token an item")


def title_index(titles: Sequence[str], *, words: int = 4, vocabulary: int = 1000) -> SemanticIds:
    """Name items by the first `words` words of their titles (TID); items with the same words get a running number behind.

    vocabulary: words with a code of their own, the most frequent; ties in alphabetical order.
    """
    spelled = [re.findall(r"\w+", title.lower())[:words] for title in titles]
    count = Counter(word for title in spelled for word in title)
    kept = sorted(count, key=lambda word: (-count[word], word))[:vocabulary]
    known = {word: 1 + BUCKETS + place for place, word in enumerate(kept)}
    codes = np.zeros((len(titles), words), np.int32)  # 0: the title ends here
    for row, title in enumerate(spelled):
        codes[row, : len(title)] = [known.get(word, 1 + zlib.crc32(word.encode()) % BUCKETS) for word in title]
    ids = _ids(codes, (1 + BUCKETS + len(kept),) * words, "title words")
    return ids if ids.num_distinct == len(ids) else _numbered(ids)


def sequential_index(train: Interactions, *, order: Order = "original", seed: int = 0) -> SemanticIds:
    """Number items as the training events first show them, user after user (SID): what one user takes shares its leading pieces.

    Items without training events follow in row order. order: of the users, as they stand or by the number of their events.
    Only `train` is read: numbering whole histories would give away what comes next.
    """
    users = np.arange(len(train.users))
    length = np.diff(train.offsets)
    users = {"original": users, "long_to_short": np.argsort(-length, kind="stable"), "short_to_long": np.argsort(length, kind="stable"),
             "random": np.random.default_rng(seed).permutation(users)}[order]
    turn = np.empty(len(users), np.int64)
    turn[users] = np.arange(len(users))
    walk = train.item[np.argsort(turn[train.user], kind="stable")]  # events of a user stay in their order
    seen, first = np.unique(walk, return_index=True)
    number = np.full(len(train.items), -1)
    number[seen[np.argsort(first)]] = FIRST + 1 + np.arange(len(seen))
    number[number < 0] = FIRST + 1 + len(seen) + np.arange(len(train.items) - len(seen))
    return _spelled(number, "numbers in order of training")


def collaborative_index(train: Interactions, *, clusters: int = 10, leaf: int = 500, seed: int = 0) -> SemanticIds:
    """Name items by a path of clusters of what users take together (CID), and a number inside the last cluster.

    Items are joined by the number of users who have both in training; spectral clustering makes `clusters` parts, and again of each part
    with more than `leaf` items. Items that nobody took with another are a part of their own; what cannot be told apart is cut into even
    pieces. A code of a cluster stands for that cluster alone, numbers inside clusters are shared by all. Raises `ConfigError` for fewer
    than two clusters, which part nothing, and leaves of no item.
    """
    if clusters < 2 or leaf < 1:
        raise ConfigError(f"P5's collaborative names: want 2 clusters and a leaf of 1 at least, got {clusters} and {leaf}")
    pairs = together(train)
    paths, count = [], len(train.items)
    parts = [np.arange(count)] if count > leaf else []
    while parts or not paths:
        label = np.zeros(count, np.int64)
        below = []
        for rows in parts:
            label[rows] = own = _parted(rows, pairs, count, clusters, leaf, seed)
            below += [rows[own == part] for part in np.unique(own) if (own == part).sum() > leaf]
        paths.append(label)
        parts = below
    paths = np.stack(paths, axis=1)
    codes = np.stack([groups(paths[:, : level + 1])[0] for level in range(paths.shape[1])], axis=1)
    return _numbered(_ids(codes, tuple((codes.max(0) + 1).tolist()), "clusters of users' items"))


def semantic_index(paths: Sequence[Sequence[str]]) -> SemanticIds:
    """Name items by their category path, coarse to fine (SemID), and a number among the items of the same path.

    paths: N lists of categories; an item with an empty one gets a first token of its own.
    """
    depth = max(1, max(map(len, paths), default=1))
    codes, sizes = np.zeros((len(paths), depth), np.int32), []  # 0: the path ends here
    for level in range(depth):
        known = {name: code for code, name in enumerate(sorted({path[level] for path in paths if len(path) > level}), start=1)}
        codes[:, level] = [known[path[level]] if len(path) > level else 0 for path in paths]
        sizes.append(len(known) + 1)
    without = np.flatnonzero(codes[:, 0] == 0)
    codes[without, 0] = sizes[0] + np.arange(len(without))
    sizes[0] += len(without)
    return _numbered(_ids(codes, tuple(sizes), "category path"))


def together(train: Interactions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (i, j, users) int64, int64, float64: how many users have both items i != j in `train`, each pair both ways."""
    count = np.int64(len(train.items))
    both = np.unique(train.user.astype(np.int64) * count + train.item)  # an item counts once a user
    user, item = both // count, both % count

    def at(distance: int) -> Weighted:
        same = user[distance:] == user[:-distance]
        return (item[:-distance] * count + item[distance:])[same], np.ones(int(same.sum()))

    key, users = summed(at(distance) for distance in range(1, int(np.bincount(user).max(initial=1))))
    row, column = key // count, key % count  # row < column: a user's items rise
    return np.concatenate([row, column]), np.concatenate([column, row]), np.concatenate([users, users])


def _parted(rows: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray], count: int, clusters: int, leaf: int,
            seed: int) -> np.ndarray:
    """Return the part, int64 in [0, clusters], of each of the items `rows`."""
    place = np.full(count, -1)
    place[rows] = np.arange(len(rows))
    inside = (place[pairs[0]] >= 0) & (place[pairs[1]] >= 0)
    first, second, weight = place[pairs[0][inside]], place[pairs[1][inside]], pairs[2][inside]
    joined = np.unique(first)
    part = np.full(len(rows), clusters)  # of items that are joined with none
    if len(joined) > clusters:
        part[joined] = spectral_clusters(np.searchsorted(joined, first), np.searchsorted(joined, second), weight, len(joined), clusters,
                                         seed=seed)
    if len(np.unique(part)) == 1:
        pieces = min(clusters, -(-len(rows) // leaf))
        part = np.arange(len(rows)) * pieces // len(rows)
    return part


def _numbered(ids: SemanticIds) -> SemanticIds:
    """Append a running number among the items of equal codes."""
    return extra_level(ids, np.empty(0), np.zeros(len(ids)))


def _spelled(number: np.ndarray, source: str) -> SemanticIds:
    """Codes of numbers: pairs of decimal digits, the leading pair first."""
    pairs = (len(str(int(number.max()))) + 1) // 2
    codes = np.stack([number // 100**power % 100 for power in reversed(range(pairs))], axis=1)
    return _ids(codes, (int(codes[:, 0].max()) + 1, *(100,) * (pairs - 1)), source)


def _ids(codes: np.ndarray, sizes: tuple[int, ...], source: str) -> SemanticIds:
    return SemanticIds.of(codes, sizes, source=source)
