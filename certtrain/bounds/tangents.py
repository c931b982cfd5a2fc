"""All tangents that are lines around a smooth function: what alpha-CROWN chooses from in place of a slope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from certtrain.bounds.nonlinear import Freedom

if TYPE_CHECKING:
    from certtrain.bounds.curves import Curve

ULPS = 16  # by which offsets are moved outward


@dataclass(frozen=True)
class Span:
    """Points of the box, (N, *shape) each: the tangent at every point from `first` to `last` is on its side of f.

    Attributes:
        usual: the point of CROWN's tangent.
        free: whether it is so; elsewhere one line is the best, or no other is known.
    """

    first: Tensor
    last: Tensor
    usual: Tensor
    free: Tensor


@dataclass(frozen=True)
class Tangents(Freedom):
    """Below f and above it the tangent at any point of a span, each by a parameter in [0, 1]; else CROWN's lines.

    Attributes:
        curve: f.
        under, over: where the tangents below and above f may touch it.
        lines: slope and offset below, slope and offset above, of CROWN's lines; (N, *shape) each.
        reach: the largest |z| of the box.
        values: `|f(l)| + |f(u)|`.
        gap: subtracted from what is below f.
    """

    curve: Curve
    under: Span
    over: Span
    lines: tuple[Tensor, Tensor, Tensor, Tensor]
    reach: Tensor
    values: Tensor
    gap: float = 0.0

    @classmethod
    def of(cls, curve: Curve, lower: Tensor, upper: Tensor, gap: float = 0.0) -> Tangents:
        """Over boxes."""
        usual = curve.lines(lower, upper)
        under, over = curve.spans(lower, upper)
        reach = torch.maximum(lower.abs(), upper.abs())
        values = curve.forward(lower).abs() + curve.forward(upper).abs()
        lines = (usual.low, usual.low_offset - gap, usual.high, usual.high_offset)
        return cls(curve, under, over, lines, reach, values, gap)

    def map(self, function: Callable[[Tensor], Tensor]) -> Tangents:
        spans = [Span(*(function(getattr(span, field.name)) for field in fields(Span))) for span in self._spans]
        lines = tuple(function(part) for part in self.lines)
        return Tangents(self.curve, *spans, lines, function(self.reach), function(self.values), self.gap)

    def start(self, flattest: bool = False) -> list[Tensor]:
        """The points of CROWN's tangents in either case."""
        found = []
        for span in self._spans:
            width = span.last - span.first
            share = (span.usual - span.first) / torch.where(span.free, width, torch.ones_like(width))
            found.append(torch.where(span.free, share.clamp(0, 1), torch.zeros_like(share)))
        return found

    def limits(self) -> list[tuple[Tensor | float, Tensor | float]]:
        return [(0.0, 1.0), (0.0, 1.0)]

    def backward(self, a: Tensor, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Of each neuron one line is used, by the sign of its coefficient: that one is drawn."""
        below = a > 0
        first, last, free = (
            torch.where(below, getattr(self.under, name)[:, None], getattr(self.over, name)[:, None])
            for name in ("first", "last", "free")
        )
        point = torch.lerp(first, last, torch.where(below, *values))
        slope, value = self.curve.slope(point), self.curve.forward(point)
        with torch.no_grad():
            rounding = self.reach[:, None] * (slope.abs() + self.curve.noise) + self.values[:, None] + value.abs()
            outward = ULPS * torch.finfo(a.dtype).eps * rounding
            outward = torch.where(below, -outward - self.gap, outward)
        low, low_offset, high, high_offset = (part[:, None] for part in self.lines)
        offset = torch.where(free, value - slope * point + outward, torch.where(below, low_offset, high_offset))
        slope = torch.where(free, slope, torch.where(below, low, high))
        return a * slope, (a * offset).flatten(2).sum(2)

    @property
    def _spans(self) -> tuple[Span, Span]:
        return self.under, self.over
