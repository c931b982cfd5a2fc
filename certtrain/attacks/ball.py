"""The admissible inputs around an example, as an attack moves among them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from certtrain.attacks.search import per_example
from certtrain.randomness import key
from certtrain.threat import ThreatModel, may_be_asked

# Corners x -+ eps in [0, 1] are rounded by at most 2^-54 in float64, and so is eps: a radius that is less by 2^-52
# keeps every point inside the exact ball.
ROUNDING = Fraction(1, 2**52)


def inside(radius: Fraction | float) -> float:
    """A float64 radius whose box, computed in float64 around inputs in [0, 1], lies in the exact ball of the radius."""
    return float(max(Fraction(radius) - ROUNDING, Fraction(0)))


def inner(threat: ThreatModel, eps: Fraction | float | Tensor) -> ThreatModel:
    """The threat model of an attack in float64: at eps, a radius from `inside`, its box of scales rounded inward."""
    return replace(threat, eps=eps, outward=False, inward=True)


class Ball:
    """The admissible inputs around x. Points stay in it exactly, as floating point numbers.

    Args:
        x: (B, ...) inputs.
        threat: norm, eps (scalar or (B,)), scales and input range, to which the l2 ball is clipped, too.

    Raises:
        UserError: inputs outside the range, from which clipping could lead out of the ball.
    """

    def __init__(self, x: Tensor, threat: ThreatModel) -> None:
        self.x, self.threat, self.eps = x, threat, threat.eps_tensor(x)
        if threat.norm == "linf":
            self.lower, self.upper = threat.box(x)
        else:
            if may_be_asked(x):
                threat.check_range(x)
            # Rounding moves each of d coordinates by up to half an ulp of 1: stay that far inside.
            ulp = torch.finfo(x.dtype).eps
            self.inner = (self.eps * (1 - 4 * ulp) - ulp * math.sqrt(math.prod(x.shape[1:]))).clamp_min(0)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest direction, of length 1 in the ball's norm; none where the gradient is no number."""
        gradient = gradient.nan_to_num(0, 0, 0)
        if self.threat.norm == "linf":
            return gradient.sign()
        return gradient / self._norms(gradient)

    def project(self, point: Tensor) -> Tensor:
        """The nearest admissible input (l-inf), or one on the way to the nearest (l2)."""
        if self.threat.norm == "linf":
            return point.clamp(self.lower, self.upper)
        offset = point - self.x
        point = self.x + offset * (self.inner / self._norms(offset)).clamp_max(1)
        # x is in the range: clipping to it brings no coordinate further from x.
        return point.clamp(self.threat.lower, self.threat.upper) if self._bounded else point

    @property
    def admissible(self) -> Callable[[Tensor], Tensor] | None:
        """Of whole-numbered features only whole numbers count: maps a point to the nearest that does; None: all do."""
        scales = self.threat.scales
        if scales is None or not any(scales.whole):
            return None
        return lambda point: scales.admissible(point, self.x, self.eps)

    def start(self, restart: int, seed: int) -> Tensor:
        """Where a start begins: the first at x, the others at random, uniform (l-inf) or of random length (l2)."""
        if restart == 0:
            return self.x
        words = key(seed, "attack", restart)
        generator = torch.Generator().manual_seed(words[0] << 32 | words[1])

        def draw(source: object, *shape: int) -> Tensor:
            return source(*shape, generator=generator, dtype=torch.float32).to(self.x)  # type: ignore[operator]

        if self.threat.norm == "linf":
            share = draw(torch.rand, *self.x.shape)
            return self.project(self.lower + share * (self.upper - self.lower))
        offset = draw(torch.randn, *self.x.shape)
        share = draw(torch.rand, len(self.x), *([1] * (self.x.dim() - 1)))
        return self.project(self.x + offset * (self.eps * share / self._norms(offset)))

    @property
    def _bounded(self) -> bool:
        return self.threat.lower is not None or self.threat.upper is not None

    @staticmethod
    def _norms(values: Tensor) -> Tensor:
        norms = per_example(values.flatten(1).norm(dim=1), values)
        return norms.clamp_min(torch.finfo(values.dtype).tiny)
