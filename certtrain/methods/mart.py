"""MART (Wang et al. 2020, openreview rklOg6EFwS): adversarial training with more weight on misclassified examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import Bounds
from certtrain.methods.adversarial import AdversarialTraining, AttackOptions
from certtrain.methods.arow import weighted_divergence
from certtrain.methods.attacked import AttackedLoss
from certtrain.methods.base import Value, non_negative
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import accuracy
from certtrain.methods.regions import Prepared
from certtrain.schedules import Ramp


def boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) `-log p_y - log(1 - max_{j != y} p_j)` of (B, K) logits: the class up, its strongest rival down."""
    own = F.one_hot(y, logits.shape[1]).bool()
    rival = logits.masked_fill(own, -torch.inf).argmax(1)
    # log(1 - p_j) is the log of the others' sum: no probability that rounds to 1 makes it infinite.
    without = logits.masked_fill(F.one_hot(rival, logits.shape[1]).bool(), -torch.inf)
    low = torch.logsumexp(logits, 1) - torch.logsumexp(without, 1)
    return F.cross_entropy(logits, y, reduction="none") + low


@dataclass(frozen=True)
class MartLoss(AttackedLoss):
    """`BCE(z(x*), y) + weight KL(p(x) || p(x*)) (1 - p_y(x))`, BCE see `boosted_cross_entropy`; no bounds.

    Args:
        attack: finds x*, by the cross-entropy.
        weight: lambda of the paper, >= 0.

    Raises:
        UserError: a negative weight, an attack that takes no step.
    """

    attacked: ClassVar[bool] = False
    weight: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative(self.weight, "method.weight")

    def methods(self, step: int, ramp: Ramp) -> tuple[str, ...]:
        """None."""
        return ()

    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: loss_divergence, weighted by example; train_attacked, the share correct at x*."""
        y, attacked = inputs.y, network(inputs.points[0])
        apart = weighted_divergence(bounds.clean, attacked, bounds.clean, y).mean()
        parts = {"loss_divergence": apart.detach(), "train_attacked": accuracy(attacked, y)}
        return boosted_cross_entropy(attacked, y).mean() + self.weight * apart, parts


class MART(AdversarialTraining):
    """The loss of `MartLoss` over the ball at eps_t.

    Args:
        train_eps, ramp, options: see `AdversarialTraining`.
        weight: lambda of the paper.
        attack: finds x*.

    Raises:
        UserError: as `MartLoss` and `AdversarialTraining`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        weight: float = 5.0,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[AttackOptions],
    ) -> None:
        super().__init__(train_eps, ramp, MartLoss(attack, weight), **options)
