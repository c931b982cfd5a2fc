"""Attacks on the smoothed network that training makes: in the l2 ball, through the mean softmax under given noises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certtrain.errors import UserError
from certtrain.methods.base import Part, non_negative, whole
from certtrain.models.evaluation import frozen
from certtrain.schedules import Ramp
from certtrain.threat.moves import each

if TYPE_CHECKING:
    from certtrain.methods.noisy import Noisy

Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(B, ...) points to the unit gradient there, (B, ...), and to whether the smoothed network says y, (B,)."""


@dataclass(frozen=True)
class SmoothedAttack(Part, ABC):
    """An attack on `mean_i softmax(z(x + delta_i))` for the noises of a training step (Salman et al. 2019).

    Args:
        eps: radius of the l2 ball, in units of the input range (the authors' code divides theirs by 256 or 255).
        steps: gradient steps.

    Raises:
        UserError: an eps that is not >= 0; fewer than one step.
    """

    eps: float = 1.0
    steps: int = 10

    def __post_init__(self) -> None:
        non_negative(self.eps, "method.attack.eps")
        whole(self.steps, "method.attack.steps", good=10)

    def scheduled(self, step: int, ramp: Ramp) -> dict[str, float]:
        """attack_eps, the radius at this step."""
        return {"attack_eps": self.eps * ramp.fraction(step)}

    def find(self, network: nn.Module, inputs: Noisy, share: float) -> Tensor:
        """(B, ...) adversarial inputs in [0, 1] within `share` of eps, without gradient.

        Args:
            network: to attack; left as it was. Meanwhile in eval mode, without gradients of its weights.
            inputs: the examples and the noises to attack under.
            share: of the radius, in (0, 1].
        """
        with descending(network, inputs) as gradient:
            return self.search(gradient, inputs.x, self.eps * share)

    @abstractmethod
    def search(self, gradient: Gradient, x: Tensor, eps: float) -> Tensor:
        """(B, ...) adversarial inputs in [0, 1] within eps of x."""


@dataclass(frozen=True)
class SmoothedPGD(SmoothedAttack):
    """From x, steps of `2 eps / steps` along the gradient's direction; cut to [0, 1], then shortened to eps."""

    def search(self, gradient: Gradient, x: Tensor, eps: float) -> Tensor:
        """As `SmoothedAttack.search`."""
        point = x
        for _ in range(self.steps):
            point = point + 2 * eps / self.steps * gradient(point)[0]
            point = x + shortened(point.clamp(0, 1) - x, eps)
        return point


@dataclass(frozen=True)
class SmoothedDDN(SmoothedAttack):
    """Decoupled direction and norm (Rony et al. 2019, arXiv 1811.09600): the nearest point that is misclassified.

    Each step moves along the gradient's direction by a length that falls from 1 to 0.01 as a cosine, and is then put
    on a sphere whose radius shrinks by gamma where the last point was misclassified, and grows by gamma elsewhere. The
    nearest misclassified point is kept; the last point where there was none.

    Args:
        gamma: in (0, 1).
        norm: of the first step's result.
    """

    gamma: float = 0.05
    norm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        non_negative(self.norm, "method.attack.norm")
        if not isinstance(self.gamma, (int, float)) or not 0 < self.gamma < 1:
            what = f"attack.gamma = {self.gamma!r} is not in (0, 1)"
            raise UserError(what, where="method.attack.gamma", fix="method.attack.gamma=0.05")

    def search(self, gradient: Gradient, x: Tensor, eps: float) -> Tensor:
        """As `SmoothedAttack.search`."""
        offset = nearest = torch.zeros_like(x)
        radius = torch.full((len(x),), min(self.norm, eps), dtype=x.dtype, device=x.device)
        distance = torch.full_like(radius, torch.inf)
        for step in range(self.steps + 1):  # the last round only looks at what the last step found
            direction, correct = gradient(x + offset)
            closer = ~correct & (length(offset) < distance)
            distance = torch.where(closer, length(offset), distance)
            nearest = torch.where(each(closer, x), offset, nearest)
            if step == self.steps:
                break
            pace = 0.01 + 0.99 * (1 + math.cos(math.pi * step / self.steps)) / 2
            radius = (radius * torch.where(correct, 1 + self.gamma, 1 - self.gamma)).clamp(max=eps)
            offset = offset + pace * direction
            offset = offset * each(radius / length(offset).clamp(min=1e-12), x)
            offset = (x + offset).clamp(0, 1) - x
        return x + shortened(torch.where(each(distance.isfinite(), x), nearest, offset), eps)


@contextmanager
def descending(network: nn.Module, inputs: Noisy) -> Iterator[Gradient]:
    """The gradient that attacks follow: of `-log mean_i softmax(z(. + delta_i))_y`, computed from log-probabilities.

    Where it vanishes it stays 0: from logits that do not depend on the input there is nowhere to go.
    """
    with frozen(network):

        def gradient(point: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                point = point.detach().requires_grad_()
                logits = network(stacked(point, inputs.noise)).unflatten(0, inputs.noise.shape[:2])
                said = F.log_softmax(logits, dim=2).logsumexp(dim=1)  # up to log m, a constant
                (found,) = torch.autograd.grad(-said.gather(1, inputs.y[:, None]).sum(), point)
            return found / each(length(found).clamp(min=1e-30), found), said.detach().argmax(1) == inputs.y

        yield gradient


def stacked(x: Tensor, noise: Tensor) -> Tensor:
    """(B m, ...) rows `x + delta_i`, all noises of an input together, for (B, ...) inputs and (B, m, ...) noises."""
    return (x[:, None] + noise).flatten(0, 1)


def length(offset: Tensor) -> Tensor:
    """(B,) l2 norms."""
    return offset.flatten(1).norm(dim=1)


def shortened(offset: Tensor, eps: float) -> Tensor:
    """Offsets, those that are longer than eps shortened to it."""
    return offset * each((eps / length(offset).clamp(min=1e-30)).clamp(max=1), offset)
