"""The attack that training runs inside a box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.transposed import InputGradients
from certtrain.errors import UserError
from certtrain.methods.base import Part, Streams, whole
from certtrain.models.evaluation import frozen
from certtrain.threat import Linf
from certtrain.threat.moves import each

if TYPE_CHECKING:
    from certtrain.methods.regions import Prepared

Losses = Callable[[Tensor], Tensor]
"""(B, K) logits to the (B,) losses that an attack makes large."""


@dataclass(frozen=True)
class InnerAttack(Part):
    """PGD inside a box, from random points of it: by the sign of the gradient of each example's loss.

    Args:
        steps: gradient steps; 0 gives the random point.
        step_size: of a step, in half-widths of the box. From 2 on a step ends in a corner.
        decay: factor of the step's length at each milestone.
        milestones: shares of the steps after which the step is shortened.
        restarts: random points that the attack begins at.
        radius: of the box that is attacked, as a multiple of eps: expressive losses attack beyond what they bound.
        keep_best: keep the point with the largest loss of all that were visited. Otherwise the last one, which saves a
            forward pass.

    Raises:
        UserError: steps, restarts or lengths that make no attack; the last points of several restarts.
    """

    steps: int = 8
    step_size: float = 0.5
    decay: float = 0.1
    milestones: Sequence[float] = (0.5, 0.75)
    restarts: int = 1
    radius: float = 1.0
    keep_best: bool = True

    def __post_init__(self) -> None:
        for key, least, good in (("steps", 0, 8), ("restarts", 1, 1)):
            whole(getattr(self, key), f"method.attack.{key}", least, good)
        for key, good in (("step_size", 0.5), ("decay", 0.1), ("radius", 1.0)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                what = f"attack.{key} = {value!r} is not > 0"
                raise UserError(what, where=f"method.attack.{key}", fix=f"method.attack.{key}={good}")
        given = self.milestones
        shares = tuple(given) if isinstance(given, Sequence) else (None,)
        if not all(isinstance(one, (int, float)) and 0 <= one <= 1 for one in shares):
            what = f"attack.milestones = {given!r} is not a list of shares in [0, 1]"
            raise UserError(what, where="method.attack.milestones", fix="method.attack.milestones=[0.5,0.75]")
        object.__setattr__(self, "milestones", shares)
        if self.restarts > 1 and not self.keep_best:
            what = f"attack.restarts = {self.restarts} without attack.keep_best, which chooses among them"
            raise UserError(what, where="method.attack", fix="method.attack.keep_best=true or method.attack.restarts=1")

    def find(
        self,
        network: nn.Module,
        inputs: Prepared,
        threat: Linf,
        step: int,
        streams: Streams,
        losses: Losses | None = None,
    ) -> Tensor:
        """(B, ...) adversarial inputs within `radius` times the eps of a threat model, without gradient.

        Args:
            network: to attack; left as it was.
            inputs: the examples.
            threat: a box at eps_t.
            step: completed optimiser steps.
            streams: keyed random numbers, for the points where restarts begin.
            losses: what is made large; the cross-entropy when None.
        """
        box = threat.at(self.radius * threat.eps).box(inputs.x)
        found = None
        for restart in range(self.restarts):
            start = streams.uniform(inputs.x, inputs.index, step, f"attack {restart}" if restart else "attack")
            points, largest = self._search(network, inputs.x, inputs.y, box, start, losses)
            if found is None:
                found, most = points, largest
            else:
                better = largest > most
                found, most = torch.where(each(better, points), points, found), torch.maximum(largest, most)
        assert found is not None
        return found

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        box: tuple[Tensor, Tensor],
        start: Tensor,
        losses: Losses | None = None,
    ) -> Tensor:
        """(B, ...) points of the box, without gradient.

        Args:
            network: left as it was; in eval mode meanwhile, without gradients of its weights.
            x: (B, ...) inputs, for their shape.
            y: (B,) classes.
            box: lower and upper corner, (B, ...) each.
            start: (B, ...) numbers in [0, 1), where in the box the attack begins.
            losses: what is made large; the cross-entropy when None.
        """
        return self._search(network, x, y, box, start, losses)[0]

    def _search(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        box: tuple[Tensor, Tensor],
        start: Tensor,
        losses: Losses | None,
    ) -> tuple[Tensor, Tensor]:
        """The points, and with `keep_best` their (B,) losses."""
        lower, upper = box
        half = (upper - lower) / 2
        losses = losses or partial(F.cross_entropy, target=y, reduction="none")
        point = best = lower + start.to(x) * (upper - lower)
        largest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        with frozen(network), torch.enable_grad(), InputGradients():
            for step in range(self.steps + self.keep_best):
                point = point.detach().requires_grad_()
                found = losses(network(point))
                if self.keep_best:
                    better = found.detach() > largest
                    largest = torch.where(better, found.detach(), largest)
                    best = torch.where(each(better, x), point.detach(), best)
                if step == self.steps:
                    break
                (gradient,) = torch.autograd.grad(found.sum(), point)
                shorter = self.decay ** sum(step >= share * self.steps for share in self.milestones)
                point = point + self.step_size * shorter * half * gradient.sign()
                point = torch.minimum(torch.maximum(point, lower), upper)
        return (best if self.keep_best else point).detach(), largest


def checked_attack(attack: object, *, steps: int = 0) -> InnerAttack:
    """The attack itself.

    Raises:
        UserError: it is none, or takes fewer steps.
    """
    if not isinstance(attack, InnerAttack):
        fix = "{_target_: certtrain.methods.inner_attack.InnerAttack, steps: 8}"
        raise UserError(f"attack = {attack!r} is not an attack", where="method.attack", fix=fix)
    if attack.steps < steps:
        what = f"attack.steps = {attack.steps} with a method that needs an attack"
        raise UserError(what, where="method.attack.steps", fix="method.attack.steps=8, or method=ibp without an attack")
    return attack


def check_box(threat: object, what: str) -> None:
    """Refuse a threat model that is not one box, which is what the attack moves in.

    Raises:
        UserError: with what to change.
    """
    if not isinstance(threat, Linf) or threat.several:
        symbol = getattr(threat, "symbol", threat)
        raise UserError(f"{what} in {symbol}, which is not a box", where="method", fix="norm=linf, or method=ibp")
