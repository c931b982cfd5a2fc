"""What a noise is: how its keyed numbers are drawn, and which radius a probability under it proves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor

from certtrain.smoothing.confidence import SLACK, Radius, lower_bound
from certtrain.smoothing.noise import Purpose, Split, noise_rows
from certtrain.smoothing.selftest import check_noise
from certtrain.smoothing.votes import Precision
from certtrain.threat import L2, Threat


class Noise(ABC):
    """A distribution that is added to inputs; votes, confidence bounds, logs and audits are the same for all.

    Attributes:
        name: what a certificate by it is called in tables.
        law: in words that follow "votes under".
        threat: of which its radii are.
        sigma: standard deviation of each coordinate, in input units.
    """

    name: ClassVar[str]
    law: ClassVar[str]
    threat: ClassVar[Threat]
    sigma: float

    @abstractmethod
    def rows(
        self, seed: int, purpose: Purpose, split: Split, index: Tensor, draw: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        """(R, *shape) float32 noise of any list of (example, draw), `index` and `draw` (R,) int64; keyed by these."""

    @abstractmethod
    def radius(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B,) the radius r such that no change of distance < r takes the probability of the top class from p >= 1/2
        to 1/2 or less; rounded down."""

    @abstractmethod
    def test(self, device: torch.device, *, seed: int, precision: Precision) -> dict[str, Any]:
        """Draw, test, and refuse a broken generator; a report for the card.

        Raises:
            UserError: the numbers are not what they should be.
        """

    @property
    def brief(self) -> str:
        """For headings."""
        return f"smoothed with sigma {self.sigma:g}"

    def settings(self) -> dict[str, Any]:
        """What a card says of it."""
        return {
            "sigma": self.sigma,
            "noise": "Philox4x32-10, Box-Muller, float32; keyed by seed, purpose, split, index, draw",
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Self:
        """The noise that a card's settings state.

        Raises:
            KeyError, TypeError, ValueError, UserError: they state none.
        """
        return cls(float(settings["sigma"]))  # type: ignore[call-arg]

    def one_sided(self, count: ArrayLike, n: ArrayLike, alpha: float) -> Radius:
        """The radius from votes for a class that was chosen from other draws: abstains where its lower bound is < 1/2.

        Args:
            count: (B,) votes for it.
            n: draws, a number or (B,).
            alpha: probability with which one certificate may be wrong.
        """
        p = lower_bound(count, n, alpha)
        abstain = p < 0.5
        return Radius(np.where(abstain, 0.0, self.radius(np.maximum(p, 0.5))), abstain, p)


class Gaussian(Noise):
    """N(0, sigma^2 I), which certifies l2 balls: `R = sigma Phi^-1(p)` (Cohen et al. 2019).

    Args:
        sigma: standard deviation, > 0.
    """

    name, law, threat = "smoothing", "Gaussian noise", L2()

    def __init__(self, sigma: float) -> None:
        self.sigma = float(sigma)

    def rows(
        self, seed: int, purpose: Purpose, split: Split, index: Tensor, draw: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        return noise_rows(seed, purpose, split, index, draw, shape, self.sigma)

    def radius(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.sigma * ndtri(p) * (1 - SLACK)

    def test(self, device: torch.device, *, seed: int, precision: Precision) -> dict[str, Any]:
        return check_noise(device, seed=seed, precision=precision)
