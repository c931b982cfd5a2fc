"""Adversarial training (Madry et al. 2018, arXiv 1706.06083): what training without bounds reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import Bounds
from certtrain.methods.attacked import AttackedLoss
from certtrain.methods.base import Value
from certtrain.methods.bound_training import BoundTraining, Init
from certtrain.methods.expressive import NO_CLEAN_LOSS
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import accuracy
from certtrain.methods.regions import Prepared
from certtrain.schedules import Ramp, Schedule
from certtrain.threat import Threat
from certtrain.threat.scales import Scales


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


class PGD(BoundTraining):
    """`kappa CE(z(x), y) + (1 - kappa) CE(z(x*), y)` with x* an adversarial input of the ball at eps_t.

    Needs no bounds, and so trains networks, too, that no engine bounds; nothing is proved of what it trains.

    Args:
        train_eps, ramp, norm, kappa, l1, init, lower, upper, scales: see `BoundTraining`; kappa is 0 unless given.
        attack: finds x*.

    Raises:
        UserError: an attack that takes no step; a threat model that is not one box; as `BoundTraining`.
    """

    needs_engine: ClassVar[bool] = False

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        norm: str | Threat = "linf",
        kappa: Schedule = NO_CLEAN_LOSS,
        l1: float = 0.0,
        init: Init = "default",
        lower: float | None = 0.0,
        upper: float | None = 1.0,
        scales: Scales | None = None,
    ) -> None:
        robust = AdversarialLoss(attack)
        ball = {"lower": lower, "upper": upper, "scales": scales}
        super().__init__(train_eps, ramp, robust, norm=norm, kappa=kappa, l1=l1, init=init, **ball)  # type: ignore[arg-type]
