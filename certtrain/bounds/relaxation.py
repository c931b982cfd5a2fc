"""The two lines between which a ReLU lies on an interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from certtrain.kernels.relu import BoxedRelu, RelaxedRelu, relu_lines


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
