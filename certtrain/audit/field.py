"""Audits a log of the field: plain `idx label predict radius correct time`, without counts, alpha or n."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certtrain.audit.field_checks import check_indices, check_rows, usable
from certtrain.audit.fieldlog import FieldLog
from certtrain.audit.fingerprint import Candidate, fingerprint, guess_sigma, off_ladder, rounded_up
from certtrain.audit.ladder import Ladder, Printed, printed
from certtrain.certificates import ABSTAIN
from certtrain.certificates.findings import Audit, rows_text
from certtrain.reporting.curves import Outcomes

SHOWN = 6  # consistent ladders named


@dataclass(frozen=True)
class Stated:
    """What the user says about a log; None: not stated."""

    sigma: float | None = None
    n: int | None = None
    alpha: float | None = None
    two_sided: bool = False
    total: int | None = None


def audit_field_log(log: FieldLog, stated: Stated) -> tuple[Audit, Outcomes]:
    """All findings about a log, and its examples for a table or a figure."""
    audit = Audit(str(log.path))
    check_rows(audit, log)
    check_indices(audit, log, stated.total)
    if any(name.startswith("status@") for name in log.columns):
        audit.unchecked("(n, alpha): deterministic bounds have neither")
    elif "stage" in log.columns:
        audit.unchecked("(n, alpha): drawn in stages, the radii are targets; the card's audit replays the rows")
    else:
        _check_ladder(audit, log, stated)
    return audit, usable(log)


def _check_ladder(audit: Audit, log: FieldLog, stated: Stated) -> None:
    counted = np.isfinite(log.radius) & (log.radius > 0) & (log.predict != ABSTAIN)
    shown = printed([text for text, use in zip(log.radius_text, counted) if use])
    if not len(shown.radius):
        audit.unchecked("(n, alpha): no row has a radius")
        return
    sigma = stated.sigma
    if sigma is None:
        sigma = guess_sigma(shown)
        if sigma is None:
            audit.unchecked("(n, alpha): give --sigma; none of the field's has the largest radius as its cap")
            return
        audit.warn(f"sigma = {sigma:g} is a guess: the largest radius, {shown.radius[-1]:g}, is a cap of it")
    if stated.n is not None and stated.alpha is not None:
        ladder = Ladder(stated.n, stated.alpha / (2 if stated.two_sided else 1), sigma)
        sides = "two-sided" if stated.two_sided else "one-sided"
        _check_stated(audit, log, shown, ladder, f"n = {stated.n:,}, alpha = {stated.alpha:g} {sides}")
        return
    draws, alphas = ({"draws": (stated.n,)} if stated.n else {}), ({"alphas": (stated.alpha,)} if stated.alpha else {})
    found = fingerprint(shown, sigma, **draws, **alphas)
    _say_candidates(audit, shown, found)


def _say_candidates(audit: Audit, shown: Printed, found: list[Candidate]) -> None:
    m = len(shown.radius)
    likely = [candidate for candidate in found if candidate.likely]
    unlikely = [candidate for candidate in found if candidate.consistent and not candidate.likely]
    if not likely and not unlikely:
        best = found[0]
        audit.warn(
            f"no (n, alpha) that was tried fits all {m:,} distinct radii; the best, {best}, fits {best.held:,} and has "
            f"{best.above:,} above its cap; two-sided radii with a bound of the runner-up lie on no ladder"
        )
        return
    audit.same(f"all {m:,} distinct radii fit {likely[0]}" if likely else f"all radii fit {unlikely[0]}")
    for candidate in likely[1:SHOWN]:
        audit.warn(f"they fit {candidate}, too")
    if len(likely) > SHOWN:
        audit.warn(f"and {len(likely) - SHOWN} more: too few large radii to tell them apart")
    if unlikely:
        audit.warn(
            f"{len(unlikely)} finer ladders hold them, too, but would show radii that this log has none of: "
            f"n = {', '.join(f'{n:,}' for n in sorted({c.ladder.n for c in unlikely}))}"
        )
    if len({(candidate.ladder.n, candidate.ladder.level) for candidate in likely}) == 1:
        _say_rounding(audit, shown, likely[0].ladder)


def _check_stated(audit: Audit, log: FieldLog, shown: Printed, ladder: Ladder, text: str) -> None:
    judged = np.isfinite(log.radius) & (log.predict != ABSTAIN)
    above = judged & np.isin(log.radius, shown.radius[shown.low > ladder.cap])
    if above.any():
        audit.differs(
            f"{int(above.sum()):,} radii above the cap {ladder.cap:.4f} of {text}: {rows_text(log.index[above])}"
        )
    off = off_ladder(log.radius, shown, ladder) & ~above & judged
    audit.expect(
        not off.any(),
        f"every radius up to the cap is one of {text}",
        f"{int(off.sum()):,} radii are none of {text}: {rows_text(log.index[off])}",
    )
    _say_rounding(audit, shown, ladder)


def _say_rounding(audit: Audit, shown: Printed, ladder: Ladder) -> None:
    rows, excess = rounded_up(shown, ladder)
    if rows:
        audit.warn(f"rounded up: {rows:,} radii lie above the one that they come from, by up to {excess:.2g}")
