"""The ladder of radii: with n draws at level alpha only n + 1 radii exist, one for each count of votes.

One-sided radii (Cohen et al. 2019) are `sigma Phi^-1(BetaInv(alpha; n - j, j + 1))` for j votes against the top class.
A log that names neither n nor alpha therefore betrays both: its radii lie on one ladder, and on few others. Two-sided
bounds at alpha (`1 - p_lower` as the other class' bound) are the ladder of alpha / 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc, ndtr, ndtri
from scipy.stats import binom

Floats = NDArray[np.float64]

# Distance at which two radii written in full count as one, relative and absolute: our own bounds are rounded down by
# 1e-12 of the probability, which Phi^-1 magnifies to 1e-7 at the cap of a million draws.
EXACT, NEAR_ZERO = 2e-7, 1e-10
EXACT_DIGITS = 9  # decimals from which a radius counts as written in full


@dataclass(frozen=True)
class Ladder:
    """The radii that n draws at a one-sided level can give."""

    n: int
    level: float
    sigma: float

    @property
    def cap(self) -> float:
        """The radius when all n votes agree: `sigma Phi^-1(level^(1/n))`."""
        return self.sigma * float(-ndtri(-math.expm1(math.log(self.level) / self.n)))

    def count(self, radius: ArrayLike) -> NDArray[np.int64]:
        """The fewest votes whose radius is at least this; n + 1 above the cap."""
        p = ndtr(np.asarray(radius, dtype=np.float64) / self.sigma)
        found = np.asarray(binom.isf(self.level, self.n, p), dtype=np.float64) + 1
        # lower_bound(k) >= p means P(Binomial(n, p) >= k) <= level: mend what rounding in the quantile left.
        for step in (1, -1):
            wrong = self._below(found, p) if step == 1 else ~self._below(found - 1, p) & (found > 0)
            found = np.where(wrong & (found <= self.n), found + step, found)
        return np.clip(found, 0, self.n + 1).astype(np.int64)

    def _below(self, count: Floats, p: Floats) -> NDArray[np.bool_]:
        """Whether the lower bound of a count is below p: P(Binomial(n, p) >= count) > level."""
        inside = (count >= 1) & (count <= self.n)
        tail = bdtrc(np.clip(count - 1, 0, self.n - 1), self.n, p)
        return np.where(inside, tail > self.level, count < 1)

    def radius(self, count: ArrayLike) -> Floats:
        """The radius of so many votes, negative where the classifier would abstain."""
        from scipy.stats import beta

        k = np.asarray(count, dtype=np.float64)
        return self.sigma * ndtri(beta.ppf(self.level, np.maximum(k, 1), self.n - k + 1))

    def holds(self, low: ArrayLike, high: ArrayLike) -> NDArray[np.bool_]:
        """(m,) whether some radius of the ladder lies in [low, high]."""
        votes = self.count(low)
        within = votes <= self.n
        return within & (self.radius(np.minimum(votes, self.n)) <= np.asarray(high))


@dataclass(frozen=True)
class Printed:
    """Radii as a log shows them: distinct, ascending, and how far each may lie from what it was rounded from.

    Attributes:
        radius: (m,) float64, > 0.
        rows: (m,) int64: how many rows show it.
        half: (m,) float64: half a unit of the last place; 0 for radii written in full.
        decimals: of each decimal magnitude (0 for 1 to 9.99, -1 for 0.1 to 0.999) the decimals shown; empty when exact.
    """

    radius: Floats
    rows: NDArray[np.int64]
    half: Floats
    decimals: dict[int, int]

    @property
    def exact(self) -> bool:
        return not self.decimals

    @property
    def low(self) -> Floats:
        """The least that each was before it was rounded to the nearest."""
        return self.radius - self._within

    @property
    def high(self) -> Floats:
        """The most that each was before it was rounded to the nearest."""
        return self.radius + self._within

    @property
    def _within(self) -> Floats:
        return np.where(self.half > 0, self.half * (1 + EXACT), EXACT * self.radius + NEAR_ZERO)

    def all_between(self, low: float, high: float) -> tuple[Floats, Floats]:
        """Every radius that this log's rounding can show in [low, high], with half a unit of its last place."""
        shown = []
        for magnitude, decimals in self.decimals.items():
            unit = 10.0**-decimals
            first, last = max(low, 10.0**magnitude), min(high, 10.0 ** (magnitude + 1) - unit)
            steps = np.arange(math.ceil(first / unit - 1e-9), math.floor(last / unit + 1e-9) + 1) * unit
            shown.append(np.stack([steps, np.full(len(steps), unit / 2)]))
        values = np.concatenate(shown, axis=1) if shown else np.zeros((2, 0))
        return values[0], values[1]


def printed(texts: Sequence[str]) -> Printed:
    """The positive finite radii among the texts of a log, and the rounding that they show.

    `{:.3}`, three significant digits, drops trailing zeros: the decimals of a magnitude are the most that any radius
    of it shows. Too few rows make the rounding look coarser, which excludes less and never wrongly.
    """
    values: dict[float, int] = {}
    decimals: dict[int, int] = {}
    for text in texts:
        value = float(text)
        if not (math.isfinite(value) and value > 0):
            continue
        values[value] = values.get(value, 0) + 1
        magnitude = math.floor(math.log10(value) + 1e-12)
        decimals[magnitude] = max(decimals.get(magnitude, 0), _decimals(text))
    radius = np.array(sorted(values), dtype=np.float64)
    rows = np.array([values[value] for value in sorted(values)], dtype=np.int64)
    if any(shown >= EXACT_DIGITS for shown in decimals.values()) or not decimals:
        return Printed(radius, rows, np.zeros(len(radius)), {})
    half = np.array([0.5 * 10.0 ** -decimals[math.floor(math.log10(value) + 1e-12)] for value in radius])
    return Printed(radius, rows, half, decimals)


def _decimals(text: str) -> int:
    mantissa, _, exponent = text.lower().partition("e")
    return max(0, len(mantissa.partition(".")[2]) - int(exponent or 0))
