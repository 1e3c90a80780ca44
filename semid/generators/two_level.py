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

from semid.errors import ConfigError
from semid.generators import compiled
from semid.nn.dropout import Dropout
from semid.nn.linear import Linear
from semid.nn.segment import segment_dot, segments
from semid.nn.transformer import Block, CausalTransformer, Kept, last_state
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds

GAPS = 12
"""Buckets of days between two events: 0 for the same day, then one per doubling."""


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


class ItemInput(nn.Module):
    """The vector of an item as the history shows it: id embedding + its codes' embeddings + projected content, times sqrt(D).

    The factor, which transformers have by custom (Vaswani et al. 2017, section 3.4), lets items outweigh positions from the first step
    and learn as fast as the rest (measured in dev/LOG.md).

    start: float32 [N, D] initial id embeddings, or None for no id part: the model then reads new items as well as old ones.
    content: float32 [N, F] or None.
    """

    content: Tensor | None

    def __init__(self, ids: SemanticIds, width: int, *, start: Tensor | None, content: Tensor | None, content_dropout: float = 0.2):
        super().__init__()
        self.item = None if start is None else nn.Embedding.from_pretrained(start.clone(), freeze=False)
        self.code = nn.Embedding(sum(ids.sizes), width)
        nn.init.normal_(self.code.weight, std=0.02)
        self.project = None if content is None else Linear(content.shape[1], width)
        self.register_buffer("content", content)
        self.dropout = Dropout(content_dropout)
        self.scale = width**0.5

    def forward(self, item: Tensor, tokens: Tensor) -> Tensor:
        """item int64 [B, S], tokens int64 [B, S, L] -> [B, S, D], zero where item is -1: an empty history has read nothing."""
        is_none, item = item[..., None] < 0, item.clamp_min(0)
        total = self.code(tokens).sum(-2)
        if self.item is not None:
            total = total + self.item(item)
        if self.project is not None and self.content is not None:
            distinct, slot = item.unique(return_inverse=True)  # F is several times D: project each item of the batch once
            total = total + nn.functional.embedding(slot, self.project(self.dropout(self.content[distinct])))
        return (total * self.scale).masked_fill(is_none, 0.0)


class TwoLevel(nn.Module):
    """Causal transformer over item vectors, then per level a choice among the node's children.

    hidden = norm(user + prefix + mlp([user, prefix])). ids: codes of N items, "sequence" order, no padding.
    start, content: see `ItemInput`. temporal: another model of histories, called with (vectors [B, S, D], time, length, request)
    as `nn.hstu.HSTU` is; it replaces the transformer that layers, heads, feedforward and max_length describe.
    has_time_gaps: the model also reads how many days passed before each event.
    has_node_vectors: off leaves only the shared code vectors. tree: of `ids`, where it is built already.
    """

    offset: Tensor

    def __init__(self, ids: SemanticIds, *, width: int = 128, layers: int = 2, heads: int = 2, feedforward: int = 256,
                 dropout: float = 0.4, max_length: int = 50, start: Tensor | None = None, content: Tensor | None = None,
                 temporal: nn.Module | None = None, has_time_gaps: bool = True, has_node_vectors: bool = True,
                 tree: CodeTree | None = None):
        super().__init__()
        if (ids.codes < 0).any():
            raise ConfigError("two-level generator: want codes of one length, got padded codes; use a collision policy without suffixes")
        self.sizes = ids.sizes
        self._arrays: Weights | None = None
        self.tree = CodeTree.build(ids) if tree is None else tree
        self.input = ItemInput(ids, width, start=start, content=content)
        self.gap = nn.Embedding(GAPS, width) if has_time_gaps else None
        if self.gap is not None:
            nn.init.normal_(self.gap.weight, std=0.02)
        self.temporal = temporal or CausalTransformer(width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout,
                                                      max_length=max_length)
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
        self.register_buffer("offset", torch.tensor(np.concatenate([[0], np.cumsum(ids.sizes)[:-1]])), persistent=False)

    @property
    def codes(self) -> Tensor:
        """Integer [N, L]: the codes of every item."""
        return self.tree.codes

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
                         has_time_gaps=self.gap is not None, has_node_vectors=len(self.node) > 0, tree=tree)
        grown.load_state_dict(state, assign=True)
        return grown.to(self.offset.device).eval().requires_grad_(False)

    def _apply(self, fn, recurse=True):
        """Move the tree along with the weights."""
        super()._apply(fn, recurse)
        self._arrays = None
        self.tree = self.tree.to(self.offset.device)
        return self

    def states(self, batch: Batch) -> Tensor:
        """Return [B, S, D]: what is known of the user after each position."""
        return self.temporal(self._read(batch), batch.time, batch.length, batch.request)

    def _read(self, batch: Batch) -> Tensor:
        """Return [B, S, D]: the input of the temporal model."""
        tokens = self.tree.codes[batch.item.clamp_min(0)].long() + self.offset
        x = self.input(batch.item, tokens)
        if self.gap is not None:
            x = x + self.gap(gap_bucket(batch.time))
        return x

    def level_logits(self, level: int, user: Tensor, prefix: Tensor, node: Tensor) -> Tensor:
        """Return float32 [M, V]: logits of the children of `node` int64 [M] (level - 1), -inf for codes no child has."""
        hidden = self.norms[level](user + prefix + self.depth[level](torch.cat([user, prefix], dim=-1)))
        shared = (hidden @ self.code[level].T.to(hidden.dtype)).float()  # [M, sizes[level]]
        lo, hi = self.tree.children(level, node)
        row, child = segments(lo, hi)
        code = self.tree.code[level][child].long()
        logit = shared[row, code]
        if level > 0 and len(self.node):
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
        """Return (the state after each history, float32 [B, D], for `batch.extra["state"]`; its keys and values).

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
            x = x + self.gap(gap_bucket(batch.time).gather(1, position))
        states, kept = self.transformer.extend(x, kept)
        return last_state(states, new).float(), replace(kept, length=batch.length)

    def start(self, batch: Batch) -> DepthState:
        if "state" in batch.extra:
            user = batch.extra["state"]
        elif not isinstance(self.temporal, CausalTransformer):
            user = last_state(self.states(batch), batch.length).float()
        elif self._is_compiled():
            user = self._read_compiled(batch)
        else:
            user = self.temporal.last(self._read(batch), batch.length).float()
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
        """Do `start` and `step` run as compiled loops? Where plain float32 on a CPU is all that is asked for, of layers that are not
        quantised."""
        is_float = isinstance(cast("nn.Sequential", self.depth[0])[0], nn.Linear)
        return (is_float and self.offset.device.type == "cpu" and self.prefix.weight.dtype == torch.float32 and not self.training
                and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"))

    def _weights(self) -> Weights:
        """The weights' memory, looked up once; anew after a move or in another mode. Changes in place are seen."""
        if self._arrays is None or self._arrays.address != self._arrays.first.data_ptr():
            self._arrays = Weights.of(self)
        return self._arrays

    def train(self, mode: bool = True) -> TwoLevel:
        self._arrays = None
        return super().train(mode)

    def __getstate__(self) -> dict:
        """For copies and pickles: a copy has weights of its own."""
        return {**self.__dict__, "_arrays": None}

    def _read_compiled(self, batch: Batch) -> Tensor:
        """Return the users [B, D] of `start`."""
        inputs, weights = self.input, self._weights()
        content = torch.empty(0, 0, self.prefix.embedding_dim)
        if inputs.project is not None and inputs.content is not None:
            content = inputs.project(inputs.content[batch.item.clamp_min(0)])
        return torch.from_numpy(compiled.read(batch.item.numpy(), batch.time.numpy(), batch.length.numpy(), self.tree.codes.numpy(),
                                              content.numpy(), *weights.read))

    def _step_compiled(self, state: DepthState, codes: Tensor | None) -> tuple[Tensor, DepthState]:
        """Return what `step` does."""
        weights = self._weights()
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


@dataclass(frozen=True)
class Weights:
    """Arguments of the compiled loops that are weights: of `compiled.read`, and per level of `compiled.choose` and `compiled.enter`.

    first: a parameter, and address: where it lay when the others were looked up. read is empty where histories are read by
    another temporal model than the transformer.
    """

    first: Tensor
    address: int
    read: tuple
    choose: list[tuple]
    prefix: list[np.ndarray]

    @classmethod
    def of(cls, model: TwoLevel) -> Weights:
        pair = lambda layer: (array(layer.weight), array(layer.bias))
        table = lambda layer: np.empty((0, model.prefix.embedding_dim), np.float32) if layer is None else array(layer.weight)
        read = ()
        if isinstance(model.temporal, CausalTransformer):
            blocks = cast("list[Block]", list(model.temporal.blocks))
            read = (array(model.offset), table(model.input.code), table(model.input.item), table(model.gap),
                    table(model.temporal.position), np.float32(model.input.scale),
                    tuple((pair(b.norm1), pair(b.attention.qkv), pair(b.attention.out), pair(b.norm2), pair(b.feedforward[0]),
                           pair(b.feedforward[3])) for b in blocks), pair(model.temporal.norm), blocks[0].attention.heads)
        own = [table(None), *(array(node) for node in model.node)] if len(model.node) else [table(None)] * len(model.sizes)
        depth = cast("list[nn.Sequential]", list(model.depth))
        choose = [(pair(d[0]), pair(d[3]), pair(norm), array(code), nodes)
                  for d, norm, code, nodes in zip(depth, model.norms, model.code, own, strict=True)]
        prefix = np.split(table(model.prefix), np.cumsum(model.sizes)[:-1])
        return cls(model.prefix.weight, model.prefix.weight.data_ptr(), read, choose, prefix)


def array(tensor: Tensor) -> np.ndarray:
    """A tensor's memory as an array, on the CPU."""
    return tensor.detach().numpy()


def gap_bucket(time: Tensor) -> Tensor:
    """Bucket the days since the event before: 0 = first event or same day, 1 = 1 day, 2 = 2-3 days, 3 = 4-7 ... int64 [B, S] < GAPS."""
    days = torch.zeros_like(time)
    days[:, 1:] = (time[:, 1:] - time[:, :-1]).clamp_min(0) // 86_400
    return (days.double() + 0.5).log2().floor().long().add(1).clamp(0, GAPS - 1)
