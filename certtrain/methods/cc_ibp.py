"""CC-IBP (De Palma et al. 2024, arXiv 2305.13991): cross-entropy of adversarial and bounded margins, combined."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Unpack

from torch import Tensor

from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.expressive import NO_CLEAN_LOSS, ExpressiveLoss
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import margins_at, robust_cross_entropy
from certtrain.schedules import Ramp


def cc_ibp(adversarial: Tensor, certified: Tensor, alpha: float) -> Tensor:
    """`CE([0, -((1 - alpha) m_adv + alpha m_ibp)], 0)`, the mean over (B, K-1) margins `z_y - z_j` and their bounds."""
    return robust_cross_entropy((1 - alpha) * adversarial + alpha * certified)


@dataclass(frozen=True)
class CCIBPLoss(ExpressiveLoss):
    """`cc_ibp` of the margins at x* and their IBP lower bounds."""

    def between(self, logits: Tensor, margins: Tensor, y: Tensor) -> Tensor:
        """See the class."""
        return cc_ibp(margins_at(logits, y), margins, self.alpha)


class CCIBP(BoundTraining):
    """The objective of `IBP` with the robust loss of `CCIBPLoss`; the clean loss counts only where kappa is given.

    Args:
        train_eps, ramp, options: see `BoundTraining`.
        alpha: weight of the bounds, in [0, 1]: at 1 this is IBP, at 0 adversarial training.
        attack: finds x*.

    Raises:
        UserError: alpha out of its range; a threat model that is not one box; as `BoundTraining`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        alpha: float = 0.5,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("kappa", NO_CLEAN_LOSS)
        super().__init__(train_eps, ramp, CCIBPLoss(alpha=alpha, attack=attack), **options)
