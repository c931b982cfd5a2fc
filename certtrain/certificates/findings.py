"""What an audit says: one finding per check, of one of four kinds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from certtrain.system.files import plain

Kind = Literal["same", "not checked", "warning", "DIFFERENT"]
SAME: Kind = "same"
UNCHECKED: Kind = "not checked"
WARNING: Kind = "warning"
DIFFERENT: Kind = "DIFFERENT"

SHOWN = 5  # offending rows named
INTEGRITY = (
    "An audit shows integrity, not authenticity: that files agree with each other, not who made them, nor that the "
    "votes or bounds were computed as stated. Labels, selected classes, votes, margins, attacks, sigma and that all "
    "settings were fixed beforehand are taken as written: only to certify again checks them."
)


@dataclass(frozen=True)
class Finding:
    """One check and its outcome."""

    kind: Kind
    what: str


@dataclass
class Audit:
    """All findings about one card or log."""

    subject: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether anything differs."""
        return any(finding.kind == DIFFERENT for finding in self.findings)

    def of(self, kind: Kind) -> list[str]:
        """The findings of one kind."""
        return [finding.what for finding in self.findings if finding.kind == kind]

    def same(self, what: str) -> None:
        """A check that was made and holds."""
        self.findings.append(Finding(SAME, what))

    def unchecked(self, what: str) -> None:
        """What could not be checked, and why."""
        self.findings.append(Finding(UNCHECKED, what))

    def warn(self, what: str) -> None:
        """What a reader should know, and proves nothing wrong."""
        self.findings.append(Finding(WARNING, what))

    def differs(self, what: str) -> None:
        """A check that fails."""
        self.findings.append(Finding(DIFFERENT, what))

    def expect(self, holds: bool, same: str, differs: str) -> bool:
        """Record a check; returns whether it holds."""
        self.same(same) if holds else self.differs(differs)
        return holds

    def compare(self, name: str, stated: Any, found: Any, *, tolerance: float = 0.0) -> bool:
        """Record whether a stated value is the one found; returns it."""
        return self.expect(equal(stated, found, tolerance), name, f"{name}: stated {stated!r}, found {plain(found)!r}")


def equal(stated: Any, found: Any, tolerance: float = 0.0) -> bool:
    """Equality of two values as JSON holds them; numbers may differ by a relative tolerance, NaN equals nothing."""
    return _equal(plain(stated), plain(found), tolerance)


def _equal(stated: Any, found: Any, tolerance: float) -> bool:
    if _number(stated) and _number(found):
        return stated == found or math.isclose(stated, found, rel_tol=tolerance, abs_tol=0.0)
    if isinstance(stated, dict) and isinstance(found, dict):
        return stated.keys() == found.keys() and all(_equal(stated[key], found[key], tolerance) for key in stated)
    if isinstance(stated, list) and isinstance(found, list):
        return len(stated) == len(found) and all(_equal(a, b, tolerance) for a, b in zip(stated, found))
    return type(stated) is type(found) and stated == found


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def rows_text(rows: Any) -> str:
    """`idx 3, 17, 20 and 4 more` of the indices of offending rows."""
    values = [str(int(value)) for value in rows]
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return f"idx {', '.join(values[:SHOWN])}{more}"
