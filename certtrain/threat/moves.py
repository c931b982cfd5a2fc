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
        """Where a start begins: the first at x, the others at random."""
        if restart == 0:
            return self.x
        words = key(seed, "attack", restart)
        generator = torch.Generator().manual_seed(words[0] << 32 | words[1])

        def draw(source: Callable[..., Tensor], *shape: int) -> Tensor:
            return source(*shape, generator=generator, dtype=torch.float32).to(self.x)

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
        # Rounding moves each of d coordinates by up to half an ulp of 1: stay that far inside.
        ulp = torch.finfo(x.dtype).eps
        self.inner = (eps * (1 - 4 * ulp) - ulp * math.sqrt(math.prod(x.shape[1:]))).clamp_min(0)

    def direction(self, gradient: Tensor) -> Tensor:
        gradient = gradient.nan_to_num(0, 0, 0)
        return gradient / _norms(gradient)

    def project(self, point: Tensor) -> Tensor:
        offset = point - self.x
        point = self.x + offset * (self.inner / _norms(offset)).clamp_max(1)
        # x is in the range: clipping to it brings no coordinate further from x.
        limited = self.lower is not None or self.upper is not None
        return point.clamp(self.lower, self.upper) if limited else point

    def random(self, draw: Callable[..., Tensor]) -> Tensor:
        offset = draw(torch.randn, *self.x.shape)
        share = draw(torch.rand, len(self.x), *([1] * (self.x.dim() - 1)))
        return self.x + offset * (self.eps * share / _norms(offset))


def _norms(values: Tensor) -> Tensor:
    norms = values.flatten(1).norm(dim=1).reshape(-1, *([1] * (values.dim() - 1)))
    return norms.clamp_min(torch.finfo(values.dtype).tiny)
