"""Anytime certification: draw until it is decided whether the radius reaches the targets, and no longer.

Looking at a fixed-n bound after every few draws would break its confidence. Here all looks, and what each must see,
are fixed before the first draw. For a target radius r the claim "the certified radius is at least r" is the claim
`p_A >= q_r = Phi(r / sigma)` (Cohen et al. 2019), tested after n_1 < ... < n_S draws against whole-number boundaries
whose probability of ever being crossed is computed exactly.

Guarantee. For every true p_A, with probability at least 1 - alpha no claim that is made is false, whatever the number
of targets and wherever the draws end. Proof: let r be the lowest target whose claim is false, p_A < q_r. Boundaries do
not fall from one target to the next, so that any false claim comes with a crossing of r's. The probability of that
crossing grows with p_A, hence is at most its value at q_r, which is at most alpha. Giving up on a target, by whatever
rule, makes no claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binom

from certtrain.errors import UserError
from certtrain.radii import float_up, parse_radii, parse_radius, radius_text
from certtrain.smoothing.crossing import check_looks, crossing_probability, spending_boundary

# None of these touches the guarantee. The looks are a factor apart; before the last look a share of alpha is spent, in
# equal parts; a target is given up where one that the last look could confirm would look so bad with this probability.
FIRST_LOOK, GROWTH, EARLY, GIVE_UP = 32, 1.25, 0.3, 0.02
LEVEL_SLACK = 1e-9  # relative, of 1 - q: far more than the rounding of Phi
MOST_DRAWS = 10**12  # nobody waits for more
FORMAT = 1


def target_level(radius: Fraction, sigma: float) -> float:
    """`q = Phi(radius / sigma)`, rounded up: a top class at least this probable has at least this radius."""
    tail = float(ndtr(-float_up(radius) / sigma)) * (1 - LEVEL_SLACK)
    return math.nextafter(1 - tail, 1.0)


def fewest_draws(radius: Fraction, sigma: float, alpha: float) -> int | None:
    """The number of draws, all for one class, that show a radius: the smallest n with `q^n <= alpha`.

    None where that is more than `MOST_DRAWS`, as for every radius beyond 8 sigma, whose q is 1 in float64.
    """
    level = target_level(radius, sigma)
    return math.ceil(math.log(alpha) / math.log(level)) if math.log(alpha) > MOST_DRAWS * math.log(level) else None


@dataclass(frozen=True)
class StageSchedule:
    """When to look, and what to conclude: fixed before the first draw and logged with the certificates.

    Attributes:
        sigma: standard deviation of the noise.
        alpha: probability with which any claim about one example may be false.
        targets: ascending radii, the first is 0: claimed, g predicts the top class; below it, it abstains.
        draws: (S,) cumulative numbers of estimation draws at the looks.
        critical: per target (S,) counts of the top class from which on a look claims the target.
        give_up: per target (S,) counts up to which a look gives the target up; -1: never.

    Raises:
        ValueError: shapes that do not fit, boundaries that fall from a target to the next, or a target whose crossing
            probability exceeds alpha.
    """

    sigma: float
    alpha: float
    targets: tuple[Fraction, ...]
    draws: tuple[int, ...]
    critical: tuple[tuple[int, ...], ...]
    give_up: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        check_looks(self.draws)
        if not (0 < self.alpha < 1 and 0 < self.sigma < math.inf):
            raise ValueError(f"alpha = {self.alpha}, sigma = {self.sigma}")
        if not self.targets or self.targets[0] != 0 or list(self.targets) != sorted(set(self.targets)):
            raise ValueError("targets ascend from 0")
        shape = (len(self.targets), len(self.draws))
        critical, give_up = np.array(self.critical), np.array(self.give_up)
        if critical.shape != shape or give_up.shape != shape:
            raise ValueError(f"boundaries of {critical.shape} and {give_up.shape} for {shape} targets and looks")
        if (np.diff(critical, axis=0) < 0).any():
            raise ValueError("a larger target has a lower boundary than a smaller one")
        if max(self.crossing) > self.alpha:
            raise ValueError(f"a false claim has probability {max(self.crossing)}, alpha is {self.alpha}")

    @property
    def levels(self) -> tuple[float, ...]:
        """The probability `q` that each target asks of the top class."""
        return tuple(target_level(target, self.sigma) for target in self.targets)

    @cached_property
    def crossing(self) -> tuple[float, ...]:
        """Per target the exact probability of a false claim in the worst case, p_A just below q; at most alpha."""
        return tuple(crossing_probability(self.draws, c, q) for c, q in zip(self.critical, self.levels))

    @classmethod
    def plan(
        cls, target_radii: Sequence[object], *, sigma: float, n: int, alpha: float, early: float = EARLY
    ) -> StageSchedule:
        """A schedule for target radii with at most n draws.

        Args:
            target_radii: the radii to decide; 0 is added.
            sigma: standard deviation of the noise.
            n: draws at the last look.
            alpha: probability with which any claim about one example may be false.
            early: the share of alpha for the looks before the last.

        Raises:
            UserError: a target that n draws cannot show at this alpha; the message names the fewest that can.
        """
        targets = parse_radii([0, *parse_radii(target_radii, where="target_radii")], where="target_radii")
        if isinstance(early, bool) or not isinstance(early, (int, float)) or not 0 <= early < 1:
            raise UserError(
                f"early = {early!r}", where="certifier.early", fix="a share of alpha in [0, 1), such as 0.3"
            )
        draws = look_draws(n)
        critical = np.array([_boundary(draws, target_level(t, sigma), alpha, early) for t in targets])
        if critical[-1, -1] > n:
            least = _fewest_in_stages(targets[-1], sigma, alpha, early)
            raise UserError(
                f"{n} draws cannot show a radius of {radius_text(targets[-1])} at sigma {sigma:g} and alpha {alpha:g}",
                where="n",
                fix=f"n={least} can; or ask for smaller radii"
                if least
                else "smaller radii, or a larger sigma or alpha",
            )
        critical = np.maximum.accumulate(critical, axis=0)
        give_up = [[hopeless(m, n, int(row[-1]), len(draws)) for m in draws] for row in critical]
        rows = (tuple(tuple(map(int, row)) for row in table) for table in (critical.tolist(), give_up))
        return cls(float(sigma), float(alpha), targets, draws, *rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the card; the numbers of each row in one text, `32 40 50`."""
        return {
            "format": FORMAT,
            "sigma": self.sigma,
            "alpha": self.alpha,
            "targets": [radius_text(target) for target in self.targets],
            "draws": _text(self.draws),
            "critical": [_text(row) for row in self.critical],
            "give_up": [_text(row) for row in self.give_up],
            "crossing_probability": list(self.crossing),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> StageSchedule:
        """The schedule of a card, checked anew.

        Raises:
            ValueError: not a schedule, or one whose claims are false with a probability above its alpha.
        """
        try:
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            return cls(
                float(content["sigma"]),
                float(content["alpha"]),
                tuple(parse_radius(target) for target in content["targets"]),
                _numbers(content["draws"]),
                *(tuple(map(_numbers, content[name])) for name in ("critical", "give_up")),
            )
        except (KeyError, TypeError, AttributeError, UserError) as error:
            raise ValueError(f"not a stage schedule: {type(error).__name__}: {error}") from error

    def counts_text(self, stage_counts: Sequence[int]) -> str:
        """A row's cumulative votes at its looks as the log holds them, `31/32 39/40`: 31 of 32 draws, 39 of 40."""
        return " ".join(f"{count}/{total}" for count, total in zip(stage_counts, self.draws))

    def read_counts(self, text: str) -> list[int]:
        """The cumulative votes of `counts_text`.

        Raises:
            ValueError: not such a text, or looks at other numbers of draws than the schedule's.
        """
        pairs = [tuple(map(int, word.split("/"))) for word in text.split()]
        if any(len(pair) != 2 for pair in pairs) or tuple(total for _, total in pairs) != self.draws[: len(pairs)]:
            raise ValueError(f"{text!r} are not votes at the looks of the schedule")
        return [count for count, _ in pairs]

    def replay(self, stage_counts: Sequence[int]) -> Replay:
        """What follows from a log's row: the cumulative votes for the top class at each look that was taken.

        Raises:
            ValueError: more looks than there are, counts that no draws give, or looks after the end.
        """
        if len(stage_counts) > len(self.draws):
            raise ValueError(f"{len(stage_counts)} looks, the schedule has {len(self.draws)}")
        decisions, before = Decisions(self, 1), (0, 0)
        for look, (count, total) in enumerate(zip(stage_counts, self.draws)):
            if not 0 <= count - before[0] <= total - before[1]:
                raise ValueError(f"{count} votes after {total} draws cannot follow {before[0]} after {before[1]}")
            if not decisions.open[0]:
                raise ValueError(f"look {look + 1} was taken although all was decided before")
            decisions.look(look, np.array([0]), np.array([count]))
            before = (count, total)
        return Replay(int(decisions.claimed[0]), int(decisions.stage[0]), not decisions.open[0])


@dataclass(frozen=True)
class Replay:
    """What a row's votes decide.

    Attributes:
        claimed: position of the largest claimed target, -1 for none: the classifier abstains.
        stage: the look that claimed it, from 1; 0 for none.
        finished: whether nothing more was to be decided.
    """

    claimed: int
    stage: int
    finished: bool


class Decisions:
    """The state of a batch of examples on their way through a schedule.

    Attributes:
        claimed: (B,) positions of the largest claimed targets, -1 for none.
        stage: (B,) the looks that claimed them, from 1; 0 for none.
        open: (B,) bool, whether more draws could decide something.
    """

    def __init__(self, schedule: StageSchedule, examples: int) -> None:
        self.schedule = schedule
        self.critical, self._give_up = np.array(schedule.critical), np.array(schedule.give_up)
        self.claimed = np.full(examples, -1)
        self.stage = np.zeros(examples, dtype=np.int64)
        self.open = np.ones(examples, dtype=bool)
        self._lost = np.zeros((len(schedule.targets), examples), dtype=bool)

    def look(self, stage: int, rows: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Look number `stage` (from 0) at the cumulative votes of some open examples."""
        reached = counts >= self.critical[:, stage, None]
        best = np.where(reached.any(0), len(reached) - 1 - reached[::-1].argmax(0), -1)
        better = best > self.claimed[rows]
        self.claimed[rows] = np.maximum(best, self.claimed[rows])
        self.stage[rows[better]] = stage + 1
        self._lost[:, rows] |= counts <= self._give_up[:, stage, None]
        wanted = np.arange(len(reached))[:, None] > self.claimed[rows]
        last = stage + 1 == len(self.schedule.draws)
        self.open[rows] = (wanted & ~self._lost[:, rows]).any(0) & (not last)


def _text(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def look_draws(n: int) -> tuple[int, ...]:
    """Cumulative numbers of draws at the looks: from 32 on, a factor 1.25 apart, the last n."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UserError(f"n = {n!r} draws", where="n", fix="a whole number >= 1, such as n=100000")
    draws = [FIRST_LOOK]
    while draws[-1] < n:
        draws.append(math.ceil(draws[-1] * GROWTH))
    # A last step of a few draws would spend a look on nothing.
    return (*(m for m in draws if m * (1 + GROWTH) / 2 < n), n)


def _boundary(draws: tuple[int, ...], q: float, alpha: float, early: float) -> tuple[int, ...]:
    """Critical counts that spend the share `early` of alpha in equal parts before the last look, and the rest there."""
    before = len(draws) - 1
    return spending_boundary(draws, [alpha * early * (i + 1) / before for i in range(before)] + [alpha], q)


def _fewest_in_stages(radius: Fraction, sigma: float, alpha: float, early: float) -> int | None:
    """About the fewest draws that show a radius with looks before the last; None: none that anyone waits for."""
    least, enough = fewest_draws(radius, sigma, alpha), fewest_draws(radius, sigma, alpha * (1 - early))
    while least and enough and _boundary(look_draws(least), target_level(radius, sigma), alpha, early)[-1] > least:
        # The last look alone has alpha (1 - early). What even that does not show is lost in what `advance` cuts off.
        least = math.ceil(least * 1.02) if least <= enough else None
    return least


def hopeless(draws: int, n: int, last_critical: int, looks: int) -> int:
    """The count up to which a target is given up after `draws` of n draws.

    A top class whose probability is just what the last look asks for, `last_critical / n`, falls that low at any of the
    looks with a probability of at most `GIVE_UP`: so much of the power goes for fewer draws, nothing of the guarantee.
    """
    if draws == n:
        return last_critical - 1
    return int(binom.ppf(GIVE_UP / looks, draws, last_critical / n)) - 1
