"""The claims of our certifiers, from what decides them; an audit makes them anew from a card's settings."""

from __future__ import annotations

from collections.abc import Iterable

from certtrain.claim import Budget, Claim, Radii
from certtrain.smoothing.distribution import Noise
from certtrain.threat import Threat

EACH = "alpha for each example"


def shared_budget(examples: int | None) -> str:
    """The words for a data-set budget, shared equally."""
    return f"alpha for all {examples} examples (Bonferroni)"


def abstention_rule(*, staged: bool, two_sided: bool) -> str:
    """When a smoothed classifier abstains."""
    if staged:
        return "radius 0 is not among the claims"
    return "p_lower < p_upper of the other classes" if two_sided else "p_lower < 1/2"


def bounds_claim(threat: Threat, precision: str, others: Iterable[str] = ()) -> Claim:
    """The claim of bounds that were computed in a precision, at the radii of a grid.

    Args:
        threat: the set.
        precision: of the bounds.
        others: how the stages prove that do otherwise, a noun each; empty ones are left out.
    """
    ways = "".join(f" or by {other}" for other in others if other)
    return Claim.about(
        threat,
        "deterministic",
        radii="grid",
        subject="The network in real arithmetic, with the given float32 weights,",
        proof=(
            f"Proved by bounds computed in {precision} with rounding to nearest{ways}: "
            "not a proof about float32 inference."
        ),
    )


def smoothing_claim(noise: Noise, alpha: float, budget: Budget, radii: Radii) -> Claim:
    """The claim of votes under a noise, such as Gaussian noise (Cohen et al. 2019)."""
    looks = {"continuous": "a number of draws that was fixed beforehand", "targets": "looks that were fixed beforehand"}
    return Claim.about(
        noise.threat,
        "probabilistic",
        closed=False,
        radii=radii,
        subject="the smoothed classifier",
        proof=f"Proved by confidence bounds of its votes under {noise.law}, at {looks[radii]}.",
        brief=noise.brief,
        alpha=alpha,
        budget=budget,
    )
