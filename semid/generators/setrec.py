"""SETRec: an item is a set of vectors, one of behaviour and some of content, and all of the next item's are asked for at once.

Source: Lin et al., SIGIR 2025, arXiv 2502.10833, and its code (the T5 version). Deviations: (1) weights start at random, so there are no
words of an instruction around the history; (2) the masks of the paper are masks: in the code queries see each other, and T5's encoder has
no mask; (3) vectors enter with elements of mean square one, and states are scaled by D**-.5, T5's way for tied vectors, before products;
(4) `causal` is not in the paper, as in `EncoderDecoder`.
Axes: N items, C and F widths of behaviour and content, Q vectors of an item, D their width, B rows, S history positions, T = S Q tokens,
M supervised positions, P positions asked about.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semid.nn.mlp import mlp
from semid.nn.t5 import Decoder, Encoder, hide
from semid.types import Batch


class SETRec(nn.Module):
    """T5 over the vectors of a history's items, which share a position an item, and a decoder of Q learned queries: states to compare items
    with, slot by slot.

    cf: float32 [N, C], behaviour, frozen, mapped to one vector, or None; text: float32 [N, F], encoded to `semantic` vectors by a network
    of the widths `hidden` (and back, for `reconstruction`), or None; one of both there must be. beta in [0, 1]: weight of each semantic
    slot in a score, 1 - beta that of behaviour. is_sparse: a vector sees those of other items and itself, not its own item's others.
    causal: a vector sees earlier items only, so that one pass serves a target at every position.
    """

    cf: Tensor | None
    text: Tensor | None
    beta: Tensor

    def __init__(self, cf: Tensor | None, text: Tensor | None, *, semantic: int = 4, hidden: tuple[int, ...] = (512, 256, 128),
                 width: int = 512, heads: int = 8, head_width: int = 64, layers: int = 6, feedforward: int = 2048, dropout: float = 0.1,
                 beta: float = 0.5, is_sparse: bool = True, causal: bool = False):
        super().__init__()
        assert cf is not None or text is not None
        self.is_sparse, self.causal, self.width = is_sparse, causal, width
        self.register_buffer("cf", cf)
        self.register_buffer("text", text)
        self.register_buffer("beta", torch.tensor(beta))
        self.project = None if cf is None else nn.Linear(cf.shape[1], width)
        self.encode = None if text is None else mlp((text.shape[1], *hidden, semantic * width))
        self.decode = None if text is None else mlp((semantic * width, *reversed(hidden), text.shape[1]))
        self.slots = (cf is not None) + (0 if text is None else semantic)
        shape = {"width": width, "heads": heads, "head_width": head_width, "hidden": (feedforward,), "dropout": dropout}
        self.encoder, self.decoder = Encoder(layers, **shape), Decoder(layers, **shape)
        self.query = nn.Parameter(0.02 * torch.randn(self.slots, width))
        self._kept: Tensor | None = None

    def item_vectors(self) -> Tensor:
        """Return float [N, Q, D] of all items, behaviour first; computed once while weights rest. O(N)."""
        if self.training or torch.is_grad_enabled():
            return self._item_vectors()
        if self._kept is None:
            self._kept = self._item_vectors()
        return self._kept

    def _item_vectors(self) -> Tensor:
        parts = []
        if self.project is not None and self.cf is not None:
            parts.append(self.project(even(self.cf))[:, None])
        if self.encode is not None and self.text is not None:
            parts.append(self.encode(even(self.text)).unflatten(1, (-1, self.width)))
        return torch.cat(parts, dim=1)

    def reconstruction(self, vectors: Tensor, item: Tensor) -> Tensor:
        """Return the mean squared error of the content of items int64 [M] read back from their `vectors` [N, Q, D], a scalar; 0 without."""
        if self.decode is None or self.text is None:
            return vectors.new_zeros(())
        own = vectors[item][:, int(self.cf is not None) :].flatten(1)
        return F.mse_loss(self.decode(own).float(), self.text[item])

    def supervised(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Return states [M, Q, D] at the supervised positions, row-major; only the last of a history may be one, unless `causal`."""
        if not self.causal:
            return self.after(batch, vectors)[(batch.target >= 0).any(1)]
        steps = torch.arange(batch.item.shape[1], device=batch.item.device)
        return self._answers(batch, vectors, steps.expand(batch.item.shape))[batch.target >= 0]

    def after(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Return states [B, Q, D] after each history."""
        return self._answers(batch, vectors, batch.length[:, None] - 1)[:, 0]

    def _answers(self, batch: Batch, vectors: Tensor, reach: Tensor) -> Tensor:
        """reach int64 [B, P]: the position up to which a set of queries sees the history -> states [B, P, Q, D]."""
        item, device = batch.item, batch.item.device
        owner = torch.arange(item.shape[1], device=device).repeat_interleave(self.slots)  # [T]
        x = F.embedding(item.clamp_min(0), vectors.flatten(1)).masked_fill((item < 0)[..., None], 0.0).unflatten(2, (self.slots, -1))
        sees = torch.ones(len(owner), len(owner), dtype=torch.bool, device=device)
        if self.is_sparse:
            sees = (owner != owner[:, None]) | torch.eye(len(owner), dtype=torch.bool, device=device)
        if self.causal:
            sees = sees & (owner <= owner[:, None])
        real = (item >= 0).repeat_interleave(self.slots, dim=1)[:, None, None]  # [B, 1, 1, T]
        memory = self.encoder(x.flatten(1, 2), real & sees, owner)
        seen = real & (owner <= reach.repeat_interleave(self.slots, dim=1)[:, None, :, None])  # [B, 1, P Q, T]
        query = self.query.expand(reach.numel(), -1, -1)
        states = self.decoder(query, self.decoder.remember(memory), hide(seen), is_causal=False)
        return states.unflatten(0, reach.shape) * self.width**-0.5

    def weights(self) -> Tensor:
        """Return float32 [Q]: 1 - beta for behaviour, beta for each slot of content; all 1 where there is only one of both."""
        if self.cf is None or self.text is None:
            return self.query.new_ones(self.slots)
        return torch.cat([1 - self.beta[None], self.beta.expand(self.slots - 1)])

    def score(self, batch: Batch) -> Tensor:
        """Return float32 [B, N]: the weighted sum over slots of products of states and item vectors."""
        vectors = self.item_vectors()
        states = self.after(batch, vectors) * self.weights()[:, None]
        return (states.flatten(1) @ vectors.flatten(1).T).float()

    def train(self, mode: bool = True):
        self._kept = None
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self._kept = None
        return super()._apply(fn, recurse)


def even(vectors: Tensor) -> Tensor:
    """Return vectors [N, W] divided by one number: elements of mean square one."""
    return vectors / vectors.square().mean().sqrt().clamp_min(1e-12)
