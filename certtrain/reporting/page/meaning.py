"""What a certificate means, in plain words, from its card alone."""

from __future__ import annotations

from certtrain.reporting.page.evidence import Certified

THREATS = {
    "linf": "A radius r in l-inf allows every single input value (a pixel's channel, a feature) to move by at most r, "
    "all of them at once, on the scale on which inputs lie in [0, 1]; r = 0.1 is 25.5 of 255 grey levels.",
    "l2": "A radius r in l2 allows a change whose Euclidean length, taken over all input values on the scale [0, 1], "
    "is at most r: one value may move far, or many a little.",
}
SCALED = (
    "A radius r allows every feature to move by at most r times its own size, all of them at once; sizes stand in the "
    "card's settings.scales as shares of the feature's range over the training data, and a feature of size 0 keeps its "
    "value."
)
EVERY = (
    "Certified accuracy counts all examples, the wrong ones as not certified. Its 95 % interval says how far another "
    "draw of examples from the same source might move it; it says nothing of other sources.",
    "Nothing is said about changes outside the norm and radius, such as rotations, blur or another camera, nor about "
    "examples that are not in the table.",
)


def meaning(certificate: Certified) -> tuple[str, list[str]]:
    """The card's claim, and what a reader needs to take it neither for more nor for less."""
    claim = certificate.claim
    if claim is None:
        return "none is stated that can be read", [*EVERY]
    told = [SCALED] if claim.unit else [THREATS[claim.threat]] if claim.threat in THREATS else []
    return claim.sentence(), [*told, *claim.plain(), *EVERY]
