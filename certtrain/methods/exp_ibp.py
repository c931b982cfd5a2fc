"""Exp-IBP (De Palma et al. 2024, arXiv 2305.13991): the geometric mean of the adversarial and the interval loss."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.expressive import NO_CLEAN_LOSS, ExpressiveLoss
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import robust_cross_entropy
from certtrain.schedules import Ramp
from certtrain.system.collective import global_means


def exp_ibp(adversarial: Tensor, certified: Tensor, alpha: float) -> Tensor:
    """`L_adv^(1 - alpha) L_IBP^alpha`, at most `mtl_ibp` of the same losses.

    A loss that rounds to 0 is taken for the smallest number, without gradient: the power's slope at 0 is infinite.
    """
    tiny = torch.finfo(adversarial.dtype).tiny
    return adversarial.clamp_min(tiny) ** (1 - alpha) * certified.clamp_min(tiny) ** alpha


@dataclass(frozen=True)
class ExpIBPLoss(ExpressiveLoss):
    """`exp_ibp` of the batch's adversarial and interval loss.

    Of the means over the batch, as the authors' implementation computes it and as published figures were trained; of
    several processes the whole batch's.
    """

    def between(self, logits: Tensor, margins: Tensor, y: Tensor) -> Tensor:
        """See the class."""
        losses = [F.cross_entropy(logits, y, reduction="none"), robust_cross_entropy(margins, reduction="none")]
        return exp_ibp(*global_means(losses), self.alpha)


class ExpIBP(BoundTraining):
    """The objective of `IBP` with the robust loss of `ExpIBPLoss`; the clean loss counts only where kappa is given.

    Args:
        train_eps, ramp, options: see `BoundTraining`.
        alpha: exponent of the interval loss, in [0, 1]: at 1 this is IBP, at 0 adversarial training.
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
        super().__init__(train_eps, ramp, ExpIBPLoss(alpha=alpha, attack=attack), **options)
