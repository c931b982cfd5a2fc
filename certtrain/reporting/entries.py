"""What the tables and plots read from the `test` mapping of result.json: labels, kinds, groups that may be compared."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction
from typing import Any

from certtrain.claim import claim_of
from certtrain.radii import parse_radius
from certtrain.system import escape

Entry = Mapping[str, Any]

LABELS = {"ibp": "IBP", "crown_ibp": "CROWN-IBP", "crown": "CROWN", "crown_zero": "CROWN-zero"}
LABELS |= {"alpha_crown": "α-CROWN", "cascade": "cascade", "smoothing": "smoothing", "anytime": "anytime smoothing"}
ORDER = tuple(LABELS)  # cheapest, and loosest, first


def label(entry: Entry) -> str:
    """A certifier's published name; one of several bounds is joined by `+`. One whose certificates fell says so."""
    name = "+".join(LABELS.get(part, part) for part in str(entry["certifier"]).split("+"))
    return f"{name} (FALSIFIED)" if falsified(entry) else name


def falsified(entry: Entry) -> bool:
    """Whether an attack refuted the certificates: their figures are not to be shown as certified."""
    return bool(entry.get("falsified"))


def guessing(entry: Entry | None) -> str | None:
    """Why an entry's classifier is no better than a guess, see `summary.guessing`; None when it is better."""
    why = (entry or {}).get("guessing")
    return None if why is None else escape.one_line(why)


def guess_note(entry: Entry | None) -> str | None:
    """The same as a sentence; None when there is nothing to say."""
    why = guessing(entry)
    return None if why is None else f"no better than a guess: {why}; its certified accuracy says nothing"


def rank(entry: Entry) -> tuple[int, str]:
    """Sorts certifiers from the loosest to the tightest, unknown ones last."""
    last = str(entry["certifier"]).split("+")[-1]
    return (ORDER.index(last) if last in ORDER else len(ORDER)), str(entry["certifier"])


def groups(test: Mapping[str, Entry]) -> list[list[Entry]]:
    """Entries that may stand side by side: deterministic ones of one set on the same examples; each other one alone."""
    together: dict[tuple[str, str | None, int, str], list[Entry]] = {}
    alone: list[list[Entry]] = []
    for entry in test.values():
        claim = claim_of(entry, "result.json")
        if claim.probabilistic:
            alone.append([entry])
        else:
            scales = (entry.get("settings") or {}).get("scales") or {}
            key = (claim.threat, scales.get("sha256"), entry["n"], entry["indices_sha256"])
            together.setdefault(key, []).append(entry)
    return [sorted(group, key=rank) for group in together.values()] + alone


def grid(entries: list[Entry], key: str = "certified") -> list[tuple[Fraction, str]]:
    """The radii of all entries, exact and as text, ascending."""
    return sorted({(parse_radius(text), text) for entry in entries for text in entry.get(key) or ()})


def upper_bound(entries: list[Entry]) -> dict[str, float]:
    """The least PGD accuracy that any of the entries found at each radius: no certifier can certify more there."""
    found: dict[str, float] = {}
    for entry in entries:
        for text, value in (entry.get("pgd") or {}).items():
            found[text] = min(value, found.get(text, value))
    return found


def smoothed_accuracy(entry: Entry) -> float:
    """Certified accuracy at radius 0: the smoothed classifier is right and does not abstain."""
    return entry["certified"].get("0", entry["clean"])


def percent(fraction: float | None) -> str:
    """`86.94`; a dash for nothing. Never `100.00` for less than all."""
    if fraction is None:
        return "–"
    text = f"{100 * fraction:.2f}"
    return "99.99" if text == "100.00" and fraction < 1 else text


def acr_text(value: float) -> str:
    """An average certified radius, with the same four digits in tables, legends and pages, never rounded up.

    Tables of papers alone have three, to the nearest, as the field prints them beside each other.
    """
    return floored(value, 4)


def floored(value: float, digits: int) -> str:
    """A decimal that is never rounded up: what a certificate proves."""
    return str(Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_DOWN))
