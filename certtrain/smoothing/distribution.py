"""What a noise is: how its keyed numbers are drawn, and which radius a probability under it proves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from torch import Tensor

from certtrain.errors import UserError
from certtrain.smoothing.anytime import MOST_DRAWS
from certtrain.smoothing.confidence import SLACK, Radius, lower_bound, radius, upper_bound
from certtrain.smoothing.noise import Purpose, Split, noise_rows
from certtrain.smoothing.selftest import check_noise
from certtrain.smoothing.votes import Precision
from certtrain.threat import L2, Threat


class Noise(ABC):
    """A distribution that is added to inputs; votes, confidence bounds, logs and audits are the same for all.

    Args:
        sigma: standard deviation of each coordinate in input units, > 0.

    Attributes:
        name: what a certificate by it is called in tables.
        law: in words that follow "votes under".
        threat: of which its radii are.

    Raises:
        UserError: sigma is not a number in (0, inf).
    """

    name: ClassVar[str]
    law: ClassVar[str]
    threat: ClassVar[Threat]

    def __init__(self, sigma: float) -> None:
        if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not 0 < sigma < float("inf"):
            raise UserError(f"sigma = {sigma!r} with smoothing", where="sigma", fix="sigma > 0, such as sigma=0.25")
        self.sigma = float(sigma)

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
    def between(self, p_a: NDArray[np.float64], p_b: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B,) the radius r such that no change of distance < r makes a class of probability at most p_b as probable as
        one of at least p_a >= p_b; rounded down."""

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
        return cls(settings["sigma"])

    def fewest_draws(self, wanted: float, alpha: float) -> int | None:
        """The least number of draws, all for one class, whose lower bound at alpha proves a radius by `radius`.

        None where that is more than `MOST_DRAWS`, as for every radius beyond those of this noise.
        """

        def reaches(n: int) -> bool:
            return not (found := self.one_sided(n, n, alpha)).abstain and bool(found.radius >= wanted)

        enough = 1
        while not reaches(enough):
            if enough >= MOST_DRAWS:
                return None
            enough *= 2
        least = enough // 2  # which does not reach it: a bisection, for more draws prove no less
        while enough - least > 1:
            middle = (least + enough) // 2
            least, enough = (least, middle) if reaches(middle) else (middle, enough)
        return enough

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

    def two_sided(self, count: ArrayLike, runner_up: ArrayLike, classes: int, n: ArrayLike, alpha: float) -> Radius:
        """The radius from bounds of every class that hold together: abstains where p_a < p_b.

        p_a is the lower bound at alpha/2, p_b the smaller of 1 - p_a and the largest upper bound of the K - 1 other
        classes, each at alpha/(2(K - 1)). No other class has more of these votes than the runner-up among them, and
        upper bounds grow with the count: the largest is the runner-up's. At alpha/2 it alone would be unsound.

        Args:
            count: (B,) votes for the class that was chosen from other draws.
            runner_up: (B,) the most votes of any other class, among the same draws.
            classes: K.
            n: draws, a number or (B,).
            alpha: probability with which one certificate may be wrong.

        Raises:
            ValueError: fewer than two classes; as `lower_bound`.
        """
        if classes < 2:
            raise ValueError(f"two-sided bounds need the number of classes, not {classes}")
        p_a = lower_bound(count, n, alpha / 2)
        p_b = np.minimum(1 - p_a, upper_bound(runner_up, n, alpha / (2 * (classes - 1))))
        abstain = p_a < p_b
        with np.errstate(invalid="ignore"):  # of rows that abstain
            found = self.between(p_a, p_b)
        return Radius(np.where(abstain, 0.0, np.maximum(found, 0.0)), abstain, p_a)


class Gaussian(Noise):
    """N(0, sigma^2 I), which certifies l2 balls: `R = sigma Phi^-1(p)` (Cohen et al. 2019)."""

    name, law, threat = "smoothing", "Gaussian noise", L2()

    def rows(
        self, seed: int, purpose: Purpose, split: Split, index: Tensor, draw: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        return noise_rows(seed, purpose, split, index, draw, shape, self.sigma)

    def radius(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.sigma * ndtri(p) * (1 - SLACK)

    def between(self, p_a: NDArray[np.float64], p_b: NDArray[np.float64]) -> NDArray[np.float64]:
        return radius(p_a, p_b, self.sigma)

    def test(self, device: torch.device, *, seed: int, precision: Precision) -> dict[str, Any]:
        def rows(*key: Any) -> Tensor:  # which end with sigma
            return type(self)(key[-1]).rows(*key[:-1])

        return check_noise(device, seed=seed, precision=precision, generator=rows)
