"""What stands on top of the page: the certified figure, and one line for each certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from certtrain.certificates.summary import certified
from certtrain.claim import Claim
from certtrain.radii import radius_text
from certtrain.reporting.entries import acr_text, percent
from certtrain.reporting.page.certificate import kinds, state
from certtrain.reporting.page.certified_chart import panels
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.figures import share, stated

HEADER = ("certificate", "status", "what", "accuracy (%)", "at radius", "certified (%)", "95 % interval", "ACR", "n")
CERTIFIED = HEADER.index("certified (%)")


@dataclass(frozen=True)
class Headline:
    """A certified accuracy in large type.

    Attributes:
        value: with its unit.
        what: what it is an accuracy of.
        told: its interval, n, and the accuracy without any change.
        name: of the certificate that it is from.
    """

    value: str
    what: str
    told: str
    name: str


@dataclass(frozen=True)
class Line:
    """One certificate in the table: its name, the text and class of its badge, and the cells behind them."""

    name: str
    state: tuple[str, str]
    cells: Sequence[str]


def headlines(certificates: Sequence[Certified], at: Mapping[str, Fraction]) -> list[Headline]:
    """The certified accuracy of each network and threat model, at the radius chosen for its certificates.

    Of several proofs about one network on the same examples the largest figure: each of them holds. Smoothed
    classifiers differ from each other, and the best of them would be chosen on the examples that it is judged by: each
    has a figure of its own.
    """
    best: dict[tuple[int, str, Fraction], tuple[float, Certified]] = {}
    for i, panel in enumerate(panels(certificates)):
        for certificate in panel:
            radius = at[certificate.name]
            value = _value(certificate, radius)
            key = (i, certificate.name if certificate.probabilistic else "", radius)
            if value is not None and (key not in best or value > best[key][0]):
                best[key] = value, certificate
    return [_headline(certificate, value, radius) for (_, _, radius), (value, certificate) in best.items()]


def _headline(certificate: Certified, value: float, radius: Fraction) -> Headline:
    entry, claim = certificate.entry, certificate.claim
    assert entry is not None
    assert claim is not None
    what = f"certified at {_at(claim, radius)}"
    what += f", {claim.kind}" if claim.alpha is None else f", alpha {claim.alpha:g}"
    what += f", {certificate.about}" if certificate.about else ""
    interval = share(round(value * entry["n"]), entry["n"])[1]
    told = f"95 % interval {interval}, n = {entry['n']:,}; accuracy {percent(entry['clean'])} %"
    return Headline(f"{percent(value)} %", what, told, certificate.name)


def _at(claim: Claim, radius: Fraction) -> str:
    text = radius_text(radius)
    return f"radius {text}, in {claim.unit}" if claim.unit else f"{claim.symbol} radius {text}"


def line(certificate: Certified, radius: Fraction) -> Line:
    """A certificate's cells under HEADER; dashes for the figures of one that may not be shown as certified."""
    entry, what = certificate.entry, ", ".join(kinds(certificate))
    if not certificate.shown or entry is None:
        return Line(certificate.name, state(certificate), [what, *["–"] * 6])
    value = _value(certificate, radius)
    interval = "–" if value is None else share(round(value * entry["n"]), entry["n"])[1]
    acr = "–" if entry.get("acr") is None else acr_text(entry["acr"])
    figures = [percent(entry["clean"]), radius_text(radius), percent(value), interval, acr, f"{entry['n']:,}"]
    return Line(certificate.name, state(certificate), [what, *figures])


def _value(certificate: Certified, radius: Fraction) -> float | None:
    """Certified accuracy at a radius: as stated, or from the rows where the radius is not one of the grid."""
    value = stated(certificate, radius)
    if value is None and certificate.rows is not None:
        return int(certified(certificate.rows, radius).sum()) / len(certificate.rows)
    return value
