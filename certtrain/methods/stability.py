"""Stability training under noise (Li et al. 2019, arXiv 1809.03113): the clean loss, and how far noise moves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.methods.base import Value, non_negative
from certtrain.methods.losses import accuracy
from certtrain.methods.noisy import Noisy, NoisyLoss, NoisyTraining


@dataclass(frozen=True)
class StabilityLoss(NoisyLoss):
    """`CE(z(x), y) + weight mean_i H(p(x), p(x + delta_i))`, with `H(p, q) = -sum_k p_k log q_k` and p the softmax.

    The label's loss is at the input itself, and the gradient goes through p(x) in both terms, as in the authors' code.

    Args:
        weight: lambda of the paper, >= 0.
    """

    weight: float = 2.0

    def __post_init__(self) -> None:
        non_negative(self.weight, "method.weight")

    def batch_norm_at(self, inputs: Noisy) -> tuple[Tensor, ...]:
        """x."""
        return (inputs.x,)

    def loss(
        self, network: nn.Module, logits: Tensor, inputs: Noisy, values: Mapping[str, Value]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: loss_natural and clean, of the input itself; loss_stability, before its weight."""
        clean = network(inputs.x)
        natural, moved = F.cross_entropy(clean, inputs.y), stability(clean, logits)
        parts = {"loss_natural": natural.detach(), "clean": accuracy(clean, inputs.y), "loss_stability": moved.detach()}
        return natural + self.weight * moved, parts


def stability(clean: Tensor, logits: Tensor) -> Tensor:
    """The mean cross-entropy, (), of (B, m, K) noisy logits for the softmax of (B, K) clean ones."""
    return -(clean.softmax(1)[:, None] * F.log_softmax(logits, dim=2)).sum(2).mean()


class Stability(NoisyTraining):
    """The loss of `StabilityLoss`, plus `l1 ||w||_1`.

    Args:
        sigma, noises, l1: see `NoisyTraining`.
        weight: lambda of the paper.

    Raises:
        UserError: a negative weight; as `NoisyTraining`.
    """

    def __init__(self, sigma: float, weight: float = 2.0, noises: int = 1, l1: float = 0.0) -> None:
        super().__init__(sigma, StabilityLoss(weight), noises, l1=l1)
