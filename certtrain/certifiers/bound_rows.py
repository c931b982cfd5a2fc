"""Whether each row of a bound certificate agrees with itself: statuses, radius, margin and what decided it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from certtrain.certificates import ERROR, FALSIFIED, INVALID, MISCLASSIFIED, STATUSES, VERIFIED, Certificates
from certtrain.certificates.findings import Audit, rows_text
from certtrain.certifiers.claims import bounds_claim
from certtrain.claim import claim_of
from certtrain.errors import UserError
from certtrain.radii import parse_radii, parse_radius, radius_text
from certtrain.threat import Scaled, stated_threat
from certtrain.threat.features import features_from_list
from certtrain.threat.scale_request import resolve_scales
from certtrain.threat.scales import Scales

ATTACK = "attack"  # decided what has no radius and was falsified


def audit_bound_rows(audit: Audit, rows: Certificates, card: Mapping[str, Any]) -> None:
    """Check the claim, and every row of a log with one status per radius.

    Args:
        audit: takes the findings.
        rows: of the log.
        card: its radii are the grid; its settings name the bounds that may decide, and the set that is claimed.
    """
    settings, grid = card["settings"], parse_radii(card["radii"])
    _audit_claim(audit, card, settings)
    names = [name for name in rows.columns if name.startswith("status@")]
    if not audit.compare("one status per radius of the card", sorted(map(_status, grid)), sorted(names)):
        return
    status = np.stack([rows.columns[_status(radius)] for radius in grid], axis=1)
    verified = status == VERIFIED
    least = np.array([float(radius) for radius in grid])
    held = np.where(least > 0, rows.radius[:, None] >= least, verified)  # every radius is at least 0
    wrong_class = (rows.predict != rows.label)[:, None]
    fallen = np.cumsum(status == FALSIFIED, axis=1) > 0  # by an input of this ball or of a smaller one
    proved = rows.radius > 0
    missing = np.array([""] * len(rows), dtype=object)
    margin, decided = rows.columns["margin"], rows.columns["decided_by"].astype(str)
    bounds = stated_bounds(settings)
    largest = rows.columns.get("largest_eps", rows.radius)
    ends = np.array([0.0, *map(float, grid)])
    up_to = settings.get("bisect_up_to")
    beyond = np.append(ends[1:], float(parse_radius(up_to)) if up_to else ends[-1])  # a search ends at the next radius
    step = verified.sum(axis=1)
    checks = {
        "statuses are known": ~np.isin(status, STATUSES),
        "verified at r is radius >= r": verified != held,
        "nothing is both falsified at a radius and verified at it or above": fallen & verified,
        "falsified at r is falsified above": fallen & ~np.isin(status, (FALSIFIED, VERIFIED)),
        "misclassified is for all radii": (status == MISCLASSIFIED).any(1) != (status == MISCLASSIFIED).all(1),
        "a wrong prediction is misclassified": wrong_class & (status != MISCLASSIFIED),
        "what is not correct is misclassified": ~rows.correct[:, None] & (status != MISCLASSIFIED),
        "what is correct is not misclassified": rows.correct[:, None] & (status == MISCLASSIFIED),
        "no radius without a proof": proved & ~verified.any(1) & (rows.radius >= float(grid[0])),
        "a proof names a bound of the card": proved & ~np.isin(decided, bounds),
        "an attack decided only what was falsified": (decided == ATTACK) & (proved | ~(status == FALSIFIED).any(1)),
        "a radius is 0 or one of the card's": ~np.isin(rows.radius, ends),
        "the largest certified eps is at least the radius": rows.correct & (largest < rows.radius),
        "the largest certified eps is below the next radius": ~(largest <= np.where(rows.correct, beyond[step], 0.0)),
        "a proof has a margin > 0": proved & ~((margin > 0) & np.isfinite(margin)),
        "an error has a reason": (status == ERROR).any(1) & (rows.columns.get("reason", missing) == ""),
    }
    for what, wrong in checks.items():
        at = wrong.reshape(len(rows), -1).any(axis=1)
        here = f"{int(at.sum()):,} of {len(rows):,} rows where not: {rows_text(rows.index[at])}"
        audit.expect(not at.any(), f"{what}, in {len(rows):,} rows", f"{what}? {here}")
    broken = int(np.isin(status, (INVALID, ERROR)).any(1).sum())
    if broken:
        audit.warn(f"{broken:,} rows are invalid or in error at some radius")


def stated_bounds(settings: Mapping[str, Any]) -> list[str]:
    """The stages that a card's settings name, in their order."""
    return [stage["bound"] for stage in settings["stages"]]


def _status(radius: Fraction) -> str:
    return f"status@{radius_text(radius)}"


def _audit_claim(audit: Audit, card: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """The claim is that of bounds over the set that the settings describe."""
    claim, stated = claim_of(card), settings.get("scales")
    if isinstance(stated, Mapping):
        _audit_sizes(audit, stated)
    try:
        threat = stated_threat(claim.threat, settings)
    except UserError as error:
        audit.differs(f"threat model: {error.what}")
        return
    audit.compare("input range of the threat model", settings["input_range"], threat.settings()["input_range"])
    if isinstance(threat, Scaled):
        _audit_scales(audit, card, threat.scales)
    others = [str(stage.get("proof", "")) for stage in settings["stages"]]
    made = bounds_claim(threat, settings["precision"], others)
    audit.compare("claim", claim.to_dict(), made.to_dict())


def _audit_sizes(audit: Audit, stated: Mapping[str, Any]) -> None:
    """The sizes are those that their hash is of."""
    try:
        audit.compare("sha256 of the scales", stated.get("sha256"), Scales.from_dict(stated).sha256)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        audit.differs(f"scales: no sizes of features: {type(error).__name__}: {error}")


def _audit_scales(audit: Audit, card: Mapping[str, Any], scales: Scales) -> None:
    """The sizes are those of the network's features, and follow from what was asked for."""
    listed = card.get("input_contract", {}).get("features")
    if listed is None or "scales_asked" not in card:
        audit.unchecked("scales: the card does not say the features' ranges, or what was asked for")
        return
    try:
        features = features_from_list(listed)
        audit.compare("features of the scales", list(scales.names), [feature.name for feature in features])
        found = resolve_scales(card["scales_asked"], features)
    except (TypeError, UserError) as error:
        audit.differs(f"scales: they do not follow from scales_asked: {error}")
        return
    audit.expect(found == scales, "scales follow from scales_asked", "scales are not those of scales_asked")
