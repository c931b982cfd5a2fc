"""From counts of votes to certified radii: Clopper-Pearson bounds, and the radius of Cohen et al. (2019).

Everything is float64, vectorised, and rounded in the sound direction: SciPy's quantiles are right to about 1e-14 of
themselves, its upper ones to about 1e-16 in all (of 1 vote in 10^7 draws 1e-10 of themselves). `SLACK` and `ABSOLUTE`
move each bound outwards by much more than that and by much less than anyone reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import beta, binom

SLACK, ABSOLUTE = 1e-12, 1e-15

Floats = NDArray[np.float64]


class Radius(NamedTuple):
    """Certified radii of a batch.

    Attributes:
        radius: (B,) l2 radii in input units; 0 where the classifier abstains.
        abstain: (B,) whether the top class is not shown to be the most probable.
        p_lower: (B,) lower confidence bound of the top class' probability.
    """

    radius: Floats
    abstain: NDArray[np.bool_]
    p_lower: Floats


def lower_bound(count: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
    """Clopper-Pearson: the p at which `P(Binomial(n, p) >= count) = alpha`, `BetaInv(alpha; count, n - count + 1)`.

    For every true p, the bound exceeds it with probability at most alpha. 0 when count = 0.

    Raises:
        ValueError: counts that are not whole, finite and in [0, n]; n < 1; alpha outside (0, 1).
    """
    k, total = _checked(count, n, alpha)
    p = beta.ppf(alpha, np.maximum(k, 1), total - k + 1)
    return np.where(k == 0, 0.0, np.maximum(p * (1 - SLACK), 0.0))


def upper_bound(count: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
    """Clopper-Pearson: the p at which `P(Binomial(n, p) <= count) = alpha`, `BetaInv(1 - alpha; count + 1, n - count)`.

    For every true p, the bound falls below it with probability at most alpha. 1 when count = n. Errors as
    `lower_bound`.
    """
    k, total = _checked(count, n, alpha)
    p = beta.isf(alpha, k + 1, np.maximum(total - k, 1))  # isf: 1 - alpha would round a small alpha away
    return np.where(k == total, 1.0, np.minimum(p * (1 + SLACK) + ABSOLUTE, 1.0))


def radius(p_a: ArrayLike, p_b: ArrayLike, sigma: float) -> Floats:
    """`R = sigma/2 (Phi^-1(p_a) - Phi^-1(p_b))`: no l2 perturbation below R changes the most probable class.

    Cohen et al. 2019, theorem 1. Negative where p_a < p_b. Rounded down.
    """
    r = 0.5 * sigma * (ndtri(np.asarray(p_a, np.float64)) - ndtri(np.asarray(p_b, np.float64)))
    return r - SLACK * np.abs(r)


def radius_one_sided(count: ArrayLike, n: ArrayLike, alpha: float, sigma: float) -> Radius:
    """`R = sigma Phi^-1(p_lower)`: the other classes share what the top class leaves, p_b = 1 - p_lower.

    The top class must have been chosen from other draws. Abstains where p_lower < 1/2.

    Args:
        count: (B,) votes for the top class among the estimation draws.
        n: estimation draws, a number or (B,).
        alpha: probability with which one certificate may be wrong.
        sigma: standard deviation of the noise.

    Raises:
        ValueError: as `lower_bound`; sigma that is not positive and finite.
    """
    _check_sigma(sigma)
    p = lower_bound(count, n, alpha)
    abstain = p < 0.5
    z = ndtri(np.maximum(p, 0.5))
    return Radius(np.where(abstain, 0.0, sigma * z * (1 - SLACK)), abstain, p)


def radius_two_sided(counts: ArrayLike, top: ArrayLike, alpha: float, sigma: float) -> Radius:
    """`R = sigma/2 (Phi^-1(p_a) - Phi^-1(p_b))` with bounds of every class that hold together.

    p_a is the top class' lower bound at alpha/2; p_b = min(1 - p_a, the largest upper bound over ALL other classes,
    each at alpha/(2(K-1))). Bounding only a runner-up would be unsound: chosen from the selection draws it need not be
    the runner-up, chosen from these draws its bound does not hold. Abstains where p_a < p_b.

    Args:
        counts: (B, K) votes per class among the estimation draws; a row's sum is its n.
        top: (B,) the class chosen from other draws.
        alpha: probability with which one certificate may be wrong.
        sigma: standard deviation of the noise.

    Raises:
        ValueError: as `radius_one_sided`; fewer than two classes, a top class outside them.
    """
    _check_sigma(sigma)
    votes, chosen = np.atleast_2d(np.asarray(counts)), np.atleast_1d(np.asarray(top))
    if votes.ndim != 2 or votes.shape[1] < 2:
        raise ValueError(f"counts of shape {votes.shape} are not (B, K) with K >= 2")
    if chosen.shape != votes.shape[:1] or (len(chosen) and not (chosen.min() >= 0 and chosen.max() < votes.shape[1])):
        raise ValueError("the top classes do not fit the counts")
    n = votes.sum(axis=1)
    rows, others = np.arange(len(votes)), votes.shape[1] - 1
    p_a = lower_bound(votes[rows, chosen], n, alpha / 2)
    upper = upper_bound(votes, n[:, None], alpha / (2 * others))
    upper[rows, chosen] = 0.0
    # A class without room above it is bounded by what the top class leaves, whatever its own count says.
    p_b = np.minimum(1 - p_a, upper.max(axis=1))
    abstain = p_a < p_b
    with np.errstate(invalid="ignore"):
        r = radius(np.clip(p_a, 0.0, 1.0), p_b, sigma)
    return Radius(np.where(abstain, 0.0, np.maximum(r, 0.0)), abstain, p_a)


def vote_is_decided(count_top: ArrayLike, count_other: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """PREDICT of Cohen et al. 2019: whether the two-sided binomial test of the two largest counts rejects 1/2 at alpha.

    The class returned then differs from the smoothed classifier's with probability at most alpha (Hung and Fithian
    2019): here the top class may be chosen from the same draws.
    """
    high, low = np.asarray(count_top), np.asarray(count_other)
    k, n = _checked(np.maximum(high, low), high + low, alpha)
    return np.minimum(1.0, 2 * binom.sf(k - 1, n, 0.5)) <= alpha


def _checked(count: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    k, total = np.broadcast_arrays(np.asarray(count, np.float64), np.asarray(n, np.float64))
    if not 0 < alpha < 1:
        raise ValueError(f"alpha = {alpha} is not in (0, 1)")
    whole = np.isfinite(k) & np.isfinite(total) & (k == np.floor(k)) & (total == np.floor(total))
    if not (whole & (k >= 0) & (k <= total) & (total >= 1)).all():
        raise ValueError("counts of votes must be whole numbers with 0 <= count <= n and n >= 1")
    return k, total


def _check_sigma(sigma: float) -> None:
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma = {sigma} is not positive and finite")
