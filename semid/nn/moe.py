"""A sparse mixture of experts: each token passes the few feed-forward networks that its gate likes best.

Source: OneRec, arXiv 2502.18965, equations 8 and 9 (after DeepSeekMoE, arXiv 2401.06066). The balance loss, which the paper doesn't print,
is that of Switch Transformers, arXiv 2101.03961, equations 4 to 6.
Axes: T tokens, D width, E experts, K active ones, F hidden width of an expert.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semid.errors import ConfigError
from semid.nn.dropout import Dropout


@dataclass(frozen=True)
class Routing:
    """load float32 [E], no gradient: share of the token-expert pairs that each expert got; share float32 [E]: its mean gate probability."""

    load: Tensor
    share: Tensor

    def balance(self) -> Tensor:
        """Return E times the sum of load x share: 1 where all experts are used alike, up to E where one takes all."""
        return len(self.load) * (self.load * self.share).sum()

    def effective(self) -> Tensor:
        """Return the exponential of the load's entropy: how many experts are in use, in effect."""
        return torch.special.entr(self.load).sum().exp()


class MixtureOfExperts(nn.Module):
    """The sum over experts of g_i FFN_i(x): p = softmax of x . e_i, g_i = p_i for the `active` largest, else 0, and not renormalised.

    FFN: a ReLU network D -> hidden -> D without biases, as `nn.t5.FeedForward`. Only the chosen experts are computed.
    `routing` says how the last batch was spread; None before, and after `train` and `eval`.
    """

    def __init__(self, width: int, hidden: int, *, experts: int, active: int, dropout: float = 0.0):
        super().__init__()
        if not 1 <= active <= experts:
            raise ConfigError(f"mixture of experts: want 1 to {experts} active ones of {experts}, got {active}")
        self.active = active
        self.gate = nn.Parameter(torch.randn(experts, width) * width**-0.5)
        self.inner = nn.Parameter(torch.randn(experts, hidden, width) * width**-0.5)
        self.outer = nn.Parameter(torch.randn(experts, width, hidden) * hidden**-0.5)
        self.dropout = Dropout(dropout)
        self.routing: Routing | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x float [..., D] -> [..., D]."""
        flat = x.flatten(0, -2)  # [T, D]
        probability = torch.softmax((flat @ self.gate.T.to(flat.dtype)).float(), dim=1)  # [T, E]
        weight, expert = probability.topk(self.active, dim=1)  # [T, K]
        counts = torch.bincount(expert.flatten(), minlength=len(self.gate))
        self.routing = Routing(counts / expert.numel(), probability.mean(0))
        order = expert.flatten().argsort(stable=True)  # pairs of a token and an expert, expert by expert
        parts = (flat[order // self.active]).split(counts.tolist())
        done = [self._expert(number, part) for number, part in enumerate(parts) if len(part)]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        out = torch.cat(done)[back].view(*expert.shape, -1)  # [T, K, D]
        return (weight[..., None].to(out.dtype) * out).sum(1).view(x.shape)

    def train(self, mode: bool = True) -> MixtureOfExperts:
        self.routing = None  # it holds the graph of the last batch, which a copy can't have
        return super().train(mode)

    def _expert(self, number: int, x: Tensor) -> Tensor:
        hidden = self.dropout(torch.relu(x @ self.inner[number].T.to(x.dtype)))
        return hidden @ self.outer[number].T.to(hidden.dtype)


def said_of_load(load: Tensor) -> str:
    """Return how even a load float [E] is, in words; with advice where the mixture collapsed (under half the experts in effect)."""
    effective = float(Routing(load, load).effective())
    idle = int((load == 0).sum())
    text = f"{effective:.1f} of {len(load)} experts in use in effect, {idle} idle, the busiest has {float(load.max()):.0%} of the load"
    if effective >= len(load) / 2:
        return text
    return (f"{text}: the mixture collapsed, most of its weights learn nothing; raise balance (the weight of the balance loss), lower "
            "the learning rate, or take fewer experts")
