"""A generator without weights: logits are a hash of the row's user, the codes so far and the next code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semid.tree import CodeTree
from semid.types import Batch, SemanticIds


@dataclass(frozen=True)
class HashedState:
    seed: Tensor  # int64 [R]

    def select(self, rows: Tensor) -> HashedState:
        return HashedState(self.seed[rows])


@dataclass(frozen=True)
class HashedGenerator:
    """values: how many distinct logits there are; few of them make many ties."""

    sizes: tuple[int, ...]
    values: int = 1 << 20

    def start(self, batch: Batch) -> HashedState:
        return HashedState(_mix(batch.user))

    def step(self, state: HashedState, codes: Tensor | None) -> tuple[Tensor, HashedState]:
        seed = state.seed if codes is None else _mix(state.seed * 31 + codes + 1)
        draw = _mix(seed[:, None] + 7919 * torch.arange(1, max(self.sizes) + 1, device=seed.device))
        return (draw % self.values).float() * (6.0 / self.values), HashedState(seed)


def _mix(x: Tensor) -> Tensor:
    """Return a non-negative 31-bit hash."""
    for _ in range(2):
        x = ((x ^ (x >> 15)) * 0x2C1B3C6D) & 0x7FFFFFFF
    return x ^ (x >> 12)


def histories(users: list[int]) -> Batch:
    user = torch.tensor(users)
    empty = torch.full((len(users), 1), -1)
    return Batch(item=empty, time=empty * 0, length=user * 0, target=empty, user=user)


def random_ids(rng: np.random.Generator, n: int, sizes: tuple[int, ...], *, padded: bool = False) -> SemanticIds:
    """n items with codes below `sizes`; small sizes share codes; padded: paths end at random lengths >= 1."""
    codes = np.stack([rng.integers(0, size, n) for size in sizes], axis=1).astype(np.int16)
    if padded:
        length = rng.integers(1, len(sizes) + 1, n)
        codes[np.arange(len(sizes)) >= length[:, None]] = -1
    return SemanticIds(codes, sizes)


def path_scores(generator: HashedGenerator, ids: SemanticIds, users: list[int], normalise: str,
                weights: list[float] | None = None) -> np.ndarray:
    """Return float64 [B, N] by walking each item's path alone: the independent oracle of all decoding."""
    weights = weights or [1.0] * ids.levels
    scores = np.zeros((len(users), len(ids)))
    for b, user in enumerate(users):
        for item, path in enumerate(ids.codes.tolist()):
            state, fed = generator.start(histories([user])), None
            for level, code in enumerate(path):
                if code < 0:
                    break
                logits, state = generator.step(state, fed)
                row = logits[0].double().numpy()
                under = ids.codes[(ids.codes[:, :level] == path[:level]).all(1), level]
                options = np.arange(len(row)) if normalise == "vocabulary" else np.unique(under[under >= 0])
                scores[b, item] += weights[level] * (row[code] - np.log(np.exp(row[options]).sum()))
                fed = torch.tensor([code])
    return scores


def best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (item, score) [B, k], ties to the lower row, -1 / -inf where nothing is left."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    score = np.take_along_axis(scores, order, 1)
    pad = ((0, 0), (0, k - order.shape[1]))
    return np.pad(np.where(score == -np.inf, -1, order), pad, constant_values=-1), np.pad(score, pad, constant_values=-np.inf)


def tree_and_generator(ids: SemanticIds, values: int = 1 << 20) -> tuple[CodeTree, HashedGenerator]:
    return CodeTree.build(ids), HashedGenerator(ids.sizes, values)
