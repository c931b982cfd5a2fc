"""Consistency regularisation (Jeong and Shin 2020, arXiv 2006.04062): the predictions under an input's noises agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.errors import UserError, nearest
from certtrain.methods.base import Value, non_negative
from certtrain.methods.noisy import Noisy, NoisyLoss, NoisyTraining, cross_entropy, log_mean_softmax
from certtrain.methods.smoothed_attack import SmoothedAttack
from certtrain.schedules import Ramp

Distance = Literal["kl", "xent", "mse"]


def disagreement(logits: Tensor, distance: Distance = "kl") -> tuple[Tensor, Tensor]:
    """How far the predictions under noise are apart, and the entropy of their mean, both (), means over the batch.

    With p_i the softmax under noise i and p their mean: `kl` is `mean_i KL(p || p_i)`, `xent` is `mean_i H(p, p_i)`,
    the sum of `kl` and the entropy, `mse` is `||p_1 - p_2||^2`.

    Args:
        logits: (B, m, K).
        distance: one of them.
    """
    each, mean = F.log_softmax(logits, dim=2), log_mean_softmax(logits)
    p = mean.exp()
    entropy = -(p * mean).sum(1).mean()
    if distance == "mse":
        return (each[:, 0].exp() - each[:, 1].exp()).square().sum(1).mean(), entropy
    across = -(p[:, None] * each).sum(2).mean()
    return (across if distance == "xent" else across - entropy), entropy


@dataclass(frozen=True)
class ConsistencyLoss(NoisyLoss):
    """`mean_i CE(z_i, y) + weight disagreement + entropy H(p)`, see `disagreement`. Gradients go through p, too.

    Args:
        weight: lambda of the paper, >= 0.
        entropy: eta of the paper, >= 0.
        distance: `kl`, `xent` or `mse`.
    """

    least: ClassVar[int] = 2
    weight: float = 10.0
    entropy: float = 0.5
    distance: Distance = "kl"

    def __post_init__(self) -> None:
        non_negative(self.weight, "method.weight")
        non_negative(self.entropy, "method.entropy")
        if self.distance not in get_args(Distance):
            fix = nearest(str(self.distance), get_args(Distance))
            raise UserError(f"unknown distance {self.distance!r}", where="method.distance", fix=fix)

    def loss(
        self, network: nn.Module, logits: Tensor, inputs: Noisy, values: Mapping[str, Value]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: loss_noisy, the cross-entropy; loss_consistency and loss_entropy, before their weights."""
        noisy, (apart, entropy) = cross_entropy(logits, inputs.y), disagreement(logits, self.distance)
        parts = {"loss_noisy": noisy.detach(), "loss_consistency": apart.detach(), "loss_entropy": entropy.detach()}
        return noisy + self.weight * apart + self.entropy * entropy, parts


class Consistency(NoisyTraining):
    """The loss of `ConsistencyLoss`, plus `l1 ||w||_1`; with an attack it is SmoothAdv with consistency.

    Args:
        sigma, ramp, noises, attack, l1: see `NoisyTraining`.
        weight: lambda of the paper.
        entropy: eta of the paper.
        distance: `kl`, which is the paper's, `xent` or `mse`.

    Raises:
        UserError: a single noise; a negative weight; an unknown distance; as `NoisyTraining`.
    """

    def __init__(
        self,
        sigma: float,
        ramp: Ramp,
        weight: float = 10.0,
        entropy: float = 0.5,
        distance: Distance = "kl",
        noises: int = 2,
        attack: SmoothedAttack | None = None,
        l1: float = 0.0,
    ) -> None:
        super().__init__(sigma, ConsistencyLoss(weight, entropy, distance), noises, attack, ramp, l1)
