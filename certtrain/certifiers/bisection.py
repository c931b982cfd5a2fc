"""The largest radius that can be proved, by bisection; every probe that is proved is a certificate of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

Prove = Callable[[list[int], list[Fraction]], Sequence[bool]]
"""Of some examples, each at a radius of its own: whether it was proved there."""


def largest_proved(
    proved: Sequence[Fraction], beyond: Sequence[Fraction | None], tolerance: Fraction, prove: Prove
) -> list[Fraction]:
    """Of each example the largest radius that was proved, searched between `proved` and `beyond`.

    Halves the interval until it is no longer than the tolerance: the lower end is always proved, by the probe there.
    Bounds are not monotone in the radius, so that this need not be the largest radius that could be proved: a probe
    that failed may lie below one that would not have. The result stands on its own proof alone.

    Args:
        proved: the radii proved so far; 0 for none, which needs no proof.
        beyond: the radii up to which is searched; None (or one that is not larger) leaves an example as it is.
        tolerance: > 0.
        prove: decides probes.
    """
    low, high = list(proved), [lo if hi is None else hi for lo, hi in zip(proved, beyond)]
    while rows := [i for i in range(len(low)) if high[i] - low[i] > tolerance]:
        probes = [(low[i] + high[i]) / 2 for i in rows]
        for i, probe, won in zip(rows, probes, prove(rows, probes)):
            if won:
                low[i] = probe
            else:
                high[i] = probe
    return low


def float_down(value: Fraction) -> float:
    """The largest float64 that is <= the exact value: a claim that is no larger than its proof."""
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)
