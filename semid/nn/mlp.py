"""Plain networks of linear layers."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers of the given widths with ReLU between them; Xavier weights, zero biases."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        linear = nn.Linear(inner, outer)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
