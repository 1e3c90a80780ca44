"""Two-level generator: a causal model over items, and a small decoder that writes the codes of the next one.

The temporal model reads one vector per history item, so its sequence is L times shorter than flattened codes and all
positions train in one pass. A beam costs L steps of the small depth decoder alone; the history is read once.

The decoder predicts along the code tree: at each node it chooses among the children that exist, so no probability is spent
on codes no item has, and a forced code costs nothing. A child's logit is `hidden . (code vector + node vector)`: the code's
vector is shared by all nodes with that code, the node's is its own and starts at zero. Shared vectors generalise,
own vectors remember; on Amazon Beauty the first rule was worth 12 % of validation NDCG@10 and the second another 13 %
(dev/LOG.md). A node without a vector of its own (a new item's) falls back to the shared one.

Source: the two levels follow the depth transformer of RQ-Transformer (Lee et al., CVPR 2022, arXiv 2203.01941, section 3.2),
with an MLP for its transformer; the softmax over existing children is the hierarchical softmax of Morin and Bengio (2005).

Axes: B rows, S positions, D width, L levels, V codes in the widest level, M supervised positions, R beam rows, F content width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.errors import ConfigError
from semid.generators import compiled
from semid.generators.history import HistoryReader, Weights, array, gap_bucket, gaps
from semid.nn.dropout import Dropout
from semid.nn.linear import Linear
from semid.nn.segment import segment_dot, segments
from semid.nn.transformer import Block, CausalTransformer, Kept, last_state
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds


@dataclass(frozen=True)
class DepthState:
    """user float [B, D]; owner int64 [R], whose beam a row is; prefix float [R, D], the sum of the chosen codes' vectors;
    node int64 [R], the tree node reached (the root's number is 0); level: how many codes were chosen."""

    user: Tensor
    owner: Tensor
    prefix: Tensor
    node: Tensor
    level: int

    def select(self, rows: Tensor) -> DepthState:
        return replace(self, owner=self.owner[rows], prefix=self.prefix[rows], node=self.node[rows])


class TwoLevel(HistoryReader):
    """Causal transformer over item vectors, then per level a choice among the node's children.

    hidden = norm(user + prefix + mlp([user, prefix])). ids: codes of N items, "sequence" order, no padding.
    start, content, temporal, has_time_gaps, has_request_gap: see `HistoryReader`.
    has_node_vectors: off leaves only the shared code vectors. tree: of `ids`, where it is built already.
    """

    def __init__(self, ids: SemanticIds, *, width: int = 128, layers: int = 2, heads: int = 2, feedforward: int = 256,
                 dropout: float = 0.4, max_length: int = 50, start: Tensor | None = None, content: Tensor | None = None,
                 temporal: nn.Module | None = None, has_time_gaps: bool = True, has_request_gap: bool = False,
                 has_node_vectors: bool = True, tree: CodeTree | None = None):
        if (ids.codes < 0).any():
            raise ConfigError("two-level generator: want codes of one length, got padded codes; use a collision policy without suffixes")
        super().__init__(ids, width=width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout, max_length=max_length,
                         start=start, content=content, temporal=temporal, has_time_gaps=has_time_gaps, has_request_gap=has_request_gap)
        self.tree = CodeTree.build(ids) if tree is None else tree
        self.codes = self.tree.codes
        self.depth = nn.ModuleList(
            nn.Sequential(Linear(2 * width, 2 * width), nn.GELU(), Dropout(dropout), nn.Linear(2 * width, width))
            for _ in ids.sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in ids.sizes)
        self.code = nn.ParameterList(nn.Parameter(torch.randn(size, width) * 0.02) for size in ids.sizes)
        # Level 0 has one node a code: a vector of its own would be the code's once more.
        self.node = nn.ParameterList(nn.Parameter(torch.zeros(self.tree.num_nodes(level), width))
                                     for level in range(1, ids.levels) if has_node_vectors)
        self.prefix = nn.Embedding(sum(ids.sizes), width)
        nn.init.normal_(self.prefix.weight, std=0.02)

    @property
    def transformer(self) -> CausalTransformer:
        """The temporal model, where it is the one that can keep keys and values and take in new items."""
        if not isinstance(self.temporal, CausalTransformer):
            raise ConfigError(f"two-level generator: want the transformer for kept states and new items, "
                              f"got {type(self.temporal).__name__}")
        return self.temporal

    def with_items(self, ids: SemanticIds, tree: CodeTree, content: Tensor) -> TwoLevel:
        """Return a generator, for evaluation, of this one's items and more; weights that don't grow are shared.

        ids: the codes of the old items, then of the new ones; tree: theirs; content: float32 [new, F], what `content` holds
        of the old ones. New items and new nodes have zero vectors of their own: they are scored and read by the shared ones.
        """
        block = cast("Block", self.transformer.blocks[0])
        state = self.state_dict()
        grow = lambda table, rows: torch.cat([table, table.new_zeros(rows, table.shape[1])])
        start, known = None, len(self.tree)
        if self.input.item is not None:
            start = state["input.item.weight"] = grow(state["input.item.weight"], len(ids) - known)
        if self.input.content is not None:
            state["input.content"] = torch.cat([state["input.content"], content.to(self.offset.device)])
        for level in range(1, len(self.node) + 1):
            own = state[f"node.{level - 1}"]
            state[f"node.{level - 1}"] = own.new_zeros(tree.num_nodes(level), own.shape[1]).index_copy(
                0, self.tree.renumbered(level, tree), own)
        grown = TwoLevel(ids, width=self.transformer.position.embedding_dim, layers=len(self.transformer.blocks),
                         heads=block.attention.heads, feedforward=cast("nn.Linear", block.feedforward[0]).out_features,
                         max_length=self.transformer.position.num_embeddings, start=start, content=state.get("input.content"),
                         has_time_gaps=self.gap is not None, has_request_gap=self.wait is not None,
                         has_node_vectors=len(self.node) > 0, tree=tree)
        grown.load_state_dict(state, assign=True)
        return grown.to(self.offset.device).eval().requires_grad_(False)

    def _apply(self, fn, recurse=True):
        """Move the tree along with the weights."""
        super()._apply(fn, recurse)
        self.tree = self.tree.to(self.offset.device)
        self.codes = self.tree.codes
        return self

    def level_logits(self, level: int, user: Tensor, prefix: Tensor, node: Tensor) -> Tensor:
        """Return float32 [M, V]: logits of the children of `node` int64 [M] (level - 1), -inf for codes no child has."""
        hidden = self.norms[level](user + prefix + self.depth[level](torch.cat([user, prefix], dim=-1)))
        shared = (hidden @ self.code[level].T.to(hidden.dtype)).float()  # [M, sizes[level]]
        if level == 0:  # all rows stand at the root: no need to list its children for each
            exists = torch.zeros(max(self.sizes), dtype=torch.bool, device=node.device)
            exists[self.tree.code[0].long()] = True
            return F.pad(shared, (0, max(self.sizes) - shared.shape[1])).masked_fill(~exists, -torch.inf)
        lo, hi = self.tree.children(level, node)
        row, child = segments(lo, hi)
        code = self.tree.code[level][child].long()
        logit = shared[row, code]
        if len(self.node):
            logit = logit + segment_dot(hidden, self.node[level - 1], lo, hi)
        out = torch.full((len(node) * max(self.sizes),), -torch.inf, device=node.device)
        return out.scatter(0, row * max(self.sizes) + code, logit).view(len(node), -1)

    def logits(self, batch: Batch) -> Tensor:
        """Return float32 [M, L, V], teacher forced; -inf for codes that don't exist under the true prefix."""
        where = torch.nonzero(batch.target.flatten() >= 0).squeeze(1)
        user = self.states(batch).flatten(0, 1)[where]
        codes = self.tree.codes[batch.target.flatten()[where]].long()  # [M, L]
        nodes = torch.cat([torch.zeros_like(codes[:, :1]), self.tree.node_of(codes)], dim=1)
        out, prefix = [], torch.zeros_like(user)
        for level in range(len(self.sizes)):
            out.append(self.level_logits(level, user, prefix, nodes[:, level]))
            prefix = prefix + self.prefix(codes[:, level] + self.offset[level])
        return torch.stack(out, dim=1)

    def read(self, batch: Batch, kept: Kept | None = None) -> tuple[Tensor, Kept]:
        """Return (what each history left, float32 [B, D], for `batch.extra["state"]`; its keys and values).

        kept: of the first items of these same histories, fewer than all; only what follows is read. The state equals that of
        `start` without it, to rounding. A history longer than the model's longest has to be cut from the left: read it anew.
        """
        kept = self.transformer.nothing(len(batch)) if kept is None else kept
        new = (batch.length - kept.length).clamp_min(1)  # an empty history has a state too
        position = kept.length[:, None] + torch.arange(int(new.max()), device=new.device)  # [B, M]
        position = position.clamp_max(batch.item.shape[1] - 1)
        item = batch.item.gather(1, position)
        x = self.input(item, self.tree.codes[item.clamp_min(0)].long() + self.offset)
        if self.gap is not None:
            x = x + self.gap(gap_bucket(gaps(batch.time)).gather(1, position))
        states, kept = self.transformer.extend(x, kept)
        return last_state(states, new).float(), replace(kept, length=batch.length)

    def start(self, batch: Batch) -> DepthState:
        user = self.user(batch)
        rows = torch.arange(len(user), device=user.device)
        return DepthState(user, rows, torch.zeros_like(user), torch.zeros_like(rows), 0)

    def step(self, state: DepthState, codes: Tensor | None) -> tuple[Tensor, DepthState]:
        if self._is_compiled():
            return self._step_compiled(state, codes)
        if codes is not None:
            level = state.level
            prefix = state.prefix + self.prefix(codes + self.offset[level])
            node = self.tree.child(level, state.node, codes).clamp_min(0)  # dead beams carry any code; their score is -inf
            state = replace(state, prefix=prefix, node=node, level=level + 1)
        return self.level_logits(state.level, state.user[state.owner], state.prefix, state.node), state

    def _is_compiled(self) -> bool:
        """As for every reader, and no layer is quantised."""
        return super()._is_compiled() and isinstance(cast("nn.Sequential", self.depth[0])[0], nn.Linear)

    def _look_up(self) -> Weights:
        pair = lambda layer: (array(layer.weight), array(layer.bias))
        none = np.empty((0, self.prefix.embedding_dim), np.float32)
        own = [none, *(array(node) for node in self.node)] if len(self.node) else [none] * len(self.sizes)
        depth = cast("list[nn.Sequential]", list(self.depth))
        choose = tuple((pair(d[0]), pair(d[3]), pair(norm), array(code), nodes)
                       for d, norm, code, nodes in zip(depth, self.norms, self.code, own, strict=True))
        prefix = np.split(array(self.prefix.weight), np.cumsum(self.sizes)[:-1])
        return replace(super()._look_up(), choose=choose, prefix=tuple(prefix))

    def _step_compiled(self, state: DepthState, codes: Tensor | None) -> tuple[Tensor, DepthState]:
        """Return what `step` does."""
        weights = self.weights()
        user, owner, node, prefix = (t.numpy() for t in (state.user, state.owner, state.node, state.prefix))
        level = state.level
        if codes is not None:
            node, prefix = node.copy(), prefix.copy()
            code, first, _, _ = self.tree.arrays[level]
            compiled.enter(code, first, weights.prefix[level], node, codes.numpy(), prefix)
            level += 1
        code, first, _, _ = self.tree.arrays[level]
        logits = compiled.choose(code, first, node, user, owner, prefix, max(self.sizes), *weights.choose[level])
        return torch.from_numpy(logits), DepthState(state.user, state.owner, torch.from_numpy(prefix), torch.from_numpy(node), level)
