"""MTL-IBP (De Palma et al. 2024, arXiv 2305.13991): the adversarial and the interval loss, weighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from certtrain.methods.expressive import ExpressiveLoss, ExpressiveTraining
from certtrain.methods.losses import robust_cross_entropy


def mtl_ibp(adversarial: Tensor, certified: Tensor, alpha: float) -> Tensor:
    """`(1 - alpha) L_adv + alpha L_IBP`."""
    return (1 - alpha) * adversarial + alpha * certified


@dataclass(frozen=True)
class MTLIBPLoss(ExpressiveLoss):
    """`(1 - alpha) CE(z(x*), y) + alpha CE([0, -m], 0)` with m the IBP lower bounds of the margins."""

    def between(self, logits: Tensor, margins: Tensor, y: Tensor) -> Tensor:
        """See the class."""
        return mtl_ibp(F.cross_entropy(logits, y), robust_cross_entropy(margins), self.alpha)


class MTLIBP(ExpressiveTraining):
    """Training with `MTLIBPLoss`, where alpha is the weight of the interval loss; see `ExpressiveTraining`."""

    robust_loss: ClassVar[type[ExpressiveLoss]] = MTLIBPLoss
