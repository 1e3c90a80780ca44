"""The rival of `decode_step.py`: STATIC's algorithm, in plain torch operations.

The trie is a sparse matrix of transitions (state, token) -> state in CSR form; the first two levels are dense tables instead. A step
reads a slice of fixed length for every beam, the widest node of the level, and masks what lies beyond the node's own children.

Written from the description of the published method (youtube/static-constraint-decoding), whose package isn't on the index.
Axes: B rows, K beams, V tokens of a level, W children of a level's widest node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class StaticIndex:
    """A node of level l, numbered in sorted order, is state offset[l] + number; first of level 0 is its token.

    token, follower: int32 [T], the transitions; start: int32 [states + 1], where a state's begin; widest: per level, W.
    exists: bool [V, V] and state: int32 [V, V], of the first two tokens; first: bool [V].
    """

    token: Tensor
    follower: Tensor
    start: Tensor
    widest: tuple[int, ...]
    offset: tuple[int, ...]
    first: Tensor
    exists: Tensor
    state: Tensor

    @classmethod
    def build(cls, codes: np.ndarray, vocabulary: int) -> StaticIndex:
        """codes: integer [N, L], L > 2."""
        ordered = codes[np.lexsort(codes.T[::-1])]
        n, levels = ordered.shape
        begins, number = np.zeros(n, dtype=bool), []  # does a node begin here? and per level, the node of each sorted item
        begins[0] = True
        tokens, parents, widest = [], [], [len(np.unique(ordered[:, 0]))]
        for level in range(levels):
            begins[1:] |= ordered[1:, level] != ordered[:-1, level]
            number.append(np.cumsum(begins, dtype=np.int32) - 1)
            if level >= 2:
                tokens.append(ordered[begins, level].astype(np.int32))
                parents.append(number[level - 1][begins])
            if level >= 1:
                widest.append(int(np.bincount(number[level - 1][begins]).max()))
        offset = (0, vocabulary)
        for level in range(1, levels - 1):
            offset += (offset[-1] + int(number[level][-1]) + 1,)
        parent = np.concatenate([p + offset[level] for level, p in enumerate(parents, start=1)])
        follower = np.concatenate([offset[level] + np.arange(len(t), dtype=np.int32) for level, t in enumerate(tokens, start=2)])
        start = np.concatenate([[0], np.cumsum(np.bincount(parent, minlength=offset[-1]))]).astype(np.int32)
        exists, state = np.zeros((vocabulary, vocabulary), dtype=bool), np.zeros((vocabulary, vocabulary), dtype=np.int32)
        head = ordered[:, 0].astype(np.int64), ordered[:, 1].astype(np.int64)
        exists[head], state[head] = True, offset[1] + number[1]
        return cls(*(torch.from_numpy(a) for a in (np.concatenate(tokens), follower.astype(np.int32), start)), tuple(widest), offset,
                   *(torch.from_numpy(a) for a in (exists.any(1), exists, state)))

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.token, self.follower, self.start, self.first, self.exists, self.state))

    def step(self, level: int, logits: Tensor, states: Tensor, scores: Tensor, history: Tensor,
             width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best `width` children of beams with states int64 [B, K] (at level 1: their token), scores [B, K] and tokens written,
        history [B, K, level]; logits [B * K, V] of what follows them.

        Returns (score [B, width], history [B, width, level + 1], state [B, width]); the state of a finished path doesn't name it.
        """
        logp = torch.log_softmax(logits, dim=1)
        nothing = torch.tensor(-torch.inf)
        rows = len(states)
        if level == 0:
            score, token = torch.where(self.first, logp, nothing).topk(width)
            return score, token[..., None], token
        flat = states.flatten()
        if level == 1:
            logp, token = torch.where(self.exists[flat], logp, nothing).topk(min(width, logp.shape[1]))
            follower = self.state[flat[:, None], token]
        else:
            begin, count = self.start[flat], self.start[flat + 1] - self.start[flat]
            place = torch.arange(self.widest[level])
            read = (begin[:, None] + place).clamp_max(len(self.token) - 1)
            token, follower = self.token[read].long(), self.follower[read]
            logp = torch.where(place < count[:, None], logp.gather(1, token), nothing)
        total = (scores.flatten()[:, None] + logp).view(rows, -1)
        score, index = total.topk(width)
        parent = (index // logp.shape[1])[..., None].expand(-1, -1, level)
        token = token.view(rows, -1).gather(1, index)[..., None]
        return score, torch.cat([history.gather(1, parent), token], dim=2), follower.view(rows, -1).gather(1, index)
