"""Certificates of l1 balls by smoothing with uniform noise."""

from __future__ import annotations

from typing import ClassVar

from certtrain.certifiers.smoothing import SmoothingCertifier
from certtrain.smoothing.distribution import Noise
from certtrain.smoothing.uniform import Uniform


class UniformCertifier(SmoothingCertifier):
    """Certifies the network smoothed with uniform noise in l1: with confidence 1 - alpha for each example.

    Args:
        sigma: standard deviation of the noise in input units; its coordinates lie in +- sqrt(3) sigma.
        others: as for `SmoothingCertifier`.

    Raises:
        UserError: as `SmoothingCertifier`.
    """

    fixed_norm: ClassVar[str | None] = "l1"
    noise_kind: ClassVar[type[Noise]] = Uniform
