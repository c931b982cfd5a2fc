"""Certified accuracy against the radius, with intervals over images: one chart per norm and kind of claim."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certtrain.radii import parse_radius
from certtrain.reporting.curves import curves, outcomes, steps
from certtrain.reporting.entries import acr_text, upper_bound
from certtrain.reporting.page.charts import SEVERAL, Chart, Series, chart
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.figures import radii_of, stated
from certtrain.reporting.plots import clopper_pearson


def panels(certificates: Sequence[Certified]) -> list[list[Certified]]:
    """The certificates whose figures are shown, together where they may stand on one pair of axes."""
    found: dict[tuple[str, str, str, str | None], list[Certified]] = {}
    for certificate in certificates:
        if certificate.shown and certificate.entry is not None and certificate.claim is not None:
            # What an attack leaves standing bounds the certificates of the same examples only.
            examples = None if certificate.probabilistic else str(certificate.entry.get("indices_sha256"))
            kind = (certificate.claim.threat, certificate.claim.kind, certificate.about, examples)
            found.setdefault(kind, []).append(certificate)
    return list(found.values())


def certified_charts(certificates: Sequence[Certified]) -> list[Chart]:
    """A chart of each panel."""
    return [_chart(panel) for panel in panels(certificates)]


def _chart(certificates: Sequence[Certified]) -> Chart:
    claim, about = certificates[0].claim, certificates[0].about
    assert claim is not None
    lines = [_series(certificate) for certificate in certificates]
    bound = upper_bound([c.entry for c in certificates if c.entry is not None])
    if bound:
        at = sorted(bound, key=parse_radius)
        x, y = [float(parse_radius(text)) for text in at], [100 * bound[text] for text in at]
        lines.append(
            Series("left standing by the attack: an upper bound", np.array(x), np.array(y), step="post", upper=True)
        )
    title = f"Certified accuracy, {claim.symbol}, {claim.kind}" + (f", {about}" if about else "")
    told = "; ".join(f"{c.name}: " + ", ".join(_point(c, i) for i in range(len(radii_of(c)))) for c in certificates)
    unit = "" if claim.unit or claim.radii == "count" else " (inputs in [0, 1])"
    return chart(
        lines,
        title=title,
        x_label=claim.axis + unit,
        y_label="certified accuracy (%)",
        y_range=(0, 100),
        describe=told,
        sizes=SEVERAL,
    )


def _point(certificate: Certified, i: int) -> str:
    radius = radii_of(certificate)[i]
    value = stated(certificate, radius)
    return f"{100 * value:.2f} % at {float(radius):g}" if value is not None else ""


def _series(certificate: Certified) -> Series:
    entry = certificate.entry
    assert entry is not None
    n = f"n = {entry['n']:,}"
    acr = "" if entry.get("acr") is None else f", ACR {acr_text(entry['acr'])}"
    label = f"{certificate.name} ({n}{acr})"
    if certificate.rows is not None and len(certificate.rows):
        examples = outcomes(certificate.rows)
        at = steps(examples)
        share = curves(examples, at).certified
        value, low, high = share.value, share.low, share.high
    else:  # the points of the grid: what holds at each is known at no other radius but the smaller ones
        by_radius = {0.0: entry["clean"]} | {float(r): stated(certificate, r) or 0.0 for r in radii_of(certificate)}
        at, value = np.array(sorted(by_radius)), np.array([by_radius[radius] for radius in sorted(by_radius)])
        low, high = clopper_pearson(np.round(value * entry["n"]).astype(np.int64), entry["n"])
    if certificate.claim is not None and certificate.claim.mean_radius == "acr" and certificate.rows is not None:
        at, value = np.append(at, at[-1]), np.append(value, 0.0)  # beyond the largest radius nothing is certified
        low, high = np.append(low, low[-1]), np.append(high, high[-1])
    return Series(label, at, 100 * value, 100 * low, 100 * high, step="pre")
