"""What rows of certificates add up to: functions of the columns, without torch.

A radius column is float64, the radii asked for are exact fractions, and the two are compared as `radius >= float(r)`.
That is right for both families. Bounds store `float(r)` of a radius r of the grid, so that comparing with the exact
fraction would lose every certificate at, say, 2/255, whose float lies below it. Smoothing stores a radius that was
rounded down by 1e-12 of itself, thousands of times more than `float(r)` can lie below r: what reaches `float(r)` has
been proved at r.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import (
    ABSTAIN,
    ERROR,
    FALSIFIED,
    INVALID,
    MISCLASSIFIED,
    STATUSES,
    UNKNOWN,
    VERIFIED,
    Certificates,
)
from certtrain.claim import Claim
from certtrain.radii import radius_text

ACR_UNIT = 2**40  # an average certified radius is summed as integers of floor(R * 2^40)
ATTACK = "attack"  # the stage of a cascade that falsifies
STAGE_SECONDS = "seconds_"  # begins the column of a stage's time
GUESSING = "guessing"  # the key of what `guessing` says, where it says something
CHANCE = 0.01  # significance of being better than a guess
FEWEST = 20  # examples, to tell a poor classifier from a guess


def certified(certificates: Certificates, radius: Fraction) -> NDArray[np.bool_]:
    """(n,) whether each example is correct, not abstained, and certified at the radius (at 0: just the former)."""
    held = certificates.correct & (certificates.predict != ABSTAIN)
    return held & (certificates.radius >= float(radius))


def acr_units(certificates: Certificates) -> NDArray[np.int64]:
    """(n,) floor(correct * radius * 2^40); the product is exact, a power of two."""
    held = certified(certificates, Fraction(0))
    return np.floor(np.where(held, certificates.radius, 0.0) * ACR_UNIT).astype(np.int64)


def held_radii(correct: NDArray[np.bool_], radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) the certified radius where the prediction is right, else -1: its steps are those of certified accuracy."""
    return np.where(correct, radius, -1.0)


def abstained(certificates: Certificates) -> NDArray[np.bool_]:
    """(n,) whether the certified classifier abstains."""
    return certificates.predict == ABSTAIN


def failed(certificates: Certificates, status: str) -> NDArray[np.bool_]:
    """(n,) whether any status of an example, at any radius, is `status` (*invalid* or *error*)."""
    names = [name for name in certificates.columns if name == "status" or name.startswith("status@")]
    found = np.zeros(len(certificates), dtype=bool)
    for name in names:
        found |= certificates.columns[name] == status
    return found


def status_counts(certificates: Certificates, radius: Fraction) -> dict[str, int]:
    """How many examples have which status at a radius; they add up to n.

    Certificates without a status per radius (smoothing) are *misclassified*, *verified*, *unknown* or *invalid*.
    """
    column = certificates.columns.get(f"status@{radius_text(radius)}")
    if column is None:
        wrong = ~abstained(certificates) & ~certificates.correct
        column = np.where(certified(certificates, radius), VERIFIED, UNKNOWN).astype(object)
        column[failed(certificates, INVALID)] = INVALID
        column[failed(certificates, ERROR)] = ERROR
        column[wrong] = MISCLASSIFIED
    counts = {status: int((column == status).sum()) for status in STATUSES}
    if sum(counts.values()) != len(certificates):
        raise ValueError(f"unknown statuses: {sorted(set(column.tolist()) - set(STATUSES))}")
    return counts


def guessing(certificates: Certificates) -> str | None:
    """Why these predictions are no better than a guess, in words; None when they are, or too few to tell.

    A guess is one class for every example, or to be right so rarely that always answering the most frequent class, of
    share p, would be so with a probability of more than 1 %: P(Bin(n, p) >= number correct) > 0.01. Certified accuracy
    of such a classifier says nothing: a constant one is robust at any radius.
    """
    answered = certificates.predict[~abstained(certificates)]
    labels, answers = (dict(zip(*np.unique(x, return_counts=True))) for x in (certificates.label, answered))
    return guess(labels, answers, int(certified(certificates, Fraction(0)).sum()))


def guess(labels: Mapping[int, int], answers: Mapping[int, int], right: int) -> str | None:
    """The same from counts.

    Args:
        labels: how many examples are of each class that occurs.
        answers: how many predictions are of each, without those that abstain.
        right: how many of them are right.
    """
    n = sum(labels.values())
    if n < FEWEST or len(labels) < 2:  # of one class alone nobody can tell
        return None
    if len(answers) == 1:
        return f"it answers class {next(iter(answers))} for every example"
    from scipy.stats import binom

    share = max(labels.values()) / n
    if binom.sf(right - 1, n, share) <= CHANCE:
        return None
    return f"it is right on {right / n:.1%}, always answering the most frequent class on {share:.1%}"


def summarise(certificates: Certificates, radii: Iterable[Fraction], claim: Claim) -> dict[str, Any]:
    """The numbers of `result.json`: `{claim, clean, certified, acr | acr_grid, abstained, invalid, error, n}`.

    `clean` is the accuracy of the certified classifier (certified accuracy at 0); `certified` maps each radius' text to
    a fraction of all examples; the mean of correct * radius is `acr` where radii are continuous, `acr_grid` where they
    are those of a grid, and left out where they are targets; the last four are counts of examples. Where drawing
    stopped at targets, there is `mean_draws`; where votes were counted, `near_ties`, those that another batch size
    might have changed. A classifier that is no better than a guess has `guessing`, which says why.

    Raises:
        ValueError: no certificates.
    """
    n, columns = len(certificates), certificates.columns
    if n == 0:
        raise ValueError("there are no certificates to summarise")
    mean = {} if claim.mean_radius is None else {claim.mean_radius: int(acr_units(certificates).sum()) / (n * ACR_UNIT)}
    draws = {"mean_draws": float(columns["n"].mean())} if claim.radii == "targets" and "n" in columns else {}
    return {
        "claim": claim.to_dict(),
        "clean": int(certified(certificates, Fraction(0)).sum()) / n,
        "certified": {radius_text(r): int(certified(certificates, r).sum()) / n for r in radii},
        **mean,
        **draws,
        **({"near_ties": int(columns["near_ties"].sum())} if "near_ties" in columns else {}),
        "abstained": int(abstained(certificates).sum()),
        "invalid": int(failed(certificates, INVALID).sum()),
        "error": int(failed(certificates, ERROR).sum()),
        "n": n,
        **({} if (said := guessing(certificates)) is None else {GUESSING: said}),
    }


def attacked_summary(certificates: Certificates, radii: Iterable[Fraction]) -> dict[str, Any]:
    """`{"pgd": {radius: fraction}}`: correct and not falsified, an upper bound of what any verifier could certify.

    Nothing of rows without a status at each radius.
    """
    columns = {text: certificates.columns.get(f"status@{text}") for text in map(radius_text, radii)}
    n, fallen = len(certificates), (MISCLASSIFIED, FALSIFIED)
    shares = {text: int((~np.isin(c, fallen)).sum()) / n for text, c in columns.items() if c is not None}
    return {"pgd": shares} if len(shares) == len(columns) else {}


def is_cascade(certificates: Certificates) -> bool:
    """Whether the rows hold the time of several stages."""
    return any(name.startswith(STAGE_SECONDS) for name in certificates.columns)


def cascade_summary(certificates: Certificates, radii: Iterable[Fraction]) -> dict[str, Any]:
    """What `result.json` holds of a cascade besides the rest; nothing for the rows of another certifier.

    - `statuses`: by radius, how many examples have each of the statuses; they add up to n.
    - `stages`: by stage `seen` (examples that it worked on), `decided` (bounds: whose radius it proved; attack: that it
      falsified at the largest radius or below), `seconds`.
    - `float32_changed`: verdicts of a float32 bound that float64 changed; null without a screen.
    - `largest_eps`: the mean over all examples of the largest certified radius found by bisection, 0 where it is
      misclassified or nothing was proved; only with a bisection.
    """
    if not is_cascade(certificates):
        return {}
    columns, grid = certificates.columns, tuple(radii)
    decided = columns["decided_by"]
    largest = columns[f"status@{radius_text(grid[-1])}"]
    stages = {}
    for name in (column.removeprefix(STAGE_SECONDS) for column in columns if column.startswith(STAGE_SECONDS)):
        seconds = columns[STAGE_SECONDS + name]
        won = largest == FALSIFIED if name == ATTACK else decided == name
        stages[name] = {"seen": int((seconds > 0).sum()), "decided": int(won.sum()), "seconds": float(seconds.sum())}
    changed = columns.get("float32_changed")
    summary = {
        "statuses": {radius_text(radius): status_counts(certificates, radius) for radius in grid},
        "stages": stages,
        "float32_changed": None if changed is None else int(changed.sum()),
    }
    if "largest_eps" in columns:
        held = np.where(certificates.correct, columns["largest_eps"], 0.0)
        summary["largest_eps"] = float(held.mean())
    return summary
