"""CC-Dist (De Palma 2026, arXiv 2602.02626): CC-IBP, and the features of an adversarially trained teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Unpack

import torch
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine, Bounds
from certtrain.errors import UserError
from certtrain.methods.base import Streams, Value, non_negative
from certtrain.methods.bound_training import BoundTraining, Options
from certtrain.methods.cc_ibp import CCIBPLoss
from certtrain.methods.expressive import NO_CLEAN_LOSS
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.regions import Prepared
from certtrain.methods.teacher import Teacher, checked_teacher
from certtrain.schedules import Ramp
from certtrain.threat import Threat


def feature_distance(attacked: Tensor, lower: Tensor, upper: Tensor, target: Tensor, alpha: float) -> Tensor:
    """The mean over a batch and its features of how far they may be from the teacher's, squared:

        max(((1 - alpha) h* + alpha l - t)^2, ((1 - alpha) h* + alpha u - t)^2).

    Args:
        attacked: (B, d) features h* at the adversarial inputs.
        lower, upper: (B, d) their bounds l and u.
        target: (B, d) the teacher's features t.
        alpha: weight of the bounds, in [0, 1].
    """
    apart = (1 - alpha) * attacked - target
    return torch.maximum((apart + alpha * lower) ** 2, (apart + alpha * upper) ** 2).mean()


@dataclass(frozen=True)
class CCDistLoss(CCIBPLoss):
    """`cc_ibp` of the margins, plus `weight feature_distance` from a teacher's features at x; the same alpha in both.

    Features are what the last linear layer takes. Their interval bounds come with those of the margins.

    Args:
        teacher: with as many features; adversarially trained in the paper.
        weight: of the distance, >= 0: beta times the number of features in the paper.
        alpha, attack: see `CCIBPLoss`.

    Raises:
        UserError: a negative weight, no teacher; as `CCIBPLoss`.
    """

    teacher: Teacher = field(kw_only=True)
    weight: float = field(default=5.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "teacher", checked_teacher(self.teacher))
        non_negative(self.weight, "method.weight")

    def begin(self, engine: BoundEngine, threat: Threat) -> None:
        """Refuse networks without features, and a teacher with another number of them."""
        if not self.weight:
            return
        mine, theirs = engine.features().size, self.teacher.inside.size
        if mine != theirs:
            raise UserError(
                f"the network has {mine} features before its last linear layer, and the teacher {theirs}",
                where="method.teacher",
                fix="a teacher of the same architecture, or method.weight=0",
            )

    def prepare(self, network: nn.Module, inputs: Prepared, threat: Threat, step: int, streams: Streams) -> Prepared:
        """Attack, and ask the teacher."""
        inputs = super().prepare(network, inputs, threat, step, streams)
        if not self.weight:
            return inputs
        return inputs._replace(points=(*inputs.points, self.teacher.features(inputs.x)))

    def bounds(
        self,
        engine: BoundEngine,
        inputs: Prepared,
        threat: Threat,
        methods: tuple[str, ...],
        at: tuple[str, ...] = (),
    ) -> Bounds:
        """Bounds of margins and features around x, with logits and features at x*."""
        more = (engine.features().name,) if self.weight else ()
        return super().bounds(engine, inputs, threat, methods, (*at, *more))

    def loss(
        self,
        network: nn.Module,
        bounds: Bounds,
        inputs: Prepared,
        methods: tuple[str, ...],
        values: Mapping[str, Value],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Parts: those of `MixedLoss`, and loss_features, before its weight."""
        loss, parts = super().loss(network, bounds, inputs, methods, values)
        if not self.weight:
            return loss, parts
        (node,), target = bounds.at.values(), inputs.points[1]
        if node.clean.shape != target.shape:
            raise UserError(
                f"features of shape {tuple(node.clean.shape[1:])}, and the teacher's of {tuple(target.shape[1:])}",
                where="method.teacher",
                fix="a teacher of the same architecture",
            )
        apart = feature_distance(node.clean, node.lower, node.upper, target, self.alpha)
        return loss + self.weight * apart, {**parts, "loss_features": apart.detach()}


class CCDist(BoundTraining):
    """Training with `CCDistLoss`; the clean loss counts only where kappa is given.

    At weight 0 this is CC-IBP. While eps_t = 0 it is the plain cross-entropy, as for every method with bounds.

    Args:
        train_eps, ramp, options: see `BoundTraining`.
        teacher: a network; in a configuration a run, or a file of weights.
        alpha: weight of the bounds, in [0, 1].
        weight: of the distance from the teacher's features.
        attack: finds x*.

    Raises:
        UserError: as `CCDistLoss` and `BoundTraining`; before the first step networks without features or with other
            numbers of them, and a bound engine without bounds inside the network.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        teacher: Teacher | nn.Module,
        alpha: float = 0.5,
        weight: float = 5.0,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("kappa", NO_CLEAN_LOSS)
        if weight and options.get("bn_source") == "clean":
            raise UserError(
                "bn_source=clean, where no pass gives the features at the adversarial input",
                where="method.bn_source",
                fix="method.bn_source=null, or method.weight=0",
            )
        robust = CCDistLoss(attack, alpha=alpha, teacher=checked_teacher(teacher), weight=weight)
        super().__init__(train_eps, ramp, robust, **options)
