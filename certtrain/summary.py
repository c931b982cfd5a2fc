"""What rows of certificates add up to: functions of the columns, without torch.

A radius column is float64, the radii asked for are exact fractions, and the two are compared as `radius >= float(r)`.
That is right for both families. Bounds store `float(r)` of a radius r of the grid, so that comparing with the exact
fraction would lose every certificate at, say, 2/255, whose float lies below it. Smoothing stores a radius that was
rounded down by 1e-12 of itself, thousands of times more than `float(r)` can lie below r: what reaches `float(r)` has
been proved at r.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from certtrain.threat import Norm, radius_text

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
    if len(certificates) < FEWEST:
        return None
    counts = np.unique(certificates.label, return_counts=True)[1]
    if len(counts) == 1:
        return None  # of one class alone nobody can tell
    right, n = int(certified(certificates, Fraction(0)).sum()), len(certificates)
    answers = np.unique(certificates.predict[~abstained(certificates)])
    if len(answers) == 1:
        return f"it answers class {answers[0]} for every example"
    from scipy.stats import binom

    share = counts.max() / n
    if binom.sf(right - 1, n, share) <= CHANCE:
        return None
    return f"it is right on {right / n:.1%}, always answering the most frequent class on {share:.1%}"


def is_smoothing(certificates: Certificates) -> bool:
    """Whether the rows come from votes under noise, so that their mean radius is an ACR and not one of a grid."""
    return "count_top" in certificates.columns


def is_staged(certificates: Certificates) -> bool:
    """Whether drawing stopped once the target radii were decided: a radius is then a target, and there is no ACR."""
    return "stage" in certificates.columns


def _of_votes(certificates: Certificates) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if is_staged(certificates):
        found["mean_draws"] = float(certificates.columns["n"].mean())
    if "near_ties" in certificates.columns:
        found["near_ties"] = int(certificates.columns["near_ties"].sum())
    return found


def summarise(certificates: Certificates, radii: Iterable[Fraction], norm: Norm) -> dict[str, Any]:
    """The numbers of `result.json`: `{norm, clean, certified, acr | acr_grid, abstained, invalid, error, n}`.

    `clean` is the accuracy of the certified classifier (certified accuracy at 0); `certified` maps each radius' text to
    a fraction of all examples; `acr` is the mean of correct * radius, called `acr_grid` for bounds, whose radii are
    those of a grid, and null for staged certificates, whose radii are targets (those have `mean_draws` too); the last
    four are counts of examples. Smoothing has `near_ties`, the votes that another batch size might have changed. A
    classifier that is no better than a guess has `guessing`, which says why.

    Raises:
        ValueError: no certificates.
    """
    n = len(certificates)
    if n == 0:
        raise ValueError("there are no certificates to summarise")
    acr = int(acr_units(certificates).sum()) / (n * ACR_UNIT)
    return {
        "norm": norm,
        "clean": int(certified(certificates, Fraction(0)).sum()) / n,
        "certified": {radius_text(r): int(certified(certificates, r).sum()) / n for r in radii},
        "acr" if is_smoothing(certificates) else "acr_grid": None if is_staged(certificates) else acr,
        **_of_votes(certificates),
        "abstained": int(abstained(certificates).sum()),
        "invalid": int(failed(certificates, INVALID).sum()),
        "error": int(failed(certificates, ERROR).sum()),
        "n": n,
        **({} if (said := guessing(certificates)) is None else {GUESSING: said}),
    }


def is_cascade(certificates: Certificates) -> bool:
    """Whether the rows hold the time of several stages."""
    return any(name.startswith(STAGE_SECONDS) for name in certificates.columns)


def cascade_summary(certificates: Certificates, radii: Iterable[Fraction]) -> dict[str, Any]:
    """What `result.json` holds of a cascade besides the rest; nothing for the rows of another certifier.

    - `statuses`: by radius, how many examples have each of the six; they add up to n.
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
