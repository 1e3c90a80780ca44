"""What a causal generator made of a history, kept: the same history again is not read, one more event costs one position.

Axes: B rows, S history positions, D width, T kept positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import starmap

import torch
from torch import Tensor

from semid.generators.two_level import TwoLevel
from semid.nn.transformer import CausalTransformer, Kept
from semid.serving.recent import Recent
from semid.types import Batch

LOOK_BACK = 8
"""A kept history may lack so many of the latest events."""


@dataclass(frozen=True)
class Held:
    """state float32 [D] after a history of `length` items; key_value float32 [layers, 2, H, length, W]."""

    state: Tensor
    key_value: Tensor
    length: int


class UserStates:
    """States by history, for one set of weights; catalogue changes leave them valid, as items keep codes and vectors.

    limit: bytes; about 4 * layers * 2 * width for each item of a history (100 KB for 50 items at width 128, 2 layers).
    """

    def __init__(self, limit: int = 256 << 20):
        self.held: Recent[Held] = Recent(limit)

    @torch.no_grad()
    def of(self, model: TwoLevel, batch: Batch) -> Tensor:
        """Return float32 [B, D], as of `model.read`, for histories that are cut to what the model reads."""
        keys = list(starmap(self._key, zip(batch.item, batch.time, batch.length.tolist(), strict=True)))
        found = [self.held.get(key) for key in keys]
        missing = [row for row, held in enumerate(found) if held is None]
        if missing:
            earlier = [self._earlier(batch.item[row], batch.time[row], int(batch.length[row])) for row in missing]
            some = Batch(item=batch.item[missing], time=batch.time[missing], length=batch.length[missing],
                         target=batch.target[missing], user=batch.user[missing])
            states, kept = model.read(some, _padded(model, earlier))
            for place, row in enumerate(missing):
                length = int(batch.length[row])
                # clone: a view would keep the whole batch alive
                found[row] = held = Held(states[place].clone(), kept.key_value[:, place, :, :, :length].clone(), length)
                self.held.put(keys[row], held, held.state.nbytes + held.key_value.nbytes + len(str(keys[row])))
        return torch.stack([held.state for held in found if held is not None])

    def _earlier(self, item: Tensor, time: Tensor, length: int) -> Held | None:
        """The longest kept history that this one goes on."""
        for shorter in range(length - 1, max(0, length - 1 - LOOK_BACK), -1):
            if (held := self.held.get(self._key(item, time, shorter))) is not None:
                return held
        return None

    @staticmethod
    def _key(item: Tensor, time: Tensor, length: int) -> tuple[bytes, bytes]:
        return item[:length].numpy().tobytes(), time[:length].numpy().tobytes()


def keeps_states(generator: object) -> bool:
    """Whether `UserStates` can read for it."""
    return isinstance(generator, TwoLevel) and isinstance(generator.temporal, CausalTransformer)


def _padded(model: TwoLevel, held: list[Held | None]) -> Kept:
    """Put kept histories of different lengths side by side."""
    nothing = model.transformer.nothing(len(held))
    length = torch.tensor([0 if each is None else each.length for each in held])
    layers, rows, two, heads, _, width = nothing.key_value.shape
    key_value = nothing.key_value.new_zeros(layers, rows, two, heads, int(length.max()), width)
    for row, each in enumerate(held):
        if each is not None:
            key_value[:, row, :, :, : each.length] = each.key_value
    return Kept(key_value, length)
