"""Robust losses at adversarial inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from certtrain.methods.base import Streams
from certtrain.methods.inner_attack import InnerAttack, check_box, checked_attack
from certtrain.methods.regions import Prepared
from certtrain.methods.robust import RobustLoss
from certtrain.threat import Linf, Threat


@dataclass(frozen=True)
class AttackedLoss(RobustLoss):
    """A robust loss at adversarial inputs x*, with or without bounds.

    Where BatchNorm takes its statistics of the adversarial batch, as in the implementation of De Palma et al. (2024),
    one pass gives bounds and the logits at x*, and no further one is needed for x unless the clean loss counts.

    Args:
        attack: finds x*, which may lie outside of the ball that is bounded.

    Raises:
        UserError: an attack that is none, or takes no step.
    """

    attacked: ClassVar[bool] = True
    attack: InnerAttack = field(default_factory=InnerAttack)

    def __post_init__(self) -> None:
        checked_attack(self.attack, steps=1)

    def check(self, threat: Threat) -> None:
        """Refuse what is not one box."""
        check_box(threat, "adversarial training")

    def prepare(self, network: nn.Module, inputs: Prepared, threat: Threat, step: int, streams: Streams) -> Prepared:
        """Attack."""
        assert isinstance(threat, Linf)
        return inputs._replace(points=(self.attack.find(network, inputs, threat, step, streams),))

    def batch_norm_at(self, inputs: Prepared) -> tuple[Tensor, ...]:
        """x*, where the logits that come with the bounds are those at x."""
        return () if self.attacked else inputs.points[:1]
