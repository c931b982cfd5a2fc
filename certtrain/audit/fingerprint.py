"""Which (n, alpha) the radii of a log are consistent with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from certtrain.audit.ladder import EXACT, NEAR_ZERO, Ladder, Printed

DRAWS = (100, 1_000, 10_000, 100_000, 1_000_000)
ALPHAS = (0.1, 0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001)
SIGMAS = (0.12, 0.25, 0.5, 1.0)  # of the field: tried, and called a guess, where none is stated
MOST = 1_000  # distinct radii looked at; the largest tell ladders apart best
CHANCE = 1e-6  # below this a consistent ladder is called unlikely
EXPLAINED = 0.01  # from here on a ladder explains the rows at the largest radius


@dataclass(frozen=True)
class Candidate:
    """One ladder, and what the log's radii say about it.

    Attributes:
        held: how many distinct radii lie on it.
        of: how many distinct radii there are.
        above: how many distinct radii lie above its cap.
        chance: how likely it is that a log of this ladder shows only radii that a coarser consistent one allows, too.
        pile: how likely it is at most that no row lies above the largest radius, where m rows lie, in units of that of
            the ladder that explains it best, whose cap it most often is.
    """

    ladder: Ladder
    held: int
    of: int
    above: int
    chance: float = 1.0
    pile: float = 1.0

    @property
    def consistent(self) -> bool:
        return self.held == self.of

    @property
    def likely(self) -> bool:
        return self.consistent and min(self.chance, self.pile) >= CHANCE

    def __str__(self) -> str:
        level = self.ladder.level
        two = min(ALPHAS, key=lambda alpha: abs(alpha - 2 * level))
        sides = [f"alpha = {level:g} one-sided"] if any(math.isclose(a, level) for a in ALPHAS) else []
        sides += [f"{2 * level:g} two-sided" if sides else f"alpha = {2 * level:g} two-sided"] * math.isclose(
            two, 2 * level
        )
        shown = " or ".join(sides) or f"level {level:g} one-sided"
        return f"n = {self.ladder.n:,}, {shown} (cap {self.ladder.cap:.4f})"


def levels(alphas: Iterable[float] = ALPHAS) -> list[float]:
    """One-sided levels to try: each alpha, and alpha / 2 of two-sided bounds."""
    found = {float(f"{value:.12g}") for alpha in alphas for value in (alpha, alpha / 2)}
    return sorted(found, reverse=True)


def thinned(shown: Printed) -> Printed:
    """At most `MOST` radii: the larger half of them from the top, the others spread over the rest."""
    if len(shown.radius) <= MOST:
        return shown
    top = np.arange(len(shown.radius) - MOST // 2, len(shown.radius))
    rest = np.unique(np.linspace(0, top[0] - 1, MOST // 2).astype(int))
    keep = np.concatenate([rest, top])
    return Printed(shown.radius[keep], shown.rows[keep], shown.half[keep], shown.decimals)


def fingerprint(
    shown: Printed, sigma: float, draws: Sequence[int] = DRAWS, alphas: Sequence[float] = ALPHAS
) -> list[Candidate]:
    """Every ladder tried, the consistent and likely ones first; of these the ones that explain the rows at the largest
    radius, and of these the coarsest (fewest draws) before the finer.

    A ladder is consistent when it has a radius within the rounding of every radius of the log. A finer ladder is
    nearly always consistent as well; it is unlikely when its logs would show many radii that a coarser consistent
    ladder does not have, and this one shows none of them. Any ladder is unlikely when many rows share the largest
    radius, which is the cap of another one, and none lies between it and the cap of this one.
    """
    shown = thinned(shown)
    found = []
    for n in draws:
        for level in levels(alphas):
            ladder = Ladder(n, level, sigma)
            on, above = ladder.holds(shown.low, shown.high), shown.low > ladder.cap
            found.append(Candidate(ladder, int(on.sum()), len(on), int(above.sum())))
    judged = _judged([candidate for candidate in found if candidate.consistent], shown)
    judged.sort(key=lambda c: (not c.likely, c.pile < EXPLAINED, c.ladder.n, -c.ladder.level))
    others = [candidate for candidate in found if not candidate.consistent]
    return judged + sorted(others, key=lambda c: (-c.held, c.ladder.n, -c.ladder.level))


def guess_sigma(shown: Printed) -> float | None:
    """The sigma of the field whose ladder holds every radius and has the largest of them as its cap; None if not one.

    A guess: easy images get all votes, so that a log of many rows shows its cap, and the caps of other sigmas differ.
    """
    if not len(shown.radius):
        return None
    few = thinned(shown)
    found = set()
    for ladder in (Ladder(n, level, sigma) for sigma in SIGMAS for n in DRAWS for level in levels()):
        if ladder.sigma not in found and _capped(ladder, few) and ladder.holds(few.low, few.high).all():
            found.add(ladder.sigma)
    return found.pop() if len(found) == 1 else None


def _judged(consistent: list[Candidate], shown: Printed) -> list[Candidate]:
    """The candidates, each with the chance that the others leave it."""
    if not len(shown.radius) or len(consistent) < 2:
        return consistent
    piles = [_log_pile_chance(candidate.ladder, shown) for candidate in consistent]
    judged = [replace(c, pile=math.exp(pile - max(piles))) for c, pile in zip(consistent, piles)]
    return judged if shown.exact else _beside_coarser(judged, shown)


def _log_pile_chance(ladder: Ladder, shown: Printed) -> float:
    """How likely it is, as a logarithm, that all rows at the largest radius have the misses that this ladder gives
    them: 0 where the radius is its cap.

    Easy examples get all votes, or nearly so: among those with at most `most` misses every number of misses from 0 on
    is at least as likely as a larger one. A radius that needs from `least` to `most` of them is then shown by all m
    rows that could show it or a larger one with a probability of at most ((most - least + 1) / (most + 1))^m.
    """
    low, high = shown.low[-1], shown.high[-1]
    fewest = min(int(ladder.count(low)), ladder.n)
    votes = min(int(ladder.count(high)), ladder.n)
    votes -= bool(ladder.radius(votes) > high)
    least, most = ladder.n - max(votes, fewest), ladder.n - fewest
    return int(shown.rows[-1]) * math.log((most - least + 1) / (most + 1))


def _beside_coarser(consistent: list[Candidate], shown: Printed) -> list[Candidate]:
    """The candidates, each with the chance that its logs show only radii that coarser consistent ladders have, too."""
    values, half = shown.all_between(float(shown.low[0]), float(shown.high[-1]))
    can_show = [candidate.ladder.holds(values - half, values + half) for candidate in consistent]
    judged = []
    for candidate, own in zip(consistent, can_show):
        chance = 1.0
        for other, coarse in zip(consistent, can_show):
            if other.ladder.n >= candidate.ladder.n or coarse.all():
                continue
            first = values[~coarse].min()  # below it the coarser ladder has every radius that can be shown
            mine, its = int((own & (values > first)).sum()), int((own & coarse & (values > first)).sum())
            if mine and its:
                chance = min(chance, (its / mine) ** int((shown.radius > first).sum()))
        judged.append(replace(candidate, chance=chance))
    return judged


def _capped(ladder: Ladder, shown: Printed) -> bool:
    """Whether the largest radius of the log is the ladder's cap."""
    return bool(shown.low[-1] <= ladder.cap <= shown.high[-1])


def off_ladder(texts_radius: NDArray[np.float64], shown: Printed, ladder: Ladder) -> NDArray[np.bool_]:
    """(rows) whether a positive radius of the log lies within its rounding of no radius of the ladder."""
    on = dict(zip(shown.radius.tolist(), ladder.holds(shown.low, shown.high).tolist()))
    return np.array([value in on and not on[value] for value in texts_radius.tolist()], dtype=bool)


def rounded_up(shown: Printed, ladder: Ladder) -> tuple[int, float]:
    """How many rows show a radius above the one that it must come from, and by how much at most.

    Only radii with exactly one radius of the ladder within their rounding are judged.
    """
    first = ladder.count(shown.low)
    held = ladder.holds(shown.low, shown.high)
    source = ladder.radius(np.minimum(first, ladder.n))
    following = ladder.radius(np.minimum(first + 1, ladder.n))
    alone = held & ((first + 1 > ladder.n) | (following > shown.high))
    excess = np.where(alone, shown.radius - source, 0.0)
    up = excess > EXACT * shown.radius + NEAR_ZERO
    return int(shown.rows[up].sum()), float(excess[up].max()) if up.any() else 0.0
