"""Radii from the counts of a log with a fixed number of draws, at any alpha; the network is not needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import ABSTAIN, INVALID, Certificates
from certtrain.errors import UserError
from certtrain.smoothing.confidence import Radius
from certtrain.smoothing.distribution import Noise

UNNAMED = "unnamed"  # the status of a row whose counts make a certificate, of a class that the log does not name
COUNTS = ("n", "count_top")
TWO_SIDED_COUNTS = (*COUNTS, "count_runner_up", "classes")


def rows_at(certificates: Certificates, alpha: float, noise: Noise, *, two_sided: bool = False) -> Radius:
    """The radii of a fixed-n log's rows at an alpha for each row, under the noise that its votes were drawn with.

    Raises:
        UserError: a log in stages, one without counts, or counts that make no certificate.
    """
    refuse_stages(certificates)
    columns = certificates.columns
    missing = [name for name in (TWO_SIDED_COUNTS if two_sided else COUNTS) if name not in columns]
    if missing:
        raise UserError(
            f"the log has no column {', '.join(missing)}: radii at another alpha follow from counts of votes only",
            where="certificate log",
            fix="a log written by certtrain certify certifier=smoothing",
        )
    draws = np.unique(columns["n"])
    if len(draws) > 1:
        raise UserError(
            f"the rows have between {draws[0]} and {draws[-1]} draws: their number may have depended on the votes, and "
            "bounds for a fixed number of draws would not hold for them",
            where="certificate log",
            fix="a log whose n was fixed beforehand, the same for all rows",
        )
    count, n = columns["count_top"], columns["n"]
    try:
        if not two_sided:
            return noise.one_sided(count, n, alpha)
        classes = sorted(set(columns["classes"].tolist()))
        if len(classes) != 1:
            raise UserError(f"the column classes holds {classes}", where="certificate log", fix="one number of classes")
        return noise.two_sided(count, columns["count_runner_up"], classes[0], n, alpha)
    except (TypeError, ValueError) as error:
        raise UserError(f"no certificate follows from the counts: {error}", where="certificate log") from error


def refuse_stages(certificates: Certificates, settings: dict[str, Any] | None = None) -> None:
    """Raise for a log whose draws were looked at more than once.

    Raises:
        UserError: it has a column `stage`, or its settings a `schedule`.
    """
    if "stage" in certificates.columns or "schedule" in (settings or {}):
        raise UserError(
            "the log was made in stages: its alpha was spent over several looks at the votes, by a schedule fixed "
            "before the first draw. When drawing ended depended on the votes: bounds for a fixed number of draws do "
            "not hold for them at any alpha (that would be peeking)",
            where="audit --alpha",
            fix="certtrain audit CARD verifies each row under its own schedule; for another alpha certify again",
        )


def rederived(
    certificates: Certificates, alpha: float, noise: Noise, *, two_sided: bool = False
) -> tuple[Certificates, NDArray[np.bool_]]:
    """The log's rows with the radii, abstentions and bounds of another alpha.

    Returns:
        The rows, and which of them abstained before and need not now, where the log does not name their top class
        (column `top`): they stay abstentions.

    Raises:
        UserError: as `rows_at`.
    """
    found = rows_at(certificates, alpha, noise, two_sided=two_sided)
    before = certificates.predict == ABSTAIN
    valid = certificates.columns.get("status", "") != INVALID
    top = certificates.columns.get("top")
    unnamed = before & ~found.abstain & valid & (top is None)
    abstain = found.abstain | ~valid | (before & (top is None))
    predict = np.where(abstain, ABSTAIN, certificates.predict if top is None else top)
    columns = dict(certificates.columns)
    columns["p_lower"] = found.p_lower
    if "status" in columns:
        status = np.where(abstain, "abstained", "certified")
        columns["status"] = np.where(valid, np.where(unnamed, UNNAMED, status), INVALID)
    rows = Certificates(
        certificates.index,
        certificates.label,
        predict,
        np.where(abstain, 0.0, found.radius),
        predict == certificates.label,
        certificates.seconds,
        columns,
    )
    return rows, unnamed
