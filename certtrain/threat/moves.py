"""How an attack moves among the admissible inputs around an example; points stay in the set exactly, as floats."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from certtrain.randomness import key


class Moves(ABC):
    """The admissible inputs around x.

    Attributes:
        x: (B, ...) inputs.
        eps: their radius, broadcasting against x.
        admissible: maps points of the set to the nearest that count, such as whole numbers; None: all do.
    """

    admissible: Callable[[Tensor], Tensor] | None = None

    def __init__(self, x: Tensor, eps: Tensor) -> None:
        self.x, self.eps = x, eps

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest direction, of length 1 in the set's norm; none where the gradient is no number."""

    @abstractmethod
    def project(self, point: Tensor) -> Tensor:
        """An admissible input near a point: the point itself where it is one."""

    @abstractmethod
    def random(self, draw: Callable[..., Tensor]) -> Tensor:
        """A random input of the set; `draw(torch.rand | torch.randn, *shape)` gives numbers like x."""

    def start(self, restart: int, seed: int) -> Tensor:
        """Where a start begins: the first at x, the others at random.

        Every row by the same numbers, so that what an attack finds does not depend on the batch that an example is in.
        """
        if restart == 0:
            return self.x
        words = key(seed, "attack", restart)
        generator = torch.Generator().manual_seed(words[0] << 32 | words[1])

        def draw(source: Callable[..., Tensor], *shape: int) -> Tensor:
            return source(1, *shape[1:], generator=generator, dtype=torch.float32).to(self.x).expand(shape)

        return self.project(self.random(draw))


class BoxMoves(Moves):
    """Between two corners: along the sign of the gradient; projected to the nearest point; uniform at random."""

    def __init__(self, x: Tensor, eps: Tensor, lower: Tensor, upper: Tensor) -> None:
        super().__init__(x, eps)
        self.lower, self.upper = lower, upper

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.nan_to_num(0, 0, 0).sign()

    def project(self, point: Tensor) -> Tensor:
        return point.clamp(self.lower, self.upper)

    def random(self, draw: Callable[..., Tensor]) -> Tensor:
        return self.lower + draw(torch.rand, *self.x.shape) * (self.upper - self.lower)


class BallMoves(Moves):
    """In an l2 ball and the input range: along the gradient; projected on the way to the nearest; of random length."""

    def __init__(self, x: Tensor, eps: Tensor, lower: float | None, upper: float | None) -> None:
        super().__init__(x, eps)
        self.lower, self.upper = lower, upper
        # No coordinate of a point is larger: its rounding is up to half an ulp of that.
        if lower is not None and upper is not None:
            self.reach: Tensor | float = max(1.0, abs(lower), abs(upper))
        else:
            self.reach = (each(x.flatten(1).abs().amax(1), x) + eps).clamp_min(1)

    def length(self, values: Tensor) -> Tensor:
        """(B, 1, ..., 1) in the set's norm."""
        return each(values.flatten(1).norm(dim=1), values)

    def moved(self, offset: Tensor) -> Tensor | float:
        """How far the rounding of x + offset may carry it in the set's norm, in ulps of `reach`."""
        return math.sqrt(math.prod(offset.shape[1:]))

    def direction(self, gradient: Tensor) -> Tensor:
        gradient = gradient.nan_to_num(0, 0, 0)
        return gradient / _positive(self.length(gradient))

    def project(self, point: Tensor) -> Tensor:
        offset, ulp = point - self.x, torch.finfo(self.x.dtype).eps
        rounded = self.moved(offset)
        inner = (self.eps * (1 - 4 * ulp) - ulp * rounded * self.reach).clamp_min(0)  # stay that far inside
        point = self.x + offset * (inner / _positive(self.length(offset))).clamp_max(1)
        # x is in the range: clipping to it brings no coordinate further from x.
        limited = self.lower is not None or self.upper is not None
        return point.clamp(self.lower, self.upper) if limited else point

    def random(self, draw: Callable[..., Tensor]) -> Tensor:
        offset = draw(torch.randn, *self.x.shape)
        share = draw(torch.rand, len(self.x), *([1] * (self.x.dim() - 1)))
        return self.x + offset * (self.eps * share / _positive(self.length(offset)))


class L1Moves(BallMoves):
    """In an l1 ball and the input range: towards the corner of both that a linear function prefers, as Frank and Wolfe.

    That corner spends the radius on the coordinates of the largest derivatives, each as far as the range lets it (one
    alone where there is no range), so that a step does not end where a single pixel cannot change any more.
    """

    def length(self, values: Tensor) -> Tensor:
        return each(values.flatten(1).abs().sum(1), values)

    def moved(self, offset: Tensor) -> Tensor:
        # Coordinates that stay are not rounded. A sum of n terms is off by up to n/2 ulps of itself, at most eps.
        return (1 + self.eps) * each((offset != 0).flatten(1).sum(1).to(offset.dtype), offset)

    def direction(self, gradient: Tensor) -> Tensor:
        gradient = gradient.nan_to_num(0, 0, 0)
        steep, order = gradient.abs().flatten(1).sort(dim=1, descending=True, stable=True)
        room = self._room(gradient).flatten(1).gather(1, order).where(steep > 0, 0)
        eps = self.eps.expand(len(self.x), *([1] * (self.x.dim() - 1))).reshape(-1, 1)
        spent = (eps - room.cumsum(1) + room).clamp_min(0).minimum(room)
        corner = torch.zeros_like(room).scatter(1, order, spent).reshape(gradient.shape) * gradient.sign()
        return corner / _positive(self.length(corner))

    def _room(self, gradient: Tensor) -> Tensor:
        """How far each coordinate can go against the gradient."""
        down = self.eps if self.lower is None else self.x - self.lower
        up = self.eps if self.upper is None else self.upper - self.x
        return torch.where(gradient > 0, down, up).minimum(self.eps)


def each(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ..., 1)."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def _positive(lengths: Tensor) -> Tensor:
    return lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
