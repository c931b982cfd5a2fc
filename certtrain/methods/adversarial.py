"""The frame of adversarial training: `BoundTraining` without bounds."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar, TypedDict

from certtrain.methods.attacked import AttackedLoss
from certtrain.methods.bound_training import BoundTraining, Init
from certtrain.methods.expressive import NO_CLEAN_LOSS
from certtrain.schedules import Ramp, Schedule
from certtrain.threat import Threat
from certtrain.threat.scales import Scales


class AttackOptions(TypedDict, total=False):
    """What every such method takes beside `train_eps`, `ramp` and its own; see `AdversarialTraining`."""

    norm: str | Threat
    kappa: Schedule
    l1: float
    init: Init
    lower: float | None
    upper: float | None
    scales: Scales | None


class AdversarialTraining(BoundTraining):
    """`kappa CE(z(x), y) + (1 - kappa) L_robust` with a loss of logits at adversarial inputs of the ball at eps_t.

    Needs no bounds, and so trains networks, too, that no engine bounds; nothing is proved of what it trains.

    Args:
        train_eps, ramp: see `BoundTraining`.
        robust: a loss that asks for no bounds.
        norm, kappa, l1, init, lower, upper, scales: see `BoundTraining`; kappa weighs a further clean loss, and is 0
            unless given.

    Raises:
        UserError: a threat model that is not one box; as `BoundTraining`.
    """

    needs_engine: ClassVar[bool] = False

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        robust: AttackedLoss,
        norm: str | Threat = "linf",
        kappa: Schedule = NO_CLEAN_LOSS,
        l1: float = 0.0,
        init: Init = "default",
        lower: float | None = 0.0,
        upper: float | None = 1.0,
        scales: Scales | None = None,
    ) -> None:
        ball = {"lower": lower, "upper": upper, "scales": scales}
        super().__init__(train_eps, ramp, robust, norm=norm, kappa=kappa, l1=l1, init=init, **ball)  # type: ignore[arg-type]
