"""The attack that training runs inside a box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.errors import UserError
from certtrain.methods.base import Part
from certtrain.models.evaluation import frozen


@dataclass(frozen=True)
class InnerAttack(Part):
    """PGD on the cross-entropy inside a box, from a random point of it; the point with the largest loss is kept.

    Args:
        steps: gradient steps; 0 gives the random point.
        step_size: of a step, in half-widths of the box.
        decay: factor of the step's length after half and after three quarters of the steps.

    Raises:
        UserError: a negative number of steps, a step of no length.
    """

    steps: int = 8
    step_size: float = 0.5
    decay: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            what = f"attack.steps = {self.steps!r} is not a whole number >= 0"
            raise UserError(what, where="method.attack.steps", fix="method.attack.steps=8")
        for key in ("step_size", "decay"):
            if not getattr(self, key) > 0:
                what = f"attack.{key} = {getattr(self, key)!r} is not > 0"
                raise UserError(what, where=f"method.attack.{key}", fix=f"method.attack.{key}=0.5")

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor, box: tuple[Tensor, Tensor], start: Tensor) -> Tensor:
        """(B, ...) points of the box, without gradient.

        Args:
            network: left as it was; in eval mode meanwhile, without gradients of its weights.
            x: (B, ...) inputs, for their shape.
            y: (B,) classes.
            box: lower and upper corner, (B, ...) each.
            start: (B, ...) numbers in [0, 1), where in the box the attack begins.
        """
        lower, upper = box
        half = (upper - lower) / 2
        point = best = lower + start.to(x) * (upper - lower)
        largest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        with frozen(network), torch.enable_grad():
            for step in range(self.steps + 1):
                point = point.detach().requires_grad_()
                losses = F.cross_entropy(network(point), y, reduction="none")
                better = losses.detach() > largest
                largest = torch.where(better, losses.detach(), largest)
                best = torch.where(better.reshape(-1, *([1] * (x.dim() - 1))), point.detach(), best)
                if step == self.steps:
                    break
                (gradient,) = torch.autograd.grad(losses.sum(), point)
                shorter = self.decay ** ((2 * step >= self.steps) + (4 * step >= 3 * self.steps))
                point = point + self.step_size * shorter * half * gradient.sign()
                point = torch.minimum(torch.maximum(point, lower), upper)
        return best.detach()
