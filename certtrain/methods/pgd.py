"""Adversarial training (Madry et al. 2018, arXiv 1706.06083): what training without bounds reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import Bounds
from certtrain.methods.adversarial import AdversarialTraining, AttackOptions
from certtrain.methods.attacked import AttackedLoss
from certtrain.methods.base import Value
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import accuracy
from certtrain.methods.regions import Prepared
from certtrain.schedules import Ramp


@dataclass(frozen=True)
class AdversarialLoss(AttackedLoss):
    """`CE(z(x*), y)`: no bounds."""

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
        """Parts: train_attacked, the share correct at x*."""
        return F.cross_entropy(bounds.clean, inputs.y), {"train_attacked": accuracy(bounds.clean, inputs.y)}


class PGD(AdversarialTraining):
    """`kappa CE(z(x), y) + (1 - kappa) CE(z(x*), y)` with x* an adversarial input of the ball at eps_t.

    Args:
        train_eps, ramp, options: see `AdversarialTraining`.
        attack: finds x*.

    Raises:
        UserError: an attack that takes no step; as `AdversarialTraining`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[AttackOptions],
    ) -> None:
        super().__init__(train_eps, ramp, AdversarialLoss(attack), **options)
