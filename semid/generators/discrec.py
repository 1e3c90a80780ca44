"""DiscRec's generator: between the embeddings of codes and T5's stacks, a layer that knows which codes make an item.

Source: DiscRec, arXiv 2506.15576, and its code. Deviations: (1) a history has no end token (`EncoderDecoder`), so none is linked to the
last item, or, as in the code for most users, to padding; (2) beams keep keys and values of what they wrote (the code reads the whole
prefix anew for each code).
Axes: B rows, S history positions, L levels, R beam rows, T = S L tokens, D width.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from semid.generators.encoder_decoder import EncoderDecoder, EncoderDecoderState
from semid.nn.dual_branch import DualBranch
from semid.types import Batch, SemanticIds


class DiscRec(EncoderDecoder):
    """T5 over flattened codes behind a `DualBranch` each for encoder and decoder; the settings that are not here are those of T5.

    branch_heads: of the attention among the codes of an item. has_positions, has_local_attention, has_gate: see `DualBranch`.
    """

    def __init__(self, ids: SemanticIds, *, width: int = 128, heads: int = 6, head_width: int = 64, layers: int = 4,
                 feedforward: int = 1024, dropout: float = 0.1, causal: bool = False, branch_heads: int = 2,
                 has_positions: bool = True, has_local_attention: bool = True, has_gate: bool = True):
        super().__init__(ids, width=width, heads=heads, head_width=head_width, encoder_layers=layers, decoder_layers=layers,
                         feedforward=feedforward, dropout=dropout, causal=causal)
        branch = lambda: DualBranch(width, positions=ids.levels, heads=branch_heads, feedforward=feedforward, dropout=dropout,
                                    has_positions=has_positions, has_attention=has_local_attention, has_gate=has_gate)
        self.encoder_branch, self.decoder_branch = branch(), branch()

    def start(self, batch: Batch) -> EncoderDecoderState:
        return replace(super().start(batch), inputs=(self.decoder_branch.empty(len(batch)),))

    def _history_inputs(self, tokens: Tensor) -> Tensor:
        levels = self.vocabulary.levels
        s = super()._history_inputs(tokens).unflatten(1, (-1, levels))  # [B, S, L, D]
        return self.encoder_branch(s.flatten(0, 1), is_causal=False).view_as(s).flatten(1, 2)

    def _target_inputs(self, tokens: Tensor) -> Tensor:
        return self.decoder_branch(super()._target_inputs(tokens), is_causal=True)

    def _next_input(self, token: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        s, _ = super()._next_input(token, past)
        x, longer = self.decoder_branch.extend(s, past[0])
        return x, (longer,)
