"""Lines around smooth functions: chords and tangents, each above or below the function by an argument of convexity.

Three shapes, in which every claim rests on the same facts about `h = f - line` on a piece where f is convex
(concave): the line is a tangent at a point of the piece, and then h >= 0 (h <= 0) on it; or the largest (smallest) h of
the piece is at one of its ends.

**S-shaped** (sigmoid, tanh): f increasing, convex up to 0, concave from there. Upper line, c the slope of the chord:

- the chord where u <= 0, or f'(u) >= c. On [0, u] h is concave with h(u) = 0 and h'(u) >= 0: it rises up to 0. So
  h(0) <= 0, and on [l, 0], where h is convex, h is at most its values at the ends, 0 and h(0);
- else the tangent at a point p in [max(l, 0), u] that is not below f at l. On [max(l, 0), u] it is above the concave f;
  on [l, 0] h is convex and at most 0 at both ends.

The lower line is the same for -f(-z).

**Gates** (GELU, SiLU): f(z) = z/2 + an even function; concave up to -k, convex, concave from k; f' < 0 below -k, f' > 1
beyond k; the least value is f(z0). Upper line:

- where u > k and f'(u) < c: the tangent at p in [max(l, k), u] that is not below f at l. On [k, u] it is above; on
  (-inf, -k] its slope, > 1, exceeds f', so that h falls there and is largest at l; on the convex piece h is at most its
  values at the ends, which are those just treated. Mirrored where l < -k and f'(l) > c (both at once cannot be: c > 1
  and c < 0);
- else the chord: where u > k, h is concave on [max(l, k), u], 0 at u and rising there; likewise at l; between, convex.

Lower line:

- the chord where the box lies in one concave piece, or where l < -k, u <= k and f'(u) <= c (h is convex on [-k, u], 0
  at u and falls up to there; concave on [l, -k], at least 0 at both ends), or mirrored;
- else the tangent at p in [-k, k] that is not above f at l nor at u: on the concave pieces h is least at their ends.
  Such p exist: with l < -k and u > k the constant f(z0) is one, and those that do for l (for u) are all to the right
  (left) of some point.

**Convex** (softplus, ELU), increasing: above, the chord; below, the tangent at the middle, of either slope at a kink.

**Which tangent.** The area between line and function over the box is least for the tangent at the middle. Where the
middle is not allowed, the nearest allowed point is approached by bisection, from the allowed side only: whether a
point does is monotone in p (`d/dp [f(p) + f'(p)(x - p)] = f''(p)(x - p)`).

**All tangents** that are lines, for alpha-CROWN (`spans`): the allowed points from the nearest one, found by the same
bisection, to the end of the piece from which it comes; below a gate those that are allowed at both ends.

**Narrow boxes** would divide rounding by rounding. There both lines have the slope at the middle m, a distance
`K (u - l)^2 / 8` away from it (Taylor, K >= |f''|), and J (u - l) / 2 more where the slope jumps by at most J.

**Rounding.** Values and slopes of f are correct to a few units in the last place; the offsets move outward by more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from certtrain.bounds.nonlinear import Activation, LinePairs
from certtrain.bounds.tangents import ULPS, Span, Tangents

BISECTIONS = 20


@dataclass(frozen=True)
class Line:
    """`value + slope (z - anchor)`."""

    slope: Tensor
    anchor: Tensor
    value: Tensor

    def where(self, condition: Tensor, other: Line) -> Line:
        """This line where the condition holds, else the other."""
        return Line(
            torch.where(condition, self.slope, other.slope),
            torch.where(condition, self.anchor, other.anchor),
            torch.where(condition, self.value, other.value),
        )


class Curve(Activation):
    """A smooth activation; subclasses choose between the chord and tangents.

    Attributes:
        bend: K, at least the largest |f''|.
        jump: J, at least that of the slope at 0.
        noise: the absolute error of `forward` per |z|, in units of the precision, where it is not relative to f(z).
    """

    bend: float
    jump = 0.0
    noise = 0.0

    def slope(self, z: Tensor) -> Tensor:
        """f'(z)."""
        raise NotImplementedError

    def above(self, lower: Tensor, upper: Tensor) -> Line:
        """A line over f, on boxes that are not narrow."""
        raise NotImplementedError

    def below(self, lower: Tensor, upper: Tensor) -> Line:
        """A line under f, on boxes that are not narrow."""
        raise NotImplementedError

    def touches_above(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First and last point of those whose tangents are over f, and whether there are any; boxes not narrow."""
        raise NotImplementedError

    def touches_below(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Those whose tangents are under f."""
        raise NotImplementedError

    def extremes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest f over the box, to rounding."""
        raise NotImplementedError

    def freedom(self, lower: Tensor, upper: Tensor) -> Tangents:
        return Tangents.of(self, lower, upper)

    def spans(self, lower: Tensor, upper: Tensor) -> tuple[Span, Span]:
        """Where lines below and above f may touch it; nowhere where the box is narrow or not finite."""
        narrow = ~(upper - lower >= torch.finfo(lower.dtype).eps ** (1 / 3)) | ~(upper - lower).isfinite()
        left, right = torch.where(narrow, -torch.ones_like(lower), lower), torch.where(narrow, 1.0, upper)
        found = []
        for touches, usual in ((self.touches_below, self.below), (self.touches_above, self.above)):
            first, last, some = touches(left, right)
            found.append(Span(first, last, usual(left, right).anchor, some & ~narrow & (first < last)))
        return found[0], found[1]

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.extremes(lower, upper)
        reach = self.noise * torch.maximum(lower.abs(), upper.abs())
        unit = ULPS * torch.finfo(lower.dtype).eps
        unknown = (upper - lower) * 0  # NaN where the box is not finite
        down, up = (unit * (end.abs() + reach) + unknown for end in (low, high))
        return low - down.detach(), high + up.detach()

    def lines(self, lower: Tensor, upper: Tensor) -> LinePairs:
        eps = torch.finfo(lower.dtype).eps
        middle, width = (lower + upper) / 2, upper - lower
        narrow = width < eps ** (1 / 3)
        # Where narrow, some other box, so that what is not taken has a finite gradient.
        left, right = torch.where(narrow, middle.detach() - 1, lower), torch.where(narrow, middle.detach() + 1, upper)
        flat, away = (
            Line(self.slope(middle), middle, self.forward(middle)),
            self.bend / 8 * width.square() + self.jump / 2 * width,
        )
        under = Line(flat.slope, middle, flat.value - away).where(narrow, self.below(left, right))
        over = Line(flat.slope, middle, flat.value + away).where(narrow, self.above(left, right))
        reach = torch.maximum(lower.abs(), upper.abs())
        values = self.forward(lower).abs() + self.forward(upper).abs()
        # A selection drops NaN and infinity: what is known of such a box is nothing.
        unknown = width.detach() * 0
        offsets = []
        for line, sign in ((under, -1), (over, 1)):
            rounding = reach * (line.slope.abs() + self.noise) + values + line.value.abs()
            outward = sign * ULPS * eps * rounding.detach()
            offsets.append(line.value - line.slope * line.anchor + outward + unknown)
        return LinePairs(under.slope, offsets[0], over.slope, offsets[1])

    def chord(self, lower: Tensor, upper: Tensor) -> Line:
        """The line through the ends."""
        value = self.forward(lower)
        return Line((self.forward(upper) - value) / (upper - lower), lower, value)

    def tangent(self, end: Tensor, start: Tensor, far: Tensor, sign: int) -> Line:
        """The tangent nearest `start`, on the way to `far`, that at `end` is not below (1) or above (-1) f.

        That at `far` is taken to be one. The gradient is that of the tangent from `end`, whose slope is
        `(f(p) - f(end)) / (p - end)`, stationary in p; where the start will do, that of the tangent there.
        """
        with torch.no_grad():
            good, bad = far, start
            moved = ~self._allowed(end, start, sign)
            for _ in range(BISECTIONS):
                point = (good + bad) / 2
                allowed = self._allowed(end, point, sign)
                good, bad = torch.where(allowed, point, good), torch.where(allowed, bad, point)
        gap = torch.where(moved, good - end, torch.ones_like(end))
        point = torch.where(moved, good, start)
        value = self.forward(point)
        turned = (value.detach() - self.forward(end)) / gap
        slope = self.slope(point) + torch.where(moved, turned - turned.detach(), torch.zeros_like(turned))
        return Line(slope, point, value)

    def _allowed(self, end: Tensor, point: Tensor, sign: int) -> Tensor:
        return sign * (self.forward(point) + self.slope(point) * (end - point) - self.forward(end)) >= 0


class Convex(Curve):
    """Increasing and convex."""

    def extremes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(lower), self.forward(upper)

    def above(self, lower: Tensor, upper: Tensor) -> Line:
        return self.chord(lower, upper)

    def below(self, lower: Tensor, upper: Tensor) -> Line:
        middle = (lower + upper) / 2
        return Line(self.slope(middle), middle, self.forward(middle))

    def touches_above(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return lower, upper, torch.zeros_like(lower, dtype=torch.bool)

    def touches_below(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return lower, upper, torch.ones_like(lower, dtype=torch.bool)


class SShaped(Curve):
    """Increasing, convex up to 0 and concave from there."""

    def extremes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(lower), self.forward(upper)

    def above(self, lower: Tensor, upper: Tensor) -> Line:
        tangent = self.tangent(lower, ((lower + upper) / 2).clamp(min=0), upper, 1)
        chord = self.chord(lower, upper)
        return chord.where(self._chord_above(lower, upper, chord), tangent)

    def below(self, lower: Tensor, upper: Tensor) -> Line:
        tangent = self.tangent(upper, ((lower + upper) / 2).clamp(max=0), lower, -1)
        chord = self.chord(lower, upper)
        return chord.where(self._chord_below(lower, upper, chord), tangent)

    def touches_above(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.tangent(lower, lower.clamp(min=0), upper, 1).anchor
        return first, upper, ~self._chord_above(lower, upper, self.chord(lower, upper))

    def touches_below(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        last = self.tangent(upper, upper.clamp(max=0), lower, -1).anchor
        return lower, last, ~self._chord_below(lower, upper, self.chord(lower, upper))

    def _chord_above(self, lower: Tensor, upper: Tensor, chord: Line) -> Tensor:
        return (upper <= 0) | (self.slope(upper) >= chord.slope)

    def _chord_below(self, lower: Tensor, upper: Tensor, chord: Line) -> Tensor:
        return (lower >= 0) | (self.slope(lower) >= chord.slope)


class Gate(Curve):
    """z times a sigmoid of z: concave, convex from -`knot` to `knot`, concave; least at `least`."""

    knot: float
    least: float
    noise = 1.0

    def extremes(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        bottom = torch.minimum(lower.clamp(min=self.least), upper)  # the point of the box nearest z0
        return self.forward(bottom), torch.maximum(self.forward(lower), self.forward(upper))

    def above(self, lower: Tensor, upper: Tensor) -> Line:
        chord, middle = self.chord(lower, upper), (lower + upper) / 2
        left, right = self._tangent_above(lower, upper, chord)
        tangent = self.tangent(
            torch.where(right, lower, upper),
            torch.where(right, middle.clamp(min=self.knot), middle.clamp(max=-self.knot)),
            torch.where(right, upper, lower),
            1,
        )
        return tangent.where(right | left, chord)

    def below(self, lower: Tensor, upper: Tensor) -> Line:
        chord, (first, last) = self.chord(lower, upper), self._convex_piece(lower, upper)
        start = torch.minimum(torch.maximum((lower + upper) / 2, first), last)
        right = ~self._allowed(lower, start.detach(), -1)
        tangent = self.tangent(torch.where(right, lower, upper), start, torch.where(right, last, first), -1)
        return chord.where(self._chord_below(lower, upper, chord), tangent)

    def touches_above(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left, right = self._tangent_above(lower, upper, self.chord(lower, upper))
        nearest = self.tangent(
            torch.where(right, lower, upper),
            torch.where(right, lower.clamp(min=self.knot), upper.clamp(max=-self.knot)),
            torch.where(right, upper, lower),
            1,
        ).anchor
        return torch.where(right, nearest, lower), torch.where(right, upper, nearest), left | right

    def touches_below(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, last = self._convex_piece(lower, upper)
        by_chord = self._chord_below(lower, upper, self.chord(lower, upper))
        leftmost, rightmost = self.tangent(lower, first, last, -1).anchor, self.tangent(upper, last, first, -1).anchor
        return leftmost, rightmost, ~by_chord

    def _tangent_above(self, lower: Tensor, upper: Tensor, chord: Line) -> tuple[Tensor, Tensor]:
        """Whether the line above is a tangent left of -k, or right of k."""
        left = (lower < -self.knot) & (self.slope(lower) > chord.slope)
        return left, (upper > self.knot) & (self.slope(upper) < chord.slope)

    def _convex_piece(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        return lower.clamp(min=-self.knot), upper.clamp(max=self.knot)

    def _chord_below(self, lower: Tensor, upper: Tensor, chord: Line) -> Tensor:
        knot = self.knot
        return (
            (upper <= -knot)
            | (lower >= knot)
            | ((lower < -knot) & (upper <= knot) & (self.slope(upper) <= chord.slope))
            | ((lower >= -knot) & (upper > knot) & (self.slope(lower) >= chord.slope))
        )
