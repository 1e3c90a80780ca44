"""A recommender whose generator computes its linear layers in 8 bits: weights per tensor, inputs on the fly (torch's qint8)."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import nn

from semid.errors import ConfigError
from semid.recommenders import CodeRecommender, Fusion, ItemRecommender


def quantized(recommender: CodeRecommender | ItemRecommender | Fusion) -> CodeRecommender | Fusion:
    """Return a recommender with the same codes and tree and an 8-bit copy of the generator, for CPUs.

    Raises `ConfigError` where items are ranked directly: there is no generator.
    """
    if isinstance(recommender, Fusion):
        return replace(recommender, first=_of_codes(recommender.first))
    if isinstance(recommender, CodeRecommender):
        return _of_codes(recommender)
    raise ConfigError("engine int8: this run ranks items directly and has no generator to quantise; use the float engine")


def _of_codes(recommender: CodeRecommender) -> CodeRecommender:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # its successor is another package, torchao
        warnings.filterwarnings("ignore", category=UserWarning)
        generator = torch.ao.quantization.quantize_dynamic(recommender.generator, {nn.Linear}, dtype=torch.qint8)
    return replace(recommender, generator=generator.eval())
