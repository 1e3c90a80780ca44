"""How well a code table uses its codes: numbers for the progress view, the report and `semid codes`.

Axes: N items, D width, L levels, K codes of a level.
"""

from __future__ import annotations

import numpy as np

from semid.tokenizers.groups import group_sizes, groups
from semid.types import SemanticIds


def health(ids: SemanticIds, vectors: np.ndarray | None = None) -> dict:
    """Return what the codes look like, overall and per level.

    items; distinct (code tuples); collision_rate = (N - distinct) / N; colliding_share = items that share their tuple / N;
    largest_group. levels: one dict each with size, used (codes with an item), entropy (nats, at most ln size),
    perplexity (e^entropy: as if so many codes were used evenly), largest_share (of items under one code), and with
    vectors float32 [N, D] also within: the variance inside groups of equal prefix over the total variance, 0 = none left
    (groups of one item have none, so deep levels look good by construction).
    Items padded with -1 at a level are not counted there.
    """
    n = len(ids)
    size_of_group = group_sizes(ids.codes)
    levels = []
    for level, size in enumerate(ids.sizes):
        codes = ids.codes[:, level]
        count = np.bincount(codes[codes >= 0], minlength=size)
        share = count[count > 0] / max(1, count.sum())
        entropy = 0.0 - float((share * np.log(share)).sum())  # not -0.0 where all items share a code
        record = {"size": size, "used": int((count > 0).sum()), "entropy": entropy, "perplexity": float(np.exp(entropy)),
                  "largest_share": float(share.max(initial=0.0))}
        if vectors is not None:
            record["within"] = _variance_within(vectors, ids.codes[:, : level + 1])
        levels.append(record)
    return {"items": n, "distinct": ids.num_distinct, "collision_rate": 1 - ids.num_distinct / max(1, n),
            "colliding_share": float((size_of_group > 1).mean()) if n else 0.0,
            "largest_group": int(size_of_group.max(initial=0)), "levels": levels}


def _variance_within(vectors: np.ndarray, prefix: np.ndarray) -> float:
    """Return sum |x - mean of its prefix|^2 / sum |x - mean|^2; prefix [N, l]."""
    group, size = groups(prefix)
    order = np.argsort(group, kind="stable")
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    mean = np.add.reduceat(vectors[order].astype(np.float64), first, axis=0) / size[:, None]
    total = float(np.square(vectors - vectors.mean(0, dtype=np.float64)).sum())
    return float(np.square(vectors - mean[group]).sum()) / total if total > 0 else 0.0
