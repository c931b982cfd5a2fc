"""EDAC (Zhang et al. 2023, arXiv 2310.04539): adversarial training that first makes the network less certain."""

from __future__ import annotations

from fractions import Fraction
from typing import Unpack

from torch import Tensor

from certtrain.data.batch import Batch
from certtrain.methods.adversarial import AdversarialTraining, AttackOptions
from certtrain.methods.base import Context, non_negative
from certtrain.methods.inner_attack import InnerAttack
from certtrain.methods.pgd import AdversarialLoss
from certtrain.schedules import Ramp


def certainty(logits: Tensor) -> Tensor:
    """The mean over a batch of the standard deviation of an example's logits (B, K) over the classes, a scalar."""
    return logits.std(1).mean()


class EDAC(AdversarialTraining):
    """The objective of `PGD`; before each of its steps the optimiser takes one on `weight certainty(z(x*))`.

    x* of that first step is found for the weights as they are, x* of the objective for those that it leaves: an
    extragradient step. The optimiser is the training's own, with its state and learning rate. No such step is taken
    while eps_t = 0, and none at weight 0, which is `PGD`.

    Args:
        train_eps, ramp, options: see `AdversarialTraining`.
        weight: of the certainty, >= 0.
        attack: finds x*.

    Raises:
        UserError: a negative weight; an attack that takes no step; as `AdversarialTraining`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        weight: float = 0.3,
        attack: InnerAttack = InnerAttack(),  # noqa: B008 - frozen
        **options: Unpack[AttackOptions],
    ) -> None:
        super().__init__(train_eps, ramp, AdversarialLoss(attack), **options)
        self.weight = non_negative(weight, "method.weight")

    def before_step(self, context: Context, batch: Batch) -> None:
        """The step on the certainty."""
        if not self.weight or not self.phase(context.step).robust:
            return
        inputs = self.prepare(context.network, context.engine, batch, context.step, context.streams)
        context.descend(self.weight * certainty(context.network(inputs.points[0])), len(batch.y))
