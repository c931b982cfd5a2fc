"""What every attack shares: what it found, and the state in which the network is attacked."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from certtrain.attacks.losses import descended, margin
from certtrain.errors import UserError
from certtrain.models.evaluation import frozen
from certtrain.system.work import pause
from certtrain.threat import Threat


class Attack(NamedTuple):
    """What an attack found.

    Attributes:
        margin: (B,) the smallest `min_j z_y - z_j`, j != y, met inside the ball; <= 0 means not robust. NaN where that
            was met and nothing <= 0.
        x: (B, ...) the input that has it.
    """

    margin: Tensor
    x: Tensor


class Search:
    """The best point met so far, while an attack looks at points.

    Args:
        network: to be attacked, in the state of `attacking`.
        x, y: inputs and classes.
        loss: what is descended.
        admissible: maps points of the ball to those that count, where not all do; the search may pass between them.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        loss: str,
        admissible: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.network, self.y, self.loss, self.admissible = network, y, loss, admissible
        self.best = Attack(x.new_full((len(x),), math.inf), x)

    def look(self, point: Tensor) -> Tensor:
        """(B,) the loss at points of the ball, which are remembered when they are the best."""
        pause()
        with torch.no_grad():
            point = point if self.admissible is None else self.admissible(point)
            logits = self.network(point)
            self._remember(logits, point)
            return descended(self.loss, logits, self.y)

    def descend(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) the loss at points of the ball, and its gradient there, (B, ...)."""
        pause()
        point = point.detach().requires_grad_()
        logits = self.network(point)
        if self.admissible is None:
            self._remember(logits, point)
        else:
            self.look(point.detach())
        loss = descended(self.loss, logits, self.y)
        (gradient,) = torch.autograd.grad(loss.sum(), point)
        return loss.detach(), gradient

    def _remember(self, logits: Tensor, point: Tensor) -> None:
        self.best = worse(self.best, Attack(margin(logits.detach(), self.y), point.detach()))


def worse(best: Attack, found: Attack) -> Attack:
    """Of each example the smaller margin. What is no number is smaller than a positive one, and larger than one that is
    an attack without doubt."""
    improved = (found.margin < best.margin) | (found.margin.isnan() & (best.margin > 0))
    improved |= best.margin.isnan() & (found.margin <= 0)
    rows = per_example(improved, found.x)
    return Attack(torch.where(improved, found.margin, best.margin), torch.where(rows, found.x, best.x))


def over_parts(attack: Callable[[Tensor, Threat], Attack], x: Tensor, threat: Threat) -> Attack | None:
    """The worst that an attack finds in the sets whose union the threat model is; None where it is a single one."""
    if not threat.several:
        return None
    return functools.reduce(worse, (attack(part, one) for part, one in threat.parts(x)))


@contextlib.contextmanager
def attacking(network: nn.Module, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The network frozen, gradients on also inside inference mode; gives the inputs and classes to work with."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(frozen(network))
        stack.enter_context(torch.enable_grad())
        yield tuple(tensor.clone() if tensor.is_inference() else tensor.detach() for tensor in (x, y))


def check_budget(steps: int, restarts: int) -> None:
    """Refuse a number of steps or restarts below 0.

    Raises:
        UserError: with both.
    """
    if steps < 0 or restarts < 0:
        raise UserError(f"an attack with {steps} steps and {restarts} restarts", where="attack", fix="use at least 0")


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values shaped (B, 1, ..., 1), to stand beside (B, ...) inputs."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


AttackFunction = Callable[..., Attack]
