"""SABR (Mueller et al. 2023, arXiv 2210.04871): interval bounds over a small box that holds an adversarial input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.bounds.base import BoundEngine
from certtrain.data.batch import Batch
from certtrain.errors import UserError
from certtrain.evaluation import frozen
from certtrain.methods.base import Streams, Value
from certtrain.methods.ibp import IBP, Ramp
from certtrain.threat import Linf, Threat


class Boxed(NamedTuple):
    """A batch with the small boxes of its examples.

    Attributes:
        x, y, index: of the batch.
        lower, upper: (B, ...) corners of the boxes, which need not hold x.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    lower: Tensor
    upper: Tensor


@dataclass(frozen=True)
class SmallBox(Linf):
    """The box between two corners; what a method bounds, not what a certificate is about."""

    corners: tuple[Tensor, Tensor] | None = None

    def box(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The corners."""
        assert self.corners is not None
        return self.corners


@dataclass(frozen=True)
class InnerAttack:
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


class SABR(IBP):
    """The objective of `IBP`, its bounds over the box of half-width `tau = share (ub - lb) / 2` around

        c = clip(x*, lb + tau, ub - tau),

    where [lb, ub] is the l-inf ball at eps_t within the input range and x* an adversarial input of it. At share 1 it is
    IBP, near 0 it is training on adversarial inputs. The clean loss, weighted by kappa, is at x itself; Shi et al.'s
    regulariser is of the small box. Nothing is certified over it: a certifier takes the whole ball.

    Args:
        train_eps: the radius at the ramp's end.
        ramp: the rise of eps.
        share: lambda of the paper, in (0, 1].
        attack: finds x*.
        options: of `IBP`: kappa, l1, regulariser, init, norm, ...

    Raises:
        UserError: a share out of its range; a threat model that is not one box; as `IBP`.
    """

    def __init__(
        self,
        train_eps: Fraction | float | str,
        ramp: Ramp,
        share: float = 0.4,
        attack: InnerAttack | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(train_eps, ramp, **options)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise UserError(f"share = {share!r} is not in (0, 1]", where="method.share", fix="method.share=0.4")
        if not isinstance(self.threat, Linf) or self.threat.several:
            raise UserError(
                f"small boxes in {self.threat.symbol}, which is not a box",
                where="method",
                fix="norm=linf, or method=ibp",
            )
        self.share = float(share)
        self.attack = attack if isinstance(attack, InnerAttack) else InnerAttack(**(attack or {}))

    def prepare(
        self, network: nn.Module, engine: BoundEngine | None, batch: Batch, step: int, streams: Streams
    ) -> Boxed:
        """The small boxes: attacks where bounds are asked for."""
        phase = self.phase(step)
        if not (phase.robust or phase.regularised):
            return Boxed(*batch, batch.x, batch.x)
        lower, upper = self.threat.at(self.values(step)["eps"]).box(batch.x)
        if self.share == 1:
            return Boxed(*batch, lower, upper)
        start = streams.uniform(batch.x, batch.index, step, "attack")
        worst = self.attack(network, batch.x, batch.y, (lower, upper), start)
        tau = self.share * (upper - lower) / 2
        centre = torch.minimum(torch.maximum(worst, lower + tau), upper - tau)
        return Boxed(*batch, centre - tau, centre + tau)

    def around(self, inputs: Boxed, values: Mapping[str, Value]) -> Threat:
        """The small boxes."""
        return SmallBox(corners=(inputs.lower, inputs.upper))
