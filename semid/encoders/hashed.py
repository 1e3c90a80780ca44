"""Item texts to vectors without any weights: hashed TF-IDF of words and word pairs, reduced by a truncated SVD.

The fallback that always works. Words are hashed by CRC-32, so vectors don't depend on the process.

Axes: N items, H hash buckets, D width, P non-zero (item, bucket) pairs.
"""

from __future__ import annotations

import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semid.encoders.text import item_texts, text_fields, warn_empty
from semid.types import Catalog

WORD = re.compile(r"\w+")
BUCKETS = 1 << 18
"""Hash buckets; a catalogue of 100,000 items shares few of them."""


def features(text: str) -> Counter[int]:
    """Count the buckets of a text's words, neighbouring word pairs and word stems (first 5 letters)."""
    words = WORD.findall(text.lower())
    terms = words + [f"{a} {b}" for a, b in pairwise(words)] + [word[:5] + "*" for word in words if len(word) > 5]
    return Counter(zlib.crc32(term.encode()) % BUCKETS for term in terms)


def document_frequency(texts: list[str]) -> np.ndarray:
    """Return int64 [BUCKETS]: in how many texts each bucket is."""
    return np.bincount([bucket for text in texts for bucket in features(text)], minlength=BUCKETS)


def tf_idf(texts: list[str], frequency: np.ndarray | None = None, num_texts: int | None = None) -> Tensor:
    """Return the sparse TF-IDF matrix [N, H'] over the H' buckets that at least two texts share; rows of unit length.

    Weight = (1 + ln count) * ln(N / texts holding the bucket). A bucket in one text alone relates it to nothing.
    frequency: of `num_texts` texts that came before these, whose columns and weights to take.
    """
    counts = [features(text) for text in texts]
    rows = np.repeat(np.arange(len(texts)), [len(c) for c in counts])                       # [P]
    buckets = np.fromiter((b for c in counts for b in c), dtype=np.int64, count=len(rows))  # [P]
    count = np.fromiter((n for c in counts for n in c.values()), dtype=np.float64, count=len(rows))
    if frequency is None:
        frequency, num_texts = np.bincount(buckets, minlength=BUCKETS), len(texts)
    is_shared = frequency[buckets] > 1
    rows, buckets, count = rows[is_shared], buckets[is_shared], count[is_shared]
    weight = (1 + np.log(count)) * np.log(num_texts / frequency[buckets])
    length = np.sqrt(np.bincount(rows, weights=weight**2, minlength=len(texts)))
    weight = weight / np.maximum(length[rows], 1e-12)
    known = np.flatnonzero(frequency > 1)
    column = np.searchsorted(known, buckets)
    return torch.sparse_coo_tensor(torch.from_numpy(np.stack([rows, column])), torch.from_numpy(weight).float(),
                                   (len(texts), len(known)), check_invariants=False).coalesce()


def principal(matrix: Tensor, dim: int, *, sweeps: int = 3, seed: int = 0) -> Tensor:
    """Return U * S of the truncated SVD of a sparse matrix [N, H], float [N, dim], signs fixed; zeros beyond its rank.

    Randomised subspace iteration, Halko et al., arXiv 0909.4061, algorithms 4.4 and 5.1.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        transposed = matrix.t().to_sparse_csr()
        matrix = matrix.to_sparse_csr()
    rank = min(dim, *matrix.shape)
    width = min(rank + 16, *matrix.shape)
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], width, generator=generator)).Q    # [N, width]
    for _ in range(sweeps):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(transposed @ basis).Q).Q
    u, s, _ = torch.linalg.svd((transposed @ basis).t(), full_matrices=False)                       # [width, width], [width]
    scaled = (basis @ u[:, :rank]) * s[:rank]                                                       # [N, rank]
    sign = scaled.gather(0, scaled.abs().argmax(0, keepdim=True)).sign()
    return F.pad(scaled * torch.where(sign == 0, 1.0, sign), (0, dim - rank))


def text_vectors(texts: list[str], dim: int) -> np.ndarray:
    """Return float32 [N, dim] of unit length; zeros for texts that share no word with another."""
    matrix = tf_idf(texts)
    if not matrix._nnz():
        return np.zeros((len(texts), dim), dtype=np.float32)
    return F.normalize(principal(matrix, dim), dim=1).numpy()


class Hashed:
    """Text vectors without weights, float32 [N, dim], unit length (zero for items that share no word with another).

    fields: as in `item_texts`. The vectors depend on the whole catalogue: encode new items together with the old.
    About 4 s for 12,000 product titles on one core.
    """

    def __init__(self, dim: int = 256, *, fields: Sequence[str] | None = None):
        self.dim = dim
        self.fields = fields

    def encode(self, catalog: Catalog) -> np.ndarray:
        texts = item_texts(catalog, self.fields)
        warn_empty(texts)
        return text_vectors(texts, self.dim)

    def for_new(self, known: Catalog, kept: np.ndarray | None = None) -> Callable[[Catalog], np.ndarray]:
        """Return a function that encodes further items in the space of `encode(known)`: new rows times its axes.

        kept: float32 [N, dim], what `encode(known)` gave when the catalogue was first encoded. Equal singular values leave the axes free
        to turn, and another number of threads turns them; they are turned back to agree with `kept` (orthogonal Procrustes).
        """
        fields = text_fields(known) if self.fields is None else self.fields
        texts = item_texts(known, fields)
        matrix = tf_idf(texts)
        scaled = principal(matrix, self.dim)  # U S, so A' (U S) = V S^2
        axes = torch.sparse.mm(matrix.t(), scaled) / scaled.square().sum(0).clamp_min(1e-12)  # [H', dim]
        if kept is not None and kept.shape == scaled.shape:
            left, _, right = torch.linalg.svd(F.normalize(scaled, dim=1).t() @ torch.from_numpy(kept))
            axes = axes @ (left @ right)
        frequency = document_frequency(texts)
        return lambda new: F.normalize(torch.sparse.mm(tf_idf(item_texts(new, fields), frequency, len(texts)), axes), dim=1).numpy()
