"""Lines with parameters, as the backward walks take them: one set of parameters per function, or one per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from certtrain.bounds.nonlinear import Freedom, Nonlinear, Relaxation
from certtrain.bounds.relaxation import Slopes
from certtrain.bounds.rules import Relu
from certtrain.system.work import pause

Choices = Mapping[int, Freedom | Relaxation]
Values = dict[int, list[Tensor]]


def choices(op: Relu | Nonlinear, lower: Tensor, upper: Tensor) -> Freedom | Relaxation:
    """All relaxations of an operation over boxes, or its one."""
    if isinstance(op, Relu):
        return Slopes.of(lower, upper)
    return op.freedom(lower, upper) or op.lines(lower, upper)


class Parameters(dict[int, Relaxation]):
    """The lines of every nonlinearity by step, with parameters that begin where a walk first meets them.

    The shape of parameters is that of the coefficients which the walk brings along: of the whole layer, or of a
    neuron's window in it. What is walked must stay the same functions, or, after `take`, some of them: the boxes of
    each are picked once.

    Attributes:
        values: by step the parameters, (N, S, *shape) of each function, or (B, S, *shape) where they are shared.

    Args:
        chosen: the relaxations of every nonlinearity.
        values: to start with, put within the limits of these boxes; None: those of CROWN, or the flattest lower lines.
        shared: whether all functions about one example have the same.
        flattest: see `Freedom.start`.
    """

    def __init__(
        self, chosen: Choices, values: Values | None = None, shared: bool = False, flattest: bool = False
    ) -> None:
        super().__init__()
        self.chosen, self.shared, self.flattest = chosen, shared, flattest
        self.values: Values = dict(values or {})
        self._strange = set(self.values)  # not known to lie within the limits
        for step, one in chosen.items():
            self[step] = _Line(self, step, one) if isinstance(one, Freedom) else one

    def take(self, part: Tensor) -> Parameters:
        """Those of some of the functions, (M,)."""
        found = Parameters(self.chosen, {step: [value[part] for value in some] for step, some in self.values.items()})
        found._strange.clear()
        return found

    def of(self, step: int, near: Freedom, functions: int) -> list[Tensor]:
        """The parameters of a step, made or put within their limits when they are asked for the first time."""
        if step not in self.values:
            start = near.start(self.flattest)
            self.values[step] = [one[:, None].expand(-1, functions, *one.shape[1:]).clone() for one in start]
        elif step in self._strange:
            pairs = zip(self.values[step], near.limits(), strict=True)
            self.values[step] = [projected(value, *ends) for value, ends in pairs]
        self._strange.discard(step)
        return self.values[step]

    def limits(self, step: int) -> list[tuple[Tensor | float, Tensor | float]]:
        """Of the parameters of a step that was met."""
        line = self[step]
        assert isinstance(line, _Line)
        return line.owners.limits()


class _Line:
    """The relaxation of one step.

    Attributes:
        owners: the boxes of those that parameters belong to: of the functions at hand, or of the examples.
        near: the boxes of the functions at hand.
    """

    def __init__(self, parameters: Parameters, step: int, every: Freedom) -> None:
        self.parameters, self.step, self.every = parameters, step, every
        self.owners: Freedom = every
        self.near: Freedom | None = None
        self.pick: Callable[[Tensor], Tensor] | None = None

    def at(self, rows: Tensor | None) -> _Line:
        return self if rows is None else self.map(lambda values: values[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> _Line:
        if self.parameters.shared:  # not kept: memory is why they are shared
            self.near, self.pick = self.every.map(function), function
        elif self.near is None:
            self.near = self.owners = self.every.map(function)
        return self

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        values = self.parameters.of(self.step, self.owners, a.shape[1])
        if (pick := self.pick) is not None:
            values = [torch.stack([pick(part) for part in value.unbind(1)], 1) for value in values]
        before, constant = (self.near or self.every).backward(a, values)
        if self.parameters.shared:
            self.near = self.pick = None
        if before.requires_grad:
            before.register_hook(_paused)
        return before, constant


def projected(value: Tensor, least: Tensor | float, most: Tensor | float) -> Tensor:
    """A parameter (N, S, *shape) within its limits."""
    least, most = (end[:, None] if isinstance(end, Tensor) else end for end in (least, most))
    return torch.clamp(value, least, most)  # type: ignore[arg-type]


def _paused(grad: Tensor) -> None:
    pause()
