"""What all figures share: colours that readers with any colour vision tell apart, and the words on the radius axis."""

from __future__ import annotations

from certtrain import escape
from certtrain.scales import multiples

# Okabe and Ito's palette (2008); black and grey beside it.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#555555"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def radius_axis(norm: str) -> str:
    """The label of an axis of radii, with what they are measured in: the input range, or the sizes of features.

    Args:
        norm: or the ball, as `certtrain.scales.ball_of` names it.
    """
    if scaled := multiples(norm):
        return escape.figure(scaled)
    symbol = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$"}.get(norm)
    return escape.figure(f"{norm} radius") if symbol is None else f"{symbol} radius (inputs in [0, 1])"
