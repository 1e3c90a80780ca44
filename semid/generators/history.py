"""How generators read a history: one vector an item, then a causal model over them. Whatever writes codes comes after it.

Axes: B rows, S positions, D width, L levels, N items, F content width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from semid.errors import ConfigError
from semid.generators import compiled
from semid.nn.dropout import Dropout
from semid.nn.hstu import next_times
from semid.nn.linear import Linear
from semid.nn.transformer import Block, CausalTransformer, check_length, last_state
from semid.types import DAY, Batch, SemanticIds

GAPS = 12
"""Buckets of days between two events: 0 for the same day, then one per doubling."""


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


class HistoryReader(nn.Module):
    """The part of a generator that reads: `ItemInput`, days between events, and a causal transformer.

    A subclass sets `codes`, integer [N, L]: the codes of every item.
    start, content: see `ItemInput`. temporal: another model of histories, called with (vectors [B, S, D], time, length, request)
    as `nn.hstu.HSTU` is; it replaces the transformer that layers, heads, feedforward and max_length describe.
    has_time_gaps: the model also reads how many days passed before each event; has_request_gap: and how many between the last event and
    the request, in training the event to come: a vector of its own is added to what the history left.
    """

    codes: Tensor
    offset: Tensor

    def __init__(self, ids: SemanticIds, *, width: int, layers: int, heads: int, feedforward: int, dropout: float, max_length: int,
                 start: Tensor | None, content: Tensor | None, temporal: nn.Module | None, has_time_gaps: bool,
                 has_request_gap: bool = False):
        super().__init__()
        if temporal is None and layers < 1:
            raise ConfigError(f"setting layers: want at least 1, got {layers}")
        self.sizes = ids.sizes
        self._arrays: Weights | None = None
        self.input = ItemInput(ids, width, start=start, content=content)
        self.gap = nn.Embedding(GAPS, width) if has_time_gaps else None
        if self.gap is not None:
            nn.init.normal_(self.gap.weight, std=0.02)
        self.wait = nn.Embedding.from_pretrained(torch.zeros(GAPS, width), freeze=False) if has_request_gap else None
        self.temporal = temporal or CausalTransformer(width, layers=layers, heads=heads, feedforward=feedforward, dropout=dropout,
                                                      max_length=max_length)
        self.register_buffer("offset", torch.tensor(np.concatenate([[0], np.cumsum(ids.sizes)[:-1]])), persistent=False)

    def states(self, batch: Batch) -> Tensor:
        """Return [B, S, D]: what is known of the user after each position, when the next one comes."""
        states = self.temporal(self.inputs(batch), batch.time, batch.length, batch.request)
        if self.wait is None:
            return states
        return states + self.wait(gap_bucket(next_times(batch.time, batch.length, batch.request) - batch.time))

    def inputs(self, batch: Batch) -> Tensor:
        """Return [B, S, D]: the input of the temporal model."""
        tokens = self.codes[batch.item.clamp_min(0)].long() + self.offset
        x = self.input(batch.item, tokens)
        if self.gap is not None:
            x = x + self.gap(gap_bucket(gaps(batch.time)))
        return x

    def user(self, batch: Batch) -> Tensor:
        """Return float32 [B, D]: the state after each history at the time of the request."""
        left = self.left(batch)
        return left if self.wait is None else left + self.wait(gap_bucket(batch.waited))

    def left(self, batch: Batch) -> Tensor:
        """Return float32 [B, D]: what each history left, whenever asked; `batch.extra["state"]` where somebody read it before."""
        if "state" in batch.extra:
            return batch.extra["state"]
        if not isinstance(self.temporal, CausalTransformer):
            return last_state(self.temporal(self.inputs(batch), batch.time, batch.length, batch.request), batch.length).float()
        if self._is_compiled():
            check_length(batch.item.shape[1], self.temporal.position.num_embeddings)
            return self._read_compiled(batch)
        return self.temporal.last(self.inputs(batch), batch.length).float()

    def _is_compiled(self) -> bool:
        """Does inference run as compiled loops? Where plain float32 on a CPU is all that is asked for."""
        return (self.offset.device.type == "cpu" and self.input.code.weight.dtype == torch.float32 and not self.training
                and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"))

    def weights(self) -> Weights:
        """The weights' memory, looked up once; anew after a move or in another mode. Changes in place are seen."""
        if self._arrays is None or self._arrays.address != self._arrays.first.data_ptr():
            self._arrays = self._look_up()
        return self._arrays

    def _look_up(self) -> Weights:
        pair = lambda layer: (array(layer.weight), array(layer.bias))
        table = lambda layer: np.empty((0, self.input.code.embedding_dim), np.float32) if layer is None else array(layer.weight)
        first = self.input.code.weight
        if not isinstance(self.temporal, CausalTransformer):
            return Weights(first, first.data_ptr())
        blocks = cast("list[Block]", list(self.temporal.blocks))
        read = (array(self.offset), table(self.input.code), table(self.input.item), table(self.gap),
                table(self.temporal.position), np.float32(self.input.scale),
                tuple((pair(b.norm1), pair(b.attention.qkv), pair(b.attention.out), pair(b.norm2), pair(b.feedforward[0]),
                       pair(b.feedforward[3])) for b in blocks), pair(self.temporal.norm), blocks[0].attention.heads)
        return Weights(first, first.data_ptr(), read)

    def _read_compiled(self, batch: Batch) -> Tensor:
        """Return what `left` does."""
        inputs = self.input
        content = torch.empty(0, 0, inputs.code.embedding_dim)
        if inputs.project is not None and inputs.content is not None:
            content = inputs.project(inputs.content[batch.item.clamp_min(0)])
        return torch.from_numpy(compiled.read(batch.item.numpy(), batch.time.numpy(), batch.length.numpy(), self.codes.numpy(),
                                              content.numpy(), *self.weights().read))

    def _apply(self, fn, recurse=True):
        self._arrays = None
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True):
        self._arrays = None
        return super().train(mode)

    def __getstate__(self) -> dict:
        """For copies and pickles: a copy has weights of its own."""
        return {**self.__dict__, "_arrays": None}


@dataclass(frozen=True)
class Weights:
    """Arguments of the compiled loops that are weights.

    first: a parameter, and address: where it lay when the others were looked up. read: of `compiled.read`, empty where histories are
    read by another temporal model than the transformer. choose, prefix: of the two-level generator's steps, one a level.
    """

    first: Tensor
    address: int
    read: tuple = ()
    choose: tuple[tuple, ...] = ()
    prefix: tuple[np.ndarray, ...] = ()


def array(tensor: Tensor) -> np.ndarray:
    """A tensor's memory as an array, on the CPU."""
    return tensor.detach().numpy()


def gaps(time: Tensor) -> Tensor:
    """Return int64 [B, S]: the seconds since the event before, 0 at the first."""
    return torch.cat([torch.zeros_like(time[:, :1]), time[:, 1:] - time[:, :-1]], dim=1)


def gap_bucket(seconds: Tensor) -> Tensor:
    """Bucket whole days: 0 = less than one, 1 = 1 day, 2 = 2-3 days, 3 = 4-7 ... int64 < GAPS."""
    days = seconds.clamp_min(0) // DAY
    return (days.double() + 0.5).log2().floor().long().add(1).clamp(0, GAPS - 1)
