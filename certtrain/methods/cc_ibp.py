"""CC-IBP (De Palma et al. 2024, arXiv 2305.13991): cross-entropy of adversarial and bounded margins, combined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from certtrain.methods.expressive import ExpressiveLoss, ExpressiveTraining
from certtrain.methods.losses import margins_at, robust_cross_entropy


def cc_ibp(adversarial: Tensor, certified: Tensor, alpha: float) -> Tensor:
    """`CE([0, -((1 - alpha) m_adv + alpha m_ibp)], 0)`, the mean over (B, K-1) margins `z_y - z_j` and their bounds."""
    return robust_cross_entropy((1 - alpha) * adversarial + alpha * certified)


@dataclass(frozen=True)
class CCIBPLoss(ExpressiveLoss):
    """`cc_ibp` of the margins at x* and their IBP lower bounds."""

    def between(self, logits: Tensor, margins: Tensor, y: Tensor) -> Tensor:
        """See the class."""
        return cc_ibp(margins_at(logits, y), margins, self.alpha)


class CCIBP(ExpressiveTraining):
    """Training with `CCIBPLoss`, where alpha is the weight of the bounds; see `ExpressiveTraining`."""

    robust_loss: ClassVar[type[ExpressiveLoss]] = CCIBPLoss
