"""MTL-IBP (De Palma et al. 2024, arXiv 2305.13991): the adversarial and the interval loss, weighted."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.expressive import NO_CLEAN_LOSS, ExpressiveLoss
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import robust_cross_entropy
from certtrain.schedules import Ramp


def mtl_ibp(adversarial: Tensor, certified: Tensor, alpha: float) -> Tensor:
    """`(1 - alpha) L_adv + alpha L_IBP`."""
    return (1 - alpha) * adversarial + alpha * certified


@dataclass(frozen=True)
class MTLIBPLoss(ExpressiveLoss):
    """`(1 - alpha) CE(z(x*), y) + alpha CE([0, -m], 0)` with m the IBP lower bounds of the margins."""

    def between(self, logits: Tensor, margins: Tensor, y: Tensor) -> Tensor:
        """See the class."""
        return mtl_ibp(F.cross_entropy(logits, y), robust_cross_entropy(margins), self.alpha)


class MTLIBP(BoundTraining):
    """The objective of `IBP` with the robust loss of `MTLIBPLoss`; the clean loss counts only where kappa is given.

    Args:
        train_eps, ramp, options: see `BoundTraining`.
        alpha: weight of the interval loss, in [0, 1]: at 1 this is IBP, at 0 adversarial training.
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
        super().__init__(train_eps, ramp, MTLIBPLoss(alpha=alpha, attack=attack), **options)
