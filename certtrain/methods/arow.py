"""ARoW (Yang et al. 2023, arXiv 2206.03353): TRADES with more weight on the examples that are least robust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import Bounds
from certtrain.errors import UserError
from certtrain.methods.adversarial import AdversarialTraining, AttackOptions
from certtrain.methods.base import Value
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import accuracy
from certtrain.methods.regions import Prepared
from certtrain.methods.trades import TradesLoss, divergence
from certtrain.schedules import Ramp


def weighted_divergence(clean: Tensor, attacked: Tensor, weighing: Tensor, y: Tensor) -> Tensor:
    """(B,) `KL(softmax(clean) || softmax(attacked)) (1 - softmax(weighing)_y)`.

    Args:
        clean, attacked: (B, K) logits.
        weighing: (B, K) logits, whose probability of the class takes weight away.
        y: (B,) classes.
    """
    return divergence(clean, attacked) * (1 - F.softmax(weighing, 1).gather(1, y[:, None])[:, 0])


@dataclass(frozen=True)
class ArowLoss(TradesLoss):
    """`CE_s(z(x), y) + weight KL(p(x) || p(x*)) (1 - p_y(x*))`, with x* found by the attack on that divergence.

    CE_s is the cross-entropy with the label smoothed: 1 - s on the class and s spread evenly over all K. Gradients go
    through both predictions and the weight of an example, as in the authors' implementation.

    Args:
        attack: finds x*.
        weight: lambda of the paper, >= 0.
        smoothing: s, in [0, 1).

    Raises:
        UserError: an argument out of its range.
    """

    weight: float = 7.0
    smoothing: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        s = self.smoothing
        if isinstance(s, bool) or not isinstance(s, (int, float)) or not 0 <= s < 1:
            raise UserError(f"smoothing = {s!r} is not in [0, 1)", where="method.smoothing", fix="method.smoothing=0.2")

    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: loss_divergence, weighted by example; train_attacked, the share correct at x*."""
        y, attacked = inputs.y, network(inputs.points[0])
        apart = weighted_divergence(bounds.clean, attacked, attacked, y).mean()
        parts = {"loss_divergence": apart.detach(), "train_attacked": accuracy(attacked, y)}
        return F.cross_entropy(bounds.clean, y, label_smoothing=self.smoothing) + self.weight * apart, parts


class ARoW(AdversarialTraining):
    """The loss of `ArowLoss` over the ball at eps_t.

    Args:
        train_eps, ramp, options: see `AdversarialTraining`.
        weight: lambda of the paper.
        smoothing: of the label.
        attack: finds x*.

    Raises:
        UserError: as `ArowLoss` and `AdversarialTraining`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        weight: float = 7.0,
        smoothing: float = 0.2,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[AttackOptions],
    ) -> None:
        super().__init__(train_eps, ramp, ArowLoss(attack, weight, smoothing), **options)
