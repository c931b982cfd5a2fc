"""Figures of a certificate by radius: shares of the rows, as numbers and as cells of a table."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import ABSTAIN, Certificates
from certtrain.errors import UserError
from certtrain.radii import parse_radii, parse_radius, radius_text
from certtrain.reporting.entries import percent
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.plots import clopper_pearson, interval_text


def radii_of(certificate: Certified) -> tuple[Fraction, ...]:
    """The grid that was asked for, ascending."""
    return parse_radii((certificate.entry or {}).get("certified") or certificate.card.get("radii") or ["0"])


def stated(certificate: Certified, radius: Fraction) -> float | None:
    """Certified accuracy at a radius of the grid, or at 0, as `result.json` states it."""
    assert certificate.entry is not None
    given = certificate.entry["certified"].get(radius_text(radius))
    return certificate.entry["clean"] if given is None and radius == 0 else given


def held(rows: Certificates, radius: Fraction) -> NDArray[np.bool_]:
    """(n,) whether the certified classifier gives a class, right or wrong, with a certificate of at least the radius.

    Bounds prove right predictions only: at a radius > 0 a wrong one has none.
    """
    return (rows.predict != ABSTAIN) & (rows.radius >= float(radius))


def share(count: int, n: int) -> tuple[str, str]:
    """A share in percent and its 95 % interval over images; dashes for a share of nothing."""
    if n == 0:
        return "–", "–"
    low, high = clopper_pearson(np.array([count]), n)
    return percent(count / n), interval_text(float(low[0]), float(high[0]))


def chosen_radius(certificate: Certified, trained_eps: object, asked: Fraction | None) -> Fraction:
    """The radius at which classes are told apart.

    What was asked for; else, for bounds, the radius trained for where it is in the grid; else the middle of the grid.
    """
    if asked is not None:
        return asked
    grid = [radius for radius in radii_of(certificate) if radius > 0] or [Fraction(0)]
    try:
        trained = parse_radius(trained_eps)
    except UserError:
        trained = None
    return trained if trained in grid and not certificate.probabilistic else grid[(len(grid) - 1) // 2]
