"""Training with interval bounds (Gowal et al. 2018, arXiv 1810.12715; Shi et al. 2021, arXiv 2103.17268)."""

from __future__ import annotations

from fractions import Fraction
from typing import Unpack

from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.robust import IntervalLoss
from certtrain.schedules import Ramp


class IBP(BoundTraining):
    """`kappa CE(z(x), y) + (1 - kappa) CE([0, -m], 0)` with m the IBP lower bounds of the margins over the ball.

    kappa of Gowal et al.: from 1 to 0.5 by step, the default; of Shi et al.: 0 throughout.

    Args:
        train_eps, ramp, options: see `BoundTraining`.

    Raises:
        UserError: as `BoundTraining`.
    """

    def __init__(self, train_eps: Fraction | float | str, ramp: Ramp, **options: Unpack[Options]) -> None:
        super().__init__(train_eps, ramp, IntervalLoss(), **options)
