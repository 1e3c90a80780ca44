"""The code tree: the catalogue sorted by code *is* the trie.

Items are sorted lexicographically by their codes, items of equal codes by row. A node of level l stands for the items
that share their first l + 1 codes, an interval [begin, end) of that order; its children are an interval of the nodes
of the next level. Four rules hold everywhere:

1. Nodes of a level are numbered in sorted order, so `begin` and `first` rise and siblings' codes never fall.
2. The nodes of the last level are the items themselves, in sorted order: `begin` is the identity there and not stored,
   and items that share all codes are siblings with equal codes. Above the last level siblings have distinct codes.
3. A path shorter than L levels continues through padding children (code -1), the first among their siblings.
   Padding is no prediction: it has log-probability 0 and takes no part in normalisation.
4. The root is the one node of level -1.

Memory: 4 bytes an item for the order, and for each node 1 byte (2 or 4 where codes need them) for its code, 4 for its
first child and, above the last two levels, 4 for its interval: 10.4 bytes an item for a million items of 4 x 256 random codes.
The code table the tree was built from is kept by reference.

Axes: N items, L levels, V codes in the widest level, M rows, n(l) nodes of level l.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from semid.errors import ConfigError, DataError
from semid.types import SemanticIds


@dataclass(frozen=True)
class Constraint:
    """Which items may be returned. cum: per level, int32 [n(l) + 1], how many allowed items stand before node i.

    A node is alive iff cum[level][node + 1] > cum[level][node]: the prefix sums of the sorted order, read where nodes
    begin, so that siblings lie side by side.
    """

    cum: tuple[Tensor, ...]


@dataclass(frozen=True)
class CodeTree:
    """The trie over the codes of N items. Build it with `CodeTree.build`; tensors may live on any device.

    order int32 [N]: item row at each sorted position.
    code: per level, integer [n(l)], the code of each node (-1 = padding).
    first: per level, int32 [n(l-1) + 1]: the children of node i of level l-1 are nodes first[l][i] .. first[l][i+1] of level l.
    begin: per level but the last, int32 [n(l) + 1]: node i of level l holds the sorted positions begin[l][i] .. begin[l][i+1].
    codes: integer [N, L], the code table in item order. sizes: L ints.
    """

    order: Tensor
    code: tuple[Tensor, ...]
    first: tuple[Tensor, ...]
    begin: tuple[Tensor, ...]
    codes: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def build(cls, ids: SemanticIds) -> CodeTree:
        """Sort the items by code. O(N L); 0.25 s for a million items."""
        if len(ids) == 0:
            raise DataError("code tree: want at least one item, got none; build it from the catalogue's codes")
        if ids.order != "sequence":
            raise DataError(f"code tree: want codes of order 'sequence', got {ids.order!r}; sets have no paths")
        narrow = _narrowest(ids.codes)
        order = np.lexsort([np.ascontiguousarray(ids.codes[:, level], dtype=narrow) for level in reversed(range(ids.levels))])
        return cls._of_order(order, ids)

    @classmethod
    def _of_order(cls, order: np.ndarray, ids: SemanticIds) -> CodeTree:
        """Find the nodes of items that are sorted already. O(N L)."""
        n, levels = ids.codes.shape
        narrow = _narrowest(ids.codes)
        starts = np.zeros(n, dtype=bool)  # where a node of the current level begins
        starts[0] = True
        code, first, begin = [], [], [np.array([0, n], dtype=np.int32)]
        for level in range(levels):
            column = ids.codes[order, level].astype(narrow)
            if level < levels - 1:
                starts[1:] |= column[1:] != column[:-1]
                begin.append(np.append(np.flatnonzero(starts), n).astype(np.int32))
                code.append(column[begin[-1][:-1]])
                first.append(np.searchsorted(begin[-1], begin[-2]).astype(np.int32))
            else:
                code.append(column)
                first.append(begin[-1])
        tensors = lambda arrays: tuple(torch.from_numpy(array) for array in arrays)
        return cls(order=torch.from_numpy(order.astype(np.int32)), code=tensors(code), first=tensors(first),
                   begin=tensors(begin[1:]), codes=torch.from_numpy(ids.codes), sizes=ids.sizes)

    def insert(self, ids: SemanticIds) -> CodeTree:
        """Return the tree of more items, equal to `build(ids)`. ids: this tree's items, as they are, then the new ones.

        The new items are sorted alone and merged in: one search each, then O(N L) without a sort. This tree stays as it is.
        """
        known = len(self)
        assert ids.sizes == self.sizes, "new items have the levels of the old ones"
        new = ids.codes[known:]
        rows = known + np.lexsort([new[:, level] for level in reversed(range(self.levels))])
        place = self._place_of(torch.from_numpy(ids.codes[rows]).to(self.device)).cpu().numpy()
        order = np.insert(self.order.cpu().numpy(), place, rows)
        return self._of_order(order, ids).to(self.device)

    def _place_of(self, codes: Tensor) -> Tensor:
        """Return int64 [M] in [0, N]: the sorted positions before which items of new codes [M, L] belong, behind their equals."""
        node = torch.zeros(len(codes), dtype=torch.int64, device=self.device)
        place = torch.full_like(node, -1)  # unknown until a code differs
        for level in range(self.levels):
            lo, hi = self.children(level, node)
            is_last = level == self.levels - 1
            found = _lower_bound(self.code[level], lo, hi, codes[:, level].long() + is_last)
            node = found.clamp_max(self.num_nodes(level) - 1)
            differs = (found == hi) | (self.code[level][node] != codes[:, level])
            begin = found if is_last else self.begin[level][found].long()
            place = torch.where((place < 0) & (differs | is_last), begin, place)
        return place

    def renumbered(self, level: int, other: CodeTree) -> Tensor:
        """Return int64 [n(level)]: the number in `other`, a tree of these items and more, of each of this tree's nodes."""
        first, _ = self.interval(level, torch.arange(self.num_nodes(level), device=self.device))
        position = torch.empty(len(other), dtype=torch.int64, device=self.device)
        position[other.order.long()] = torch.arange(len(other), device=self.device)
        position = position[self.order[first].long()]
        if level == self.levels - 1:
            return position
        return torch.searchsorted(other.begin[level], position.int(), right=True) - 1

    def __len__(self) -> int:
        return len(self.order)

    @property
    def levels(self) -> int:
        return len(self.sizes)

    @property
    def device(self) -> torch.device:
        return self.order.device

    @property
    def nbytes(self) -> int:
        """Bytes of the tree, without the code table."""
        tensors = {t.data_ptr(): t.nbytes for t in (self.order, *self.code, *self.first, *self.begin)}
        return sum(tensors.values())

    @cached_property
    def arrays(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """For compiled code, of a tree on the CPU: per level (code, first, begin, order), the same memory.

        begin is empty at the last level, order above it.
        """
        empty = np.empty(0, dtype=np.int32)
        begin = [*(begin.numpy() for begin in self.begin), empty]
        order = [*(empty for _ in self.begin), self.order.numpy()]
        return [(code.numpy(), first.numpy(), begin[level], order[level])
                for level, (code, first) in enumerate(zip(self.code, self.first))]

    def num_nodes(self, level: int) -> int:
        """How many nodes a level has; at the last one N, since every item is a node there."""
        return len(self.code[level])

    def to(self, device: torch.device | str) -> CodeTree:
        """Return the tree on another device."""
        move = lambda tensors: tuple(t.to(device) for t in tensors)
        return replace(self, order=self.order.to(device), code=move(self.code), first=move(self.first),
                       begin=move(self.begin), codes=self.codes.to(device))

    def allow(self, mask: np.ndarray | Tensor) -> Constraint:
        """Turn a mask over items (bool [N], item order) into a constraint. O(N), once per rule; O(1) per node afterwards."""
        mask = torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask
        if mask.dtype != torch.bool or mask.shape != (len(self),):
            raise ConfigError(f"allowed items: want a bool mask of {len(self)} items, got {mask.dtype} {tuple(mask.shape)}")
        cum = torch.zeros(len(self) + 1, dtype=torch.int32, device=self.device)
        torch.cumsum(mask.to(self.device).index_select(0, self.order), 0, dtype=torch.int32, out=cum[1:])
        return Constraint((*(cum.index_select(0, begin) for begin in self.begin), cum))

    def children(self, level: int, node: Tensor) -> tuple[Tensor, Tensor]:
        """Return (lo, hi) int64: the children of nodes of level - 1 are the nodes lo .. hi of `level`. Node 0 is the root."""
        return self.first[level][node].long(), self.first[level][node + 1].long()

    def interval(self, level: int, node: Tensor) -> tuple[Tensor, Tensor]:
        """Return (begin, end) int64: the sorted positions that nodes of `level` hold."""
        if level == self.levels - 1:
            return node, node + 1
        return self.begin[level][node].long(), self.begin[level][node + 1].long()

    def node_of(self, codes: Tensor) -> Tensor:
        """Return int64 [M, l]: the node of each prefix of `codes` int [M, l], -1 where no item has that prefix.

        At the last level: the first of the items with these codes (the lowest row).
        """
        node = torch.zeros(len(codes), dtype=torch.int64, device=self.device)
        known = torch.ones_like(node, dtype=torch.bool)
        nodes = []
        for level in range(codes.shape[1]):
            found = self.child(level, node, codes[:, level])
            known &= found >= 0
            node = torch.where(known, found, 0)
            nodes.append(torch.where(known, found, -1))
        return torch.stack(nodes, dim=1)

    def child(self, level: int, node: Tensor, code: Tensor) -> Tensor:
        """Return int64 [M]: the child in `level` of nodes [M] of level - 1 with the given codes [M]; -1 where there is none."""
        lo, hi = self.children(level, node)
        found = _lower_bound(self.code[level], lo, hi, code)
        known = (found < hi) & (self.code[level][found.clamp_max(self.num_nodes(level) - 1)] == code)
        return torch.where(known, found, -1)

    def position_of(self, items: Tensor) -> Tensor:
        """Return int64 [M]: the sorted position of item rows, by walking down their codes."""
        lo = self.node_of(self.codes[items])[:, -1]
        # Items of equal codes are siblings, sorted by row; the rest of the siblings to the right have higher codes.
        parent = torch.searchsorted(self.first[-1], lo.int(), right=True) - 1
        last = self.codes[items, -1].long()
        hi = _lower_bound(self.code[-1], lo, self.first[-1][parent + 1].long(), last + 1)
        return _lower_bound(self.order, lo, hi, items)

    def child_mask(self, codes: Tensor) -> Tensor:
        """Return bool [M, L, V]: at level l, which codes exist under the prefix codes[:, :l]. For teacher forcing.

        codes int64 [M, L]. Padding is no code: a level whose true code is padding may have an all-False row, as has one
        whose prefix no item has; don't supervise there. O(children), written once.
        """
        m, width = len(codes), max(self.sizes)
        mask = torch.zeros(m, self.levels, width + 1, dtype=torch.bool, device=self.device)  # slot V takes the padding
        mask[:, 0] = torch.zeros_like(mask[0, 0]).index_fill(0, self.code[0].long(), True)  # the same for all: made once
        parents = self.node_of(codes[:, :-1]) if self.levels > 1 else codes[:, :0]
        for level in range(1, self.levels):
            row = torch.nonzero(parents[:, level - 1] >= 0).squeeze(1)
            lo, hi = self.children(level, parents[row, level - 1])
            count = hi - lo
            before = count.cumsum(0) - count
            child = torch.arange(int(count.sum()), device=self.device) + (lo - before).repeat_interleave(count)
            mask[row.repeat_interleave(count), level, self.code[level][child].long()] = True
        return mask[:, :, :width]


def _narrowest(codes: np.ndarray) -> type[np.generic]:
    """Return the smallest integer type for codes of which -1 is padding."""
    for dtype in (np.uint8, np.int16):
        if np.iinfo(dtype).min <= codes.min() and codes.max() <= np.iinfo(dtype).max:
            return dtype
    return np.int32


def _lower_bound(values: Tensor, lo: Tensor, hi: Tensor, wanted: Tensor) -> Tensor:
    """Return int64 [M]: per row the first position in [lo, hi) whose value is >= wanted, or hi. Values rise in [lo, hi)."""
    steps = int((hi - lo).max()).bit_length() if len(lo) else 0
    for _ in range(steps):
        middle = (lo + hi) >> 1
        right = (lo < hi) & (values[middle.clamp_max(len(values) - 1)] < wanted)
        lo, hi = torch.where(right, middle + 1, lo), torch.where(right, hi, middle)
    return lo
