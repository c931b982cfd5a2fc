"""Exp-IBP (De Palma et al. 2024, arXiv 2305.13991): the geometric mean of the adversarial and the interval loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from certtrain.methods.expressive import ExpressiveLoss, ExpressiveTraining
from certtrain.methods.losses import robust_cross_entropy
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


class ExpIBP(ExpressiveTraining):
    """Training with `ExpIBPLoss`, where alpha is the exponent of the interval loss; see `ExpressiveTraining`."""

    robust_loss: ClassVar[type[ExpressiveLoss]] = ExpIBPLoss
