"""HSTU: attention by SiLU instead of softmax, a gate instead of a feed-forward network, and a bias of distance and time.

Softmax shares one unit of weight among the history; SiLU keeps how much there is to say. The layers run over real tokens alone,
attention in pieces of queries that skip the masked half, and the buckets of time are computed once a batch for all layers. On a CPU
(`Packed`) rows of equal length attend together, with compiled loops for what lies between the products; on other devices (`Sliced`)
rows stand from long to short, so that those which reach a piece are one slice, and scores are computed again for the gradient:
memory grows with the length, not with its square (the buckets apart, a byte a pair). torch's FlexAttention always normalises by
softmax and cannot express this attention. `read` is the plain version.

Source: Zhai et al., ICML 2024, arXiv 2402.17152, equations 1 to 3 and section 3.4; bias, scaling and initialisation as in the
authors' code for public data. Deviations: (1) one head width for values and for queries and keys, as in all published
configurations; (2) the table of distances has only the half that causality leaves.

Axes: B rows, S positions, T tokens (positions that are no padding), D width, H heads, W width of a head, Q queries, K keys,
C candidates of a row, G rows of one length, N the longest sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from semid.nn.dropout import Dropout
from semid.nn.loop import loop
from semid.nn.transformer import check_length

EPS = 1e-6  # of every norm
BUCKETS = 129
PIECE = 128
"""Queries of a piece: scores of a few rows stay in the second-level cache, and the products are still large ones."""


def next_times(time: Tensor, length: Tensor, request: Tensor | None = None) -> Tensor:
    """Return int64 [B, S]: the time at which the item after each position is asked for, the next position's own.

    time int64 [B, S] seconds, length int64 [B], request int64 [B]: the time of the item after the last one; where it is not
    known, the last time is repeated.
    """
    asked = torch.cat([time[:, 1:], time[:, -1:]], dim=1)
    last = (length - 1).clamp_min(0)[:, None]
    return asked.scatter(1, last, time.gather(1, last) if request is None else request[:, None])


def time_bucket(asked: Tensor, time: Tensor) -> Tensor:
    """Bucket the seconds between asking and each key: floor(ln(max(1, |gap|)) / .301), at most 128.

    asked int64 [B, Q], time int64 [B, K] -> uint8 [B, Q, K]. A bucket is a factor of 1.35, so it is found among 128 edges.
    """
    edges = np.ceil(np.exp(0.301 * np.arange(1, BUCKETS))).astype(np.int64)
    if time.device.type == "cpu":
        out = torch.empty(*asked.shape, time.shape[1], dtype=torch.uint8)
        _time_buckets(asked.numpy(), time.numpy(), edges, out.numpy())
        return out
    return _time_buckets_of_torch(asked, time, torch.from_numpy(edges).to(time.device))


def _time_buckets_of_torch(asked: Tensor, time: Tensor, edges: Tensor) -> Tensor:
    return torch.bucketize((asked[:, :, None] - time[:, None, :]).abs(), edges, right=True).to(torch.uint8)


def silu_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, mask: Tensor, divisor: int) -> Tensor:
    """Return SiLU(query . key + bias) / divisor, times a 0/1 mask, times value: [B, H, Q, W].

    query [B, H, Q, W], key, value [B, H, K, W]; bias float and mask bool broadcast to [B, H, Q, K]. The divisor is a constant
    of the model, not the row's length. Masking comes after SiLU: -inf before it is NaN. Source: arXiv 2402.17152, equation 2.
    """
    weight = F.silu(query @ key.transpose(-1, -2) + bias) / divisor * mask
    return weight @ value


@dataclass(frozen=True)
class Kept:
    """What `HSTU.read` remembers of histories: key and value [B, H, S, W] a layer, time int64 [B, S], length int64 [B],
    request int64 [B], the time it was read for: the newest item's bias depends on it, so another time needs another reading."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    time: Tensor
    length: Tensor
    request: Tensor


class HSTUBlock(nn.Module):
    """x + out(gate * norm(attention)), where gate, value, query and key are one SiLU-activated projection of norm(x)."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float, max_length: int, *,
                 has_position_bias: bool = True, has_time_bias: bool = True):
        super().__init__()
        self.heads, self.head_width, self.max_length = heads, head_width, max_length
        self.project_in = nn.Parameter(torch.randn(width, 4 * heads * head_width) * 0.02)
        self.out = nn.Linear(heads * head_width, width)
        nn.init.xavier_uniform_(self.out.weight)
        self.distance = nn.Parameter(torch.randn(max_length) * 0.02) if has_position_bias else None
        self.clock = nn.Parameter(torch.randn(BUCKETS) * 0.02) if has_time_bias else None
        self.dropout = Dropout(dropout)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [..., D] -> gate [..., H * W]; value, query, key [..., H, W] (equation 1)."""
        gate, value, query, key = F.silu(F.layer_norm(x, x.shape[-1:], eps=EPS) @ self.project_in).chunk(4, dim=-1)
        heads = lambda part: part.unflatten(-1, (self.heads, self.head_width))
        return gate, heads(value), heads(query), heads(key)

    def finish(self, x: Tensor, gate: Tensor, mixed: Tensor) -> Tensor:
        """x [..., D], gate and mixed [..., H * W] -> [..., D] (equation 3)."""
        return x + self.out(self.dropout(gate * F.layer_norm(mixed, mixed.shape[-1:], eps=EPS)))

    def bias(self, distance: Tensor, bucket: Tensor | None) -> Tensor:
        """distance int64 [..., Q, K] in [0, N), bucket uint8 [B, Q, K] -> float that broadcasts to [B, H, Q, K]."""
        total = torch.zeros((), device=distance.device) if self.distance is None else self.distance[distance]
        if self.clock is not None and bucket is not None:
            total = total + F.embedding(bucket.long(), self.clock[:, None]).squeeze(-1)
        return total.unsqueeze(-3) if total.ndim == 3 else total


class HSTU(nn.Module):
    """Item vectors [B, S, D] to states [B, S, D]; state s has read positions 0..s and is 0 where there is no item.

    max_length: N, the longest sequence, candidates included; attention is divided by it, so it belongs to the weights.
    has_position_bias, has_time_bias: a table of 1 + distance and one of 129 buckets of time, of each layer, shared by its heads.
    """

    def __init__(self, width: int, *, layers: int, heads: int, head_width: int, dropout: float, max_length: int,
                 has_position_bias: bool = True, has_time_bias: bool = True):
        super().__init__()
        self.has_time_bias = has_time_bias
        self.position = nn.Embedding(max_length, width)
        spread = width**-0.5
        nn.init.trunc_normal_(self.position.weight, std=spread, a=-2 * spread, b=2 * spread)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(HSTUBlock(width, heads, head_width, dropout, max_length, has_position_bias=has_position_bias,
                                              has_time_bias=has_time_bias) for _ in range(layers))

    def forward(self, x: Tensor, time: Tensor, length: Tensor, request: Tensor | None = None) -> Tensor:
        """x [B, S, D] padded on the right; time, length, request as in `next_times` -> states [B, S, D]."""
        return self.over_tokens(Packed if x.device.type == "cpu" else Sliced, x, time, length, request)

    def over_tokens(self, layout: type[Packed | Sliced], x: Tensor, time: Tensor, length: Tensor, request: Tensor | None) -> Tensor:
        """`forward` in a layout of the real tokens; `Sliced` works on every device."""
        check_length(x.shape[1], self.position.num_embeddings)
        rows, width, _ = x.shape
        real = layout.of(length, time, next_times(time, length, request) if self.has_time_bias else None)
        tokens = self.embed(x.flatten(0, 1)[real.place], real.place % width)  # [T, D]
        for block in self._blocks:
            gate, value, query, key = block.project(tokens)
            tokens = block.finish(tokens, gate, real.attend(block, query, key, value).flatten(1))
        return tokens.new_zeros(rows * width, x.shape[2]).index_copy(0, real.place, tokens).view(rows, width, -1)

    def read(self, x: Tensor, time: Tensor, length: Tensor, request: Tensor | None = None) -> tuple[Tensor, Kept]:
        """`forward` in plain torch with padding, on any device, and the keys and values that `candidates` needs."""
        check_length(x.shape[1], self.position.num_embeddings)
        asked, place = next_times(time, length, request), torch.arange(x.shape[1], device=x.device)
        distance = place[:, None] - place
        causal, distance = distance >= 0, distance.clamp_min(0)
        bucket = time_bucket(asked, time) if self.has_time_bias else None
        is_real = (place < length[:, None])[..., None]  # [B, S, 1]
        x, keys, values = self.embed(x, place), [], []
        for block in self._blocks:
            gate, *parts = block.project(x)
            value, query, key = (part.transpose(1, 2) for part in parts)  # [B, H, S, W]
            mixed = silu_attention(query, key, value, block.bias(distance, bucket), causal, block.max_length)
            x = block.finish(x, gate, mixed.transpose(1, 2).flatten(2))
            keys.append(key)
            values.append(value)
        last = (length - 1).clamp_min(0)[:, None]
        return x * is_real, Kept(tuple(keys), tuple(values), time, length, asked.gather(1, last).squeeze(1))

    def candidates(self, x: Tensor, kept: Kept) -> Tensor:
        """Score many next items in one pass (M-FALCON): vectors x [B, C, D] -> states [B, C, D].

        Each candidate stands right after the history, at the time of the request, and sees the history and itself, not its
        siblings: the states equal those of C sequences with one candidate appended, for O(C S) instead of O(C S^2) a row. Give
        candidates in several calls where [B, H, C, S] scores are too many. Source: arXiv 2402.17152, section 3.4.
        """
        check_length(kept.time.shape[1] + 1, self.position.num_embeddings)
        place = torch.arange(kept.time.shape[1], device=x.device)
        distance = (kept.length[:, None] - place)[:, None, :]  # [B, 1, S]
        is_real, distance = (distance > 0)[:, None], distance.clamp_min(0)
        bucket = time_bucket(kept.request[:, None], kept.time) if self.has_time_bias else None
        itself = torch.zeros(1, 1, 1, dtype=torch.int64, device=x.device)  # no distance; no time passes either: bucket 0
        x = self.embed(x, kept.length[:, None])
        for block, old_key, old_value in zip(self._blocks, kept.keys, kept.values):
            gate, *parts = block.project(x)
            value, query, key = (part.transpose(1, 2) for part in parts)  # [B, H, C, W]
            mixed = silu_attention(query, old_key, old_value, block.bias(distance, bucket), is_real, block.max_length)
            own = (query * key).sum(-1, keepdim=True) + block.bias(itself, itself.to(torch.uint8))
            mixed = mixed + F.silu(own) / block.max_length * value
            x = block.finish(x, gate, mixed.transpose(1, 2).flatten(2))
        return x

    def embed(self, x: Tensor, place: Tensor) -> Tensor:
        """x [..., D], which the caller has scaled by sqrt(D), plus the vector of its place in the sequence."""
        return self.dropout(x + self.position(place))

    @property
    def _blocks(self) -> Sequence[HSTUBlock]:
        return cast("Sequence[HSTUBlock]", self.blocks)


@dataclass(frozen=True)
class Group:
    """Tokens begin .. begin + G S of the packed order: G rows of S tokens each. bucket: uint8 [G, PIECE, keys] a piece, or none."""

    begin: int
    rows: int
    length: int
    bucket: tuple[Tensor, ...]

    def split(self, tokens: Tensor) -> Tensor:
        """Return the group's [T, H, W] as [G, H, S, W]."""
        own = tokens[self.begin : self.begin + self.rows * self.length]
        return own.unflatten(0, (self.rows, self.length)).transpose(1, 2).contiguous()


@dataclass(frozen=True)
class Packed:
    """The real tokens of a batch, rows of equal length side by side. place int64 [T]: row * S + position of each token."""

    place: Tensor
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, length: Tensor, time: Tensor, asked: Tensor | None) -> Packed:
        """length int64 [B], time int64 [B, S], asked as of `next_times` or None where there is no bias of time."""
        order = length.argsort(stable=True)
        sizes, counts = length[order].unique_consecutive(return_counts=True)
        place, groups, begin = [], [], 0
        for size, rows in zip(sizes.tolist(), order.split(counts.tolist())):
            if size == 0:
                continue
            place.append((rows[:, None] * time.shape[1] + torch.arange(size)).flatten())
            bucket = () if asked is None else tuple(time_bucket(asked[rows, lo:hi], time[rows, :hi]) for lo, hi in pieces(size))
            groups.append(Group(begin, len(rows), size, bucket))
            begin += len(rows) * size
        return cls(torch.cat([torch.empty(0, dtype=torch.int64), *place]), tuple(groups))

    def attend(self, block: HSTUBlock, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal `silu_attention` of each row among its own tokens: [T, H, W] each -> [T, H, W]."""
        return cast(Tensor, _PackedAttention.apply(query, key, value, block.distance, block.clock, self, block.max_length))


@dataclass(frozen=True)
class Sliced:
    """The real tokens of a batch, rows from long to short. place int64 [T] as in `Packed`; home int64 [T]: the same with the rows in
    that order; shape: (B, S); rows: how many reach each piece; bucket: uint8 [rows, PIECE, keys] a piece, or none."""

    place: Tensor
    home: Tensor
    shape: tuple[int, int]
    rows: tuple[int, ...]
    bucket: tuple[Tensor, ...]

    @classmethod
    def of(cls, length: Tensor, time: Tensor, asked: Tensor | None) -> Sliced:
        """As `Packed.of`."""
        order, (batch, width) = length.argsort(descending=True), time.shape
        home = torch.nonzero((torch.arange(width, device=time.device) < length[order, None]).flatten()).squeeze(1)
        lengths, spans = length.tolist(), pieces(width)
        rows = tuple(sum(size > lo for size in lengths) for lo, _ in spans)
        bucket = () if asked is None else tuple(time_bucket(asked[order[:count], lo:hi], time[order[:count], :hi])
                                                for count, (lo, hi) in zip(rows, spans))
        return cls(order[home // width] * width + home % width, home, (batch, width), rows, bucket)

    def attend(self, block: HSTUBlock, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `Packed.attend`."""
        batch, width = self.shape
        padded = lambda part: part.new_zeros(batch * width, *part.shape[1:]).index_copy(0, self.home, part).unflatten(0, self.shape)
        q, k, v = (padded(part).transpose(1, 2) for part in (query, key, value))  # [B, H, S, W]
        mixed = torch.zeros_like(v)
        for number, (count, (lo, hi)) in enumerate(zip(self.rows, pieces(width))):
            if count:
                bucket = self.bucket[number] if self.bucket else None
                mixed[:count, :, lo:hi] = cast(Tensor, checkpoint(_piece, block, q[:count, :, lo:hi], k[:count, :, :hi], v[:count, :, :hi],
                                                                  bucket, use_reentrant=False, preserve_rng_state=False)).to(v.dtype)
        return mixed.transpose(1, 2).flatten(0, 1)[self.home]


def _piece(block: HSTUBlock, query: Tensor, key: Tensor, value: Tensor, bucket: Tensor | None) -> Tensor:
    """The last Q of K positions attend: query [G, H, Q, W], key and value [G, H, K, W], bucket uint8 [G, Q, K] -> [G, H, Q, W]."""
    place = torch.arange(key.shape[2], device=key.device)
    distance = place[-query.shape[2] :, None] - place
    return silu_attention(query, key, value, block.bias(distance.clamp_min(0), bucket), distance >= 0, block.max_length)


def pieces(length: int) -> list[tuple[int, int]]:
    """Return [lo, hi) of queries; those of a piece see the keys [0, hi)."""
    return [(lo, min(lo + PIECE, length)) for lo in range(0, length, PIECE)]


class _PackedAttention(torch.autograd.Function):
    """`silu_attention` with causal mask over the groups of a `Packed`, [T, H, W] each. Scores are computed again for the gradient.

    Products run in the type that comes in (bf16 under autocast), what lies between them in float32.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, distance: Tensor | None, clock: Tensor | None, packed: Packed,
                divisor: int) -> Tensor:
        ctx.save_for_backward(query, key, value, distance, clock)
        ctx.packed, ctx.divisor = packed, divisor
        out = torch.empty_like(value)
        with torch.autocast("cpu", enabled=False):
            for group in packed.groups:
                q, k, v = group.split(query), group.split(key), group.split(value)
                mixed = torch.empty_like(v)
                for number, (lo, hi) in enumerate(pieces(group.length)):
                    score = _scores(q, k, lo, hi, distance, clock, group.bucket[number] if group.bucket else None)
                    mixed[:, :, lo:hi] = F.silu(score, inplace=True).to(v.dtype) @ v[:, :, :hi]
                _put(out, group, mixed.div_(divisor))
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor):
        query, key, value, distance, clock = ctx.saved_tensors
        grad = grads[0] / ctx.divisor
        grad_query, grad_key, grad_value = (torch.empty_like(t) for t in (query, key, value))
        grad_distance = np.zeros(0 if distance is None else len(distance))  # from far to near
        grad_clock = np.zeros(0 if clock is None else len(clock))
        for group in ctx.packed.groups:
            q, k, v, g = (group.split(t) for t in (query, key, value, grad))
            gq, gk, gv = torch.empty_like(q), torch.zeros(k.shape), torch.zeros(v.shape)
            for number, (lo, hi) in enumerate(pieces(group.length)):
                bucket = group.bucket[number] if group.bucket else None
                score = _scores(q, k, lo, hi, distance, clock, bucket)
                slope = (g[:, :, lo:hi] @ v[:, :, :hi].transpose(-1, -2)).float()
                _slopes(score.numpy(), torch.sigmoid(score).numpy(), slope.numpy(), _buckets(bucket), lo, grad_distance, grad_clock)
                score, slope = score.to(v.dtype), slope.to(k.dtype)
                gq[:, :, lo:hi] = slope @ k[:, :, :hi]
                gk[:, :, :hi] += slope.transpose(-1, -2) @ q[:, :, lo:hi]
                gv[:, :, :hi] += score.transpose(-1, -2) @ g[:, :, lo:hi]
            for whole, part in ((grad_query, gq), (grad_key, gk), (grad_value, gv)):
                _put(whole, group, part)
        tables = [None if table is None else torch.from_numpy(total).to(table.dtype)
                  for table, total in ((distance, grad_distance[::-1].copy()), (clock, grad_clock))]
        return grad_query, grad_key, grad_value, *tables, None, None


def _put(tokens: Tensor, group: Group, part: Tensor) -> None:
    """Write [G, H, S, W] back into the packed [T, H, W]."""
    group_tokens = tokens[group.begin : group.begin + group.rows * group.length]
    group_tokens.unflatten(0, (group.rows, group.length)).copy_(part.transpose(1, 2))


def _scores(query: Tensor, key: Tensor, lo: int, hi: int, distance: Tensor | None, clock: Tensor | None,
            bucket: Tensor | None) -> Tensor:
    """Return float32 [G, H, hi - lo, hi]: query . key + bias before SiLU, 0 where the key is later than the query."""
    score = (query[:, :, lo:hi] @ key[:, :, :hi].transpose(-1, -2)).float()
    _add_bias(score.numpy(), _table(distance)[::-1].copy(), _table(clock), _buckets(bucket), lo)
    return score


def _table(table: Tensor | None) -> np.ndarray:
    return np.empty(0, np.float32) if table is None else table.detach().numpy()


def _buckets(bucket: Tensor | None) -> np.ndarray:
    return np.empty((0, 0, 0), np.uint8) if bucket is None else bucket.numpy()


@loop(fastmath=True)
def _add_bias(score, distance, clock, bucket, lo):
    for g in range(score.shape[0]):
        for h in range(score.shape[1]):
            for i in range(score.shape[2]):
                row, last = score[g, h, i], lo + i
                if len(distance):
                    nearest = distance[len(distance) - 1 - last :]  # the table runs from far to near, as keys do
                    for j in range(last + 1):
                        row[j] += nearest[j]
                if len(bucket):
                    times = bucket[g, i]
                    for j in range(last + 1):
                        row[j] += clock[times[j]]
                row[last + 1 :] = 0


@loop(fastmath=True)
def _slopes(score, sigmoid, slope, bucket, lo, grad_distance, grad_clock):
    """In place: score -> SiLU(score); slope, the gradient of SiLU -> that of the score; its sums over the bias tables are added."""
    total = np.empty(score.shape[3], dtype=np.float32)  # over heads, which share the tables
    for g in range(score.shape[0]):
        for i in range(score.shape[2]):
            last = lo + i
            total[: last + 1] = 0
            for h in range(score.shape[1]):
                x, s, d = score[g, h, i], sigmoid[g, h, i], slope[g, h, i]
                for j in range(last + 1):
                    d[j] *= s[j] * (1 + x[j] * (1 - s[j]))
                    x[j] *= s[j]
                    total[j] += d[j]
                d[last + 1 :] = 0
            if len(grad_distance):
                nearest = grad_distance[len(grad_distance) - 1 - last :]
                for j in range(last + 1):
                    nearest[j] += total[j]
            if len(bucket):  # times rise, so equal buckets are neighbours: one store a run
                times, j = bucket[g, i], 0
                while j <= last:
                    start, here = j, times[j]
                    while j <= last and times[j] == here:
                        j += 1
                    run = np.float32(0)
                    for k in range(start, j):
                        run += total[k]
                    grad_clock[here] += run


@loop()
def _time_buckets(asked, time, edges, out):
    """out[b, q, k] = how many edges are <= the gap; the walk from one key's bucket to the next is short, as times rise."""
    for b in range(len(asked)):
        for q in range(asked.shape[1]):
            here = 0
            for k in range(time.shape[1]):
                gap = abs(asked[b, q] - time[b, k])
                while here < len(edges) and edges[here] <= gap:
                    here += 1
                while here > 0 and edges[here - 1] > gap:
                    here -= 1
                out[b, q, k] = here
