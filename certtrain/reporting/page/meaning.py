"""What a certificate means, in plain words, from its card alone."""

from __future__ import annotations

from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.markup import Markup, details, tag

NORMS = {
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
BOUNDS = (
    "It is a proof, not a test: no attack of any kind within the radius changes the class of a verified example.",
    "Unknown is neither safe nor unsafe: the bounds were too loose to prove it, and no attack broke it. Falsified: "
    "an attack found an input inside the ball with another class.",
)
EVERY = (
    "Certified accuracy counts all examples, the wrong ones as not certified. Its 95 % interval says how far another "
    "draw of examples from the same source might move it; it says nothing of other sources.",
    "Nothing is said about changes outside the norm and radius, such as rotations, blur or another camera, nor about "
    "examples that are not in the table.",
)


def meaning(certificate: Certified, *, opened: bool = True) -> Markup:
    """The card's claim, and what a reader needs to take it neither for more nor for less."""
    claim = certificate.card.get("claim")
    if certificate.falsified:
        return tag(
            "div", tag("p", tag("strong", "Refuted claim: "), str(claim or "none is stated")), class_="claim bad"
        )
    scaled = certificate.settings.get("scales") is not None
    points = [
        SCALED if scaled else NORMS.get(certificate.norm),
        *(_smoothing(certificate) if certificate.smoothing else BOUNDS),
        *EVERY,
    ]
    said = tag("p", str(claim) if claim else "The card states no claim.")
    listed = tag("ul", [tag("li", point) for point in points if point])
    return tag("div", said, details("In plain words", listed, opened=opened), class_="claim")


def _smoothing(certificate: Certified) -> list[str]:
    settings, draws = certificate.settings, ""
    if all(isinstance(settings.get(key), (int, float)) for key in ("sigma", "n", "alpha")):
        most = "at most " * certificate.staged
        draws = f" (sigma {settings['sigma']:g}, {most}{settings['n']:,} draws an example, alpha {settings['alpha']:g})"
    return [
        f"It is about the smoothed classifier: what the network answers most often under Gaussian noise{draws}. "
        "A single forward pass of the network has no certificate.",
        "Abstaining is an answer: too few votes agreed for a claim. It counts as not certified.",
    ]
