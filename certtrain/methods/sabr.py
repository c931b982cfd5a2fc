"""SABR (Mueller et al. 2023, arXiv 2210.04871): interval bounds over a small box that holds an adversarial input."""

from __future__ import annotations

from fractions import Fraction
from typing import Unpack

from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.regions import SmallBoxes
from certtrain.methods.robust import IntervalLoss
from certtrain.schedules import Ramp


class SABR(BoundTraining):
    """The objective of `IBP`, its bounds over small boxes around adversarial inputs, see `SmallBoxes`.

    At share 1 it is IBP, near 0 it is training on adversarial inputs. The clean loss, weighted by kappa, is at x
    itself; Shi et al.'s regulariser is of the small box.

    Args:
        train_eps, ramp, options: see `BoundTraining`.
        share: lambda of the paper, in (0, 1].
        attack: finds the adversarial input.

    Raises:
        UserError: a share out of its range; a threat model that is not one box; as `BoundTraining`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        share: float = 0.4,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[Options],
    ) -> None:
        super().__init__(train_eps, ramp, IntervalLoss(), SmallBoxes(share, attack), **options)
