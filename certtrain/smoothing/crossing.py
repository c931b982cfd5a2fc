"""The exact probability that a count of votes crosses a boundary at any of several looks.

The votes for the top class are Bernoulli(p); their number is looked at after n_1 < n_2 < ... < n_S draws. A boundary
says at each look from which count on it is crossed. The probability that this ever happens is a finite sum: the
distribution of the count among the paths that have not crossed yet is carried from look to look (Armitage, McPherson
and Rowe 1969). Crossing is an increasing event in the single votes, so that its probability grows with p: a bound that
holds at p holds below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

# Increments further out than this many standard deviations (plus a few counts, where there are nearly none) are cut
# off, and so are negligible masses; what is cut is added to the probability of crossing, with room for the rounding of
# sums of positive float64 numbers.
DEVIATIONS, COUNTS = 12.0, 60
NEGLIGIBLE = 1e-30
ROUNDING = 1e-9


class Paths(NamedTuple):
    """Paths that have not crossed yet: `mass[i]` is the probability of a count of `low + i`."""

    mass: NDArray[np.float64]
    low: int
    lost: float  # cut off so far


START = Paths(np.ones(1), 0, 0.0)


def advance(paths: Paths, draws: int, p: float) -> Paths:
    """The distribution of the count after further draws, each a vote with probability p."""
    spread = DEVIATIONS * np.sqrt(draws * p * (1 - p)) + COUNTS
    first, last = max(0, int(draws * p - spread)), min(draws, int(np.ceil(draws * p + spread)))
    lost = float(binom.cdf(first - 1, draws, p) + binom.sf(last, draws, p))
    mass = np.convolve(paths.mass, binom.pmf(np.arange(first, last + 1), draws, p))
    kept = np.flatnonzero(mass > NEGLIGIBLE)
    start, stop = (int(kept[0]), int(kept[-1]) + 1) if len(kept) else (0, 1)
    lost += float(mass[:start].sum() + mass[stop:].sum())
    return Paths(mass[start:stop], paths.low + first + start, paths.lost + lost)


def tails(paths: Paths) -> NDArray[np.float64]:
    """(len(mass) + 1,) probabilities of a count of at least `low + i` among the paths."""
    return np.append(np.cumsum(paths.mass[::-1])[::-1], 0.0)


def crossing_probability(draws: Sequence[int], critical: Sequence[int], p: float) -> float:
    """P(at some look s: count_s >= critical_s) when each draw is a vote with probability p; never below the truth.

    Args:
        draws: cumulative numbers of draws at the looks, ascending.
        critical: the counts from which on a look crosses; a count above its draws never does.
        p: probability of a vote.

    Raises:
        ValueError: draws that do not ascend from at least 1, as many critical counts, p outside [0, 1].
    """
    check_looks(draws)
    if len(critical) != len(draws) or not 0 <= p <= 1:
        raise ValueError(f"{len(critical)} critical counts for {len(draws)} looks, p = {p}")
    paths, crossed, before = START, 0.0, 0
    for total, count in zip(draws, critical):
        paths = advance(paths, total - before, p)
        before = total
        keep = int(np.clip(count - paths.low, 0, len(paths.mass)))
        crossed += float(paths.mass[keep:].sum())
        paths = Paths(paths.mass[:keep], paths.low, paths.lost)
        if not keep:
            break
    return min(1.0, (crossed + paths.lost) * (1 + ROUNDING))


def spending_boundary(draws: Sequence[int], spend: Sequence[float], p: float) -> tuple[int, ...]:
    """The lowest counts for which the probability of having crossed by look s is at most spend_s (Lan and DeMets 1983).

    What one look leaves unspent, because counts are whole numbers, the next ones may spend.

    Args:
        draws: cumulative numbers of draws at the looks, ascending.
        spend: cumulative probabilities, not descending.
        p: the probability of a vote at which the bound must hold; below it, it then holds too.

    Returns:
        A critical count for each look; draws + 1, which is never reached, where nothing can be spent yet.
    """
    check_looks(draws)
    paths, crossed, before, critical = START, 0.0, 0, []
    for total, limit in zip(draws, spend, strict=True):
        paths = advance(paths, total - before, p)
        before = total
        tail = tails(paths)
        affordable = (crossed + paths.lost + tail) * (1 + ROUNDING) <= limit
        keep = int(affordable.argmax()) if affordable.any() else len(paths.mass)
        # The first entry above the largest count that has any probability costs nothing: never is safe to say.
        reachable = keep < len(paths.mass)
        crossed += float(tail[keep]) if reachable else 0.0
        critical.append(paths.low + keep if reachable else total + 1)
        paths = Paths(paths.mass[:keep], paths.low, paths.lost)
    return tuple(critical)


def check_looks(draws: Sequence[int]) -> None:
    """Refuse looks that do not come one after another.

    Raises:
        ValueError: no look, a first one without draws, or draws that do not ascend.
    """
    if not draws or draws[0] < 1 or any(a >= b for a, b in pairwise(draws)):
        raise ValueError(f"the numbers of draws {list(draws)} do not ascend from at least 1")
