"""Certificates of l1 balls by smoothing with uniform noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from certtrain.certifiers.smoothing import SmoothingCertifier
from certtrain.claim import Budget
from certtrain.smoothing.distribution import Noise
from certtrain.smoothing.noise import Purpose, Split
from certtrain.smoothing.staged import SELECT_AND_ESTIMATE
from certtrain.smoothing.uniform import Uniform
from certtrain.smoothing.votes import Precision


class UniformCertifier(SmoothingCertifier):
    """Certifies the network smoothed with uniform noise in l1: with confidence 1 - alpha for each example.

    Args:
        sigma: standard deviation of the noise in input units; its coordinates lie in +- sqrt(3) sigma.
        radii, n0, n, alpha, seed, split, batch_size, purposes, budget, precision: as for `SmoothingCertifier`.

    Raises:
        UserError: as `SmoothingCertifier`.
    """

    fixed_norm: ClassVar[str | None] = "l1"
    noise_kind: ClassVar[type[Noise]] = Uniform

    def __init__(
        self,
        sigma: float,
        radii: Sequence[object],
        n0: int = 100,
        n: int = 1000,
        alpha: float = 0.001,
        seed: int = 0,
        split: Split = "test",
        batch_size: int = 512,
        purposes: Sequence[Purpose] = SELECT_AND_ESTIMATE,
        budget: Budget = "example",
        precision: Precision = "float32",
    ) -> None:
        super().__init__(sigma, radii, n0, n, alpha, seed, split, False, batch_size, purposes, budget, precision)
