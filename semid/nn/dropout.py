"""Dropout whose random numbers are cheap on a CPU: one 64-bit draw decides eight elements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from semid.errors import ConfigError


def drop(x: Tensor, rate: float) -> Tensor:
    """Zero each element with probability `rate` (rounded to 1/256) and rescale the rest so that the mean stays.

    On CPU a byte of a 64-bit draw decides an element: an eighth of the random numbers of `torch.dropout`, which took
    a fifth of a training step. On other devices this is `torch.dropout`.
    """
    threshold = round(rate * 256)
    if threshold == 0:
        return x
    if x.device.type != "cpu":
        return torch.dropout(x, rate, True)
    count = x.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    mask = words.view(torch.uint8)[:count].view(x.shape) >= threshold
    return x * mask.to(x.dtype).mul_(256 / (256 - threshold))


class Dropout(nn.Module):
    """`drop` while training, the identity otherwise. rate in [0, 1 - 1/512), which rounds to less than 1."""

    def __init__(self, rate: float):
        super().__init__()
        if not 0 <= rate < 1 - 1 / 512:
            raise ConfigError(f"dropout: want a rate in [0, .998], got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.rate) if self.training else x

    def extra_repr(self) -> str:
        return f"{self.rate}"


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Run a model as it is used, gradients included, and let it train on afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
