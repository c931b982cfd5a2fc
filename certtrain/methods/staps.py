"""STAPS (Mao et al. 2023, arXiv 2305.04574): TAPS over SABR's small boxes."""

from __future__ import annotations

from fractions import Fraction
from typing import Unpack

from certtrain.errors import UserError
from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.regions import SmallBoxes
from certtrain.methods.taps import SPLIT, WEIGHT, LatentAttack, TapsLoss
from certtrain.schedules import Ramp


class STAPS(BoundTraining):
    """The objective of `TAPS`, its bounds over small boxes around adversarial inputs, see `SmallBoxes`.

    At share 1 it is TAPS. While eps rises it is SABR when `ibp_ramp`.

    Args:
        train_eps, ramp, options: see `BoundTraining`.
        share: width of the small box as a share of the ball's, in (0, 1].
        attack: finds the adversarial input.
        split, weight, latent_attack, link, ibp_ramp: see `TAPS`.

    Raises:
        UserError: as `TAPS` and `SABR`; an input attack without steps.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        share: float = 0.4,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        split: str | int | float = SPLIT,
        weight: float = WEIGHT,
        latent_attack: LatentAttack = LatentAttack(),  # noqa: B008 - frozen
        link: float = 0.5,
        ibp_ramp: bool = True,
        **options: Unpack[Options],
    ) -> None:
        if getattr(attack, "steps", None) == 0:
            raise UserError(
                "attack.steps = 0 finds no adversarial input",
                where="method.attack.steps",
                fix="method.attack.steps=8, or method=taps, which needs none",
            )
        robust = TapsLoss(split, weight, latent_attack, link, ibp_ramp)
        super().__init__(train_eps, ramp, robust, SmallBoxes(share, attack), **options)
