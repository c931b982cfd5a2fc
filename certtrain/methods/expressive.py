"""Expressive losses (De Palma et al. 2024, arXiv 2305.13991): between attacks and bounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Unpack

from torch import Tensor, nn

from certtrain.bounds.base import Bounds
from certtrain.bounds.verdict import verified
from certtrain.errors import UserError
from certtrain.methods.attacked import AttackedLoss
from certtrain.methods.base import Value
from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import accuracy, robust_cross_entropy
from certtrain.methods.regions import Prepared
from certtrain.schedules import Ramp, Weight

NO_CLEAN_LOSS = Weight(0.0, 0.0)


@dataclass(frozen=True)
class MixedLoss(AttackedLoss):
    """A loss of predictions at adversarial inputs, and with weight alpha of interval bounds.

    Args:
        alpha: the weight of the bounds, in [0, 1].
        attack: finds the adversarial inputs.

    Raises:
        UserError: alpha out of its range; as `AttackedLoss`.
    """

    alpha: float = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        alpha = self.alpha
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
            fix = "method.alpha=0.5; 0 is adversarial training (method=pgd), 1 is IBP (method=ibp)"
            raise UserError(f"alpha = {alpha!r} is not in [0, 1]", where="method.alpha", fix=fix)

    def parts(self, bounds: Bounds, y: Tensor) -> dict[str, Tensor]:
        """What is logged: train_attacked, the share correct at x*; train_verified, the share proved at eps_t;
        loss_ibp."""
        margins = bounds.margins["ibp"].detach()
        return {
            "train_attacked": accuracy(bounds.clean, y),
            "train_verified": verified(margins).float().mean(),
            "loss_ibp": robust_cross_entropy(margins),
        }


@dataclass(frozen=True)
class ExpressiveLoss(MixedLoss):
    """A loss that rises with alpha from the adversarial loss (alpha = 0) to that of interval bounds (alpha = 1).

    Args:
        alpha, attack: see `MixedLoss`.
    """

    @abstractmethod
    def between(self, logits: Tensor, margins: Tensor, y: Tensor) -> Tensor:
        """The loss, ().

        Args:
            logits: (B, K) at the adversarial inputs.
            margins: (B, K-1) lower bounds of `z_y - z_j`.
            y: (B,) classes.
        """

    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: those of `MixedLoss`."""
        return self.between(bounds.clean, bounds.margins["ibp"], inputs.y), self.parts(bounds, inputs.y)


class ExpressiveTraining(BoundTraining):
    """The objective of `IBP` with an expressive loss; the clean loss counts only where kappa is given.

    Args:
        train_eps, ramp, options: see `BoundTraining`.
        alpha: in [0, 1]: at 1 this is IBP, at 0 adversarial training.
        attack: finds x*.

    Attributes:
        robust_loss: the class of its loss.

    Raises:
        UserError: alpha out of its range; a threat model that is not one box; as `BoundTraining`.
    """

    robust_loss: ClassVar[type[ExpressiveLoss]]

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        alpha: float = 0.5,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("kappa", NO_CLEAN_LOSS)
        super().__init__(train_eps, ramp, self.robust_loss(alpha=alpha, attack=attack), **options)
