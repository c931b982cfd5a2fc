"""What the engine asks of an operation that is not affine: boxes forwards, lines backwards.

A nonlinearity f is used through sound statements about a box [l, u] of its input:

- `interval`: `low <= f(z) <= high` for every z in the box;
- `lines`: `low(z) <= f(z) <= high(z)` with affine low and high, for every z in the box;
- `unsettled`: which coordinates of the box matter, so that a tighter box of theirs would tighten the lines;

and, where there is more than one choice of lines, `freedom`: the choices.

ReLU has the same three, written for speed, in `fused` and `lines`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor


class Relaxation(Protocol):
    """Affine functions around a nonlinearity, one pair per example and output."""

    def at(self, rows: Tensor | None) -> Relaxation:
        """Those of the examples `rows`, (N,)."""
        ...

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (N, S, *in) and constants (N, S) that bound `<a, f(z)>` from below, a (N, S, *out)."""
        ...


class Freedom:
    """The relaxations of a nonlinearity over boxes, one for every choice of some parameters (alpha-CROWN's slopes).

    All are sound: any parameters within their limits give lines around the function.
    """

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Those that `function` picks."""
        raise NotImplementedError

    def start(self, flattest: bool = False) -> list[Tensor]:
        """Each parameter (N, *shape) for the lines that CROWN takes; or for the flattest lower lines."""
        raise NotImplementedError

    def limits(self) -> list[tuple[Tensor | float, Tensor | float]]:
        """Of each parameter the least and the largest value, numbers or (N, *shape)."""
        raise NotImplementedError

    def backward(self, a: Tensor, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """As `Relaxation.backward`; the parameters are (N, S, *shape), for each of the functions its own."""
        raise NotImplementedError


class Nonlinear:
    """Base of the operations that are relaxed over the box of their input."""

    def forward(self, z: Tensor) -> Tensor:
        """f(z)."""
        raise NotImplementedError

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of f over the box."""
        raise NotImplementedError

    def lines(self, lower: Tensor, upper: Tensor) -> Relaxation:
        """The relaxation over the box."""
        raise NotImplementedError

    def unsettled(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Bool, of the input's shape."""
        return ~(lower == upper)

    def freedom(self, lower: Tensor, upper: Tensor) -> Freedom | None:
        """All relaxations over the box that alpha-CROWN chooses from; None where there is `lines` alone."""
        return None


class Activation(Nonlinear):
    """A nonlinearity that acts on every coordinate by itself; `kink` where its slope jumps at 0, as ReLU's does."""

    kink = False

    def lines(self, lower: Tensor, upper: Tensor) -> LinePairs:
        raise NotImplementedError


@dataclass(frozen=True)
class LinePairs:
    """`low z + low_offset <= f(z) <= high z + high_offset`; all (B, *shape)."""

    low: Tensor
    low_offset: Tensor
    high: Tensor
    high_offset: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> LinePairs:
        """The lines that `function` picks."""
        return LinePairs(*(function(t) for t in (self.low, self.low_offset, self.high, self.high_offset)))

    def at(self, rows: Tensor | None) -> LinePairs:
        """The lines of the examples `rows`, (N,)."""
        return self if rows is None else self.map(lambda values: values[rows])

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """`max(a, 0)` goes through the lower lines, `min(a, 0)` through the upper ones."""
        positive, negative = a.clamp(min=0), a.clamp(max=0)
        before = torch.addcmul(positive * self.low[:, None], negative, self.high[:, None])
        constant = _products(positive, self.low_offset) + _products(negative, self.high_offset)
        return before, constant


def _products(a: Tensor, offset: Tensor) -> Tensor:
    """<a, offset>, (N, S)."""
    return (a.flatten(2) @ offset.flatten(1)[:, :, None]).squeeze(2)
