"""How well a code table uses its codes: numbers for the progress view, the report and `semid codes`.

Axes: N items, L levels, K codes of a level.
"""

from __future__ import annotations

import numpy as np

from semid.tokenizers.groups import group_sizes
from semid.types import SemanticIds


def health(ids: SemanticIds) -> dict:
    """Return what the codes look like, overall and per level.

    items; distinct (code tuples); collision_rate = (N - distinct) / N; colliding_share = items that share their tuple / N;
    largest_group. levels: one dict each with size, used (codes with an item), entropy (nats, at most ln size),
    perplexity (e^entropy: as if so many codes were used evenly), largest_share (of items under one code). Items padded with -1 at a level
    are not counted there.
    """
    n = len(ids)
    size_of_group = group_sizes(ids.codes)
    levels = []
    for level, size in enumerate(ids.sizes):
        codes = ids.codes[:, level]
        count = np.bincount(codes[codes >= 0], minlength=size)
        share = count[count > 0] / max(1, count.sum())
        entropy = 0.0 - float((share * np.log(share)).sum())  # not -0.0 where all items share a code
        levels.append({"size": size, "used": int((count > 0).sum()), "entropy": entropy, "perplexity": float(np.exp(entropy)),
                       "largest_share": float(share.max(initial=0.0))})
    return {"items": n, "distinct": ids.num_distinct, "collision_rate": 1 - ids.num_distinct / max(1, n),
            "colliding_share": float((size_of_group > 1).mean()) if n else 0.0,
            "largest_group": int(size_of_group.max(initial=0)), "levels": levels}

