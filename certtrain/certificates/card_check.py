"""Whether a log is the one that its card is about: asked by everything that shows, compares or hands on its rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from certtrain.certificates import CertificateLog, Certificates
from certtrain.errors import UserError

COMPLETE = "complete"
OTHER = "other_data"  # of a result: by data set, the certificates that are not about the run's own data


def read_whole(path: str | Path, card: dict[str, Any]) -> Certificates:
    """All rows of a log, by index, which are those that its card says.

    Args:
        path: the log.
        card: beside it; `{}` for a log that has none, which is read as it is.

    Raises:
        UserError: not a log, one without a row, or one that its card is not about.
    """
    log = CertificateLog(path, read_only=True)
    rows = log.read().sorted()
    if why := disagreement(rows, card, log):
        raise UserError(
            f"{path} {why}",
            where="certificate log",
            fix="the command that certified goes on where a log ends; `certtrain audit` says all that differs",
        )
    if not len(rows):
        raise UserError(f"{path} holds no row", where="certificate log", fix="a log with at least one whole line")
    return rows


def disagreement(rows: Certificates, card: dict[str, Any], log: CertificateLog | None = None) -> str | None:
    """In what the rows of a log are not those of its card, in words that follow the log's name; None where in nothing.

    A log without a card, `{}`, is taken as it is.
    """
    if not card:
        return None
    n = card.get("n", 0)
    if card.get("status") != COMPLETE:
        return f"is not complete: it holds {len(rows):,} of {n:,} examples"
    if n != len(rows):
        return f"holds {len(rows):,} rows, and its card says {n:,}"
    if card.get("indices_sha256") != indices_sha256(rows.index.tolist()):
        return "is of other examples than its card says"
    if log is not None and card.get("log_sha256") != log.sha256():
        return "was changed after its card was written: it has another sha256"
    return None


def result_entry(result: Mapping[str, Any] | None, card: Mapping[str, Any], name: str) -> Any:
    """What a run's result says of a certificate: among those of its test set, or of the other data that its card names.

    None where it says nothing, or is not a result.
    """
    found: Any = result
    for key in (OTHER, card.get("dataset"), name) if about_other_data(card) else ("test", name):
        found = found.get(key) if isinstance(found, Mapping) and isinstance(key, str) else None
    return found


def about_other_data(card: Mapping[str, Any]) -> bool:
    """Whether a certificate is about other data than those of its run."""
    return isinstance(card.get("data"), Mapping)


def positions(rule: str, size: int) -> range | None:
    """The positions that `all`, `first_500` or `every_20th` name in a split; None for another rule, such as a file.

    Args:
        rule: as `indices=` takes it.
        size: of the split; the first 500 are 500 in any case.
    """
    if rule == "all":
        return range(size)
    if (match := re.fullmatch(r"(first|every)_([1-9][0-9]{0,17})(?:st|nd|rd|th)?", rule)) is None:
        return None
    return range(int(match[2])) if match[1] == "first" else range(0, size, int(match[2]))


def indices_sha256(indices: Iterable[int]) -> str:
    """The hash of a list of positions: one decimal number per line, ascending."""
    return hashlib.sha256("".join(f"{index}\n" for index in sorted(indices)).encode()).hexdigest()
