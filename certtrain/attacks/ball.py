"""The exact sets that attacks move in, in float64."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from torch import Tensor

from certtrain.threat import Threat

# Corners x -+ eps in [0, 1] are rounded by at most 2^-54 in float64, and so is eps: a radius that is less by 2^-52
# keeps every point inside the exact ball.
ROUNDING = Fraction(1, 2**52)


def inside(radius: Fraction | float) -> float:
    """A float64 radius whose box, computed in float64 around inputs in [0, 1], lies in the exact ball of the radius."""
    return float(max(Fraction(radius) - ROUNDING, Fraction(0)))


def inner(threat: Threat, eps: Fraction | float | Tensor) -> Threat:
    """The threat model of an attack in float64: at eps, a radius from `inside`, its box of scales rounded inward."""
    return replace(threat, eps=eps, outward=False, inward=True)
