"""The two lines between which a ReLU lies on an interval, and all lower lines that there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from certtrain.bounds.nonlinear import Freedom
from certtrain.kernels.relu import BoxedRelu, RelaxedRelu, relu_lines
from certtrain.kernels.sloped import SlopedRelu


@dataclass(frozen=True)
class Lines:
    """Lines around a ReLU on [lower, upper]: `low z <= relu(z) <= high z + offset`; all (B, *shape)."""

    low: Tensor
    high: Tensor
    offset: Tensor

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor) -> Lines:
        """The adaptive lower line and the chord."""
        sign, high, offset, _ = relu_lines(lower, upper)
        return cls((sign > 0).to(lower.dtype), high, offset)

    def at(self, rows: Tensor | None) -> Lines:
        """The lines of the examples `rows`, (N,)."""
        return self if rows is None else self.map(lambda values: values[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> Lines:
        """The lines that `function` picks."""
        return Lines(function(self.low), function(self.high), function(self.offset))

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients before the ReLU, and the constants (N, S)."""
        before, constant = RelaxedRelu.apply(
            a.flatten(2), self.low.flatten(1), self.high.flatten(1), self.offset.flatten(1)
        )
        return before.view(a.shape), constant


@dataclass(frozen=True)
class BoxLines:
    """The same lines as `Lines.of(lower, upper)`, drawn while walking back: for bounds that are used once."""

    lower: Tensor
    upper: Tensor

    def at(self, rows: Tensor | None) -> BoxLines:
        """The lines of the examples `rows`, (N,)."""
        return self if rows is None else BoxLines(self.lower[rows], self.upper[rows])

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients before the ReLU, and the constants (N, S)."""
        before, constant = BoxedRelu.apply(a.flatten(2), self.lower.flatten(1), self.upper.flatten(1))
        return before.view(a.shape), constant


@dataclass(frozen=True)
class Slopes(Freedom):
    """Lines `low z <= f(z) <= high z + offset` around a (leaky) ReLU with any `least <= low <= most`; all (N, *shape).

    `f(z) = max(z, 0) + leak min(z, 0)`. Of an unstable neuron `low` is any number of [leak, 1]: left of 0 `low z` is
    at most `leak z`, right of it at most z. Of an active one it is 1, of an inactive one the leak.

    Attributes:
        chosen: the slope of CROWN.
    """

    least: Tensor
    most: Tensor
    chosen: Tensor
    high: Tensor
    offset: Tensor

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor, leak: float = 0.0) -> Slopes:
        """Over boxes: those of ReLU, or of LeakyReLU with a slope `leak` left of 0."""
        sign, high, offset, _ = relu_lines(lower, upper)
        active, alive, chosen = lower >= 0, upper > 0, sign > 0
        low = [(part.to(lower.dtype) * (1 - leak)).add_(leak) for part in (active, active | alive, chosen)]
        return cls(*low[:2], low[2].clamp(*low[:2]), leak + (1 - leak) * high, (1 - leak) * offset)

    def map(self, function: Callable[[Tensor], Tensor]) -> Slopes:
        return Slopes(*(function(part) for part in (self.least, self.most, self.chosen, self.high, self.offset)))

    def start(self, flattest: bool = False) -> list[Tensor]:
        return [self.least if flattest else self.chosen]

    def limits(self) -> list[tuple[Tensor | float, Tensor | float]]:
        return [(self.least, self.most)]

    def backward(self, a: Tensor, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        before, constant = SlopedRelu.apply(
            a.flatten(2), values[0].flatten(2), self.high.flatten(1), self.offset.flatten(1)
        )
        return before.view(a.shape), constant
