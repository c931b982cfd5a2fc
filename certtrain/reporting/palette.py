"""What all figures share: colours that readers with any colour vision tell apart, and the words on the radius axis."""

from __future__ import annotations

import re

from certtrain.claim import Claim
from certtrain.system import escape

# Okabe and Ito's palette (2008); black and grey beside it.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#555555"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def radius_axis(claim: Claim) -> str:
    """The label of an axis of radii, with what they are measured in: the input range, or the sizes of features."""
    if claim.unit:
        return escape.figure(claim.axis)
    symbol = escape.figure(claim.symbol)
    if (norm := re.fullmatch(r"l-?(inf|\d)", claim.symbol)) is not None:
        symbol = r"$\ell_\infty$" if norm[1] == "inf" else rf"$\ell_{norm[1]}$"
    return f"{symbol} radius (inputs in [0, 1])"
