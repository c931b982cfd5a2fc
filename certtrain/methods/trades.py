"""TRADES (Zhang et al. 2019, arXiv 1901.08573): the clean loss, and how far an attack moves the prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import Bounds
from certtrain.methods.adversarial import AdversarialTraining, AttackOptions
from certtrain.methods.attacked import AttackedLoss
from certtrain.methods.base import Streams, Value, non_negative
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.losses import accuracy
from certtrain.methods.regions import Prepared
from certtrain.models.evaluation import frozen
from certtrain.schedules import Ramp
from certtrain.threat import Linf, Threat


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """(B,) `KL(softmax(clean) || softmax(attacked))` of (B, K) logits."""
    target, found = F.log_softmax(clean, 1), F.log_softmax(attacked, 1)
    return F.kl_div(found, target, reduction="none", log_target=True).sum(1)


@dataclass(frozen=True)
class TradesLoss(AttackedLoss):
    """`CE(z(x), y) + weight KL(p(x) || p(x*))`, with x* found by the attack on that divergence; no bounds.

    Gradients go through both predictions, as in the authors' implementation.

    Args:
        weight: 1/lambda of the paper, >= 0.
        attack: finds x*. Theirs begins 0.001 N(0, I) from x, ours at a random point of the box.
    """

    attacked: ClassVar[bool] = False
    weight: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative(self.weight, "method.weight")

    def prepare(self, network: nn.Module, inputs: Prepared, threat: Threat, step: int, streams: Streams) -> Prepared:
        """Attack the divergence from the prediction at x."""
        assert isinstance(threat, Linf)
        with frozen(network), torch.no_grad():
            clean = network(inputs.x)
        points = self.attack.find(network, inputs, threat, step, streams, partial(divergence, clean))
        return inputs._replace(points=(points,))

    def methods(self, step: int, ramp: Ramp) -> tuple[str, ...]:
        """None."""
        return ()

    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: loss_divergence, before its weight; train_attacked, the share correct at x*."""
        attacked = network(inputs.points[0])
        apart = divergence(bounds.clean, attacked).mean()
        parts = {"loss_divergence": apart.detach(), "train_attacked": accuracy(attacked, inputs.y)}
        return F.cross_entropy(bounds.clean, inputs.y) + self.weight * apart, parts


class TRADES(AdversarialTraining):
    """The loss of `TradesLoss` over the ball at eps_t.

    Args:
        train_eps, ramp, options: see `AdversarialTraining`.
        weight: 1/lambda of the paper.
        attack: finds x*.

    Raises:
        UserError: a negative weight; an attack that takes no step; as `AdversarialTraining`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        weight: float = 6.0,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[AttackOptions],
    ) -> None:
        super().__init__(train_eps, ramp, TradesLoss(attack, weight), **options)
