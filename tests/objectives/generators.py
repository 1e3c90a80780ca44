"""Small generators of each kind, and a batch of histories with one target each, for tests of objectives over them."""

from __future__ import annotations

import numpy as np
import torch

from semid.data.batch import TargetBatches
from semid.generators.causal import Causal
from semid.generators.encoder_decoder import EncoderDecoder
from semid.generators.two_level import TwoLevel
from semid.types import Batch, SemanticIds
from tests.toyworld.world import ITEMS, walk

KINDS = {
    "two_level": lambda ids: TwoLevel(ids, width=16, heads=2, feedforward=32, max_length=20, dropout=0.2),
    "encoder_decoder": lambda ids: EncoderDecoder(ids, width=16, heads=2, head_width=8, encoder_layers=1, decoder_layers=1,
                                                  feedforward=32, dropout=0.2),
    "causal": lambda ids: Causal(ids, width=16, layers=1, heads=2, feedforward=32, dropout=0.2),
}


def generator(kind: str, *, has_padding: bool = False) -> torch.nn.Module:
    """A generator over the toy world's items with `path_codes`."""
    ids = path_codes(has_padding=has_padding)
    torch.manual_seed(0)
    return KINDS[kind](ids).eval()


def path_codes(*, has_padding: bool = False) -> SemanticIds:
    """Codes of the toy world's items of sizes (4, 5, 6), distinct, some of two levels with `has_padding`."""
    every = np.stack(np.meshgrid(np.arange(4), np.arange(5), np.arange(6), indexing="ij"), axis=-1).reshape(-1, 3)
    codes = np.random.default_rng(0).permutation(every)[:ITEMS].astype(np.int16)
    if has_padding:
        first_of_pair = ~np.array([(codes[:i, :2] == codes[i, :2]).all(1).any() for i in range(ITEMS)])
        codes[first_of_pair, 2] = -1
    return SemanticIds(codes, (4, 5, 6))


def one_target_each(rows: int = 7) -> Batch:
    return TargetBatches(walk(users=40).train, max_length=20, batch_size=rows, seed=0).at(0)
