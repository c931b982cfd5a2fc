"""What a certificate claims, in the words that its card states and an audit holds it to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EACH = "alpha for each example"


def shared_budget(examples: int | None) -> str:
    """The words for a data-set budget, shared equally."""
    return f"alpha for all {examples} examples (Bonferroni)"


def abstention_rule(*, staged: bool, two_sided: bool) -> str:
    """When a smoothed classifier abstains."""
    if staged:
        return "radius 0 is not among the claims"
    return "p_lower < p_upper of the other classes" if two_sided else "p_lower < 1/2"


def smoothing_claim(*, shared: bool) -> str:
    """The claim of a smoothing certificate; `shared`: alpha holds for the whole list."""
    constant = "prediction is constant in the open l2 ball of the stated radius around"
    if shared:
        return (
            "With probability at least 1 - alpha over all the noise drawn, the smoothed classifier's "
            f"{constant} each certified example of this list: alpha holds for all of them together."
        )
    return (
        "With probability at least 1 - alpha over the noise drawn for an example, the smoothed classifier's "
        f"{constant} it. alpha holds per example."
    )


def scaled_claim(settings: Mapping[str, Any]) -> dict[str, bool]:
    """What `bounds_claim` needs to know of a certificate's scales."""
    stated = settings.get("scales")
    if stated is None:
        return {}
    return {"scaled": True, "whole": bool(stated.get("whole")), "categories": bool(stated.get("categories"))}


def bounds_claim(precision: str, *, scaled: bool = False, whole: bool = False, categories: bool = False) -> str:
    """The claim of a certificate from bounds that were computed in a precision.

    Args:
        precision: of the bounds.
        scaled: the radius multiplies sizes of the features, the settings' `scales`.
        whole: some of them change by whole numbers only.
        categories: columns of words may take any of their categories, whatever the radius.
    """
    ball = "ball"
    if scaled:
        ball = (
            "box (radius times the sizes in settings.scales, of all features at once, within [0, 1]; features of size "
            f"0 keep their value{', columns in settings.scales.categories take any of theirs' if categories else ''})"
        )
    real = " It holds for every real value of the box, and so for the whole numbers in it." if whole else ""
    return (
        f"The network in real arithmetic, with the given float32 weights, classifies every input of the stated {ball} "
        f"as the label.{real} Proved by bounds computed in {precision} with rounding to nearest: not a proof about "
        "float32 inference."
    )
