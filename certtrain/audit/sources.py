"""Logs to draw, from runs, cards, our logs and the field's alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from certtrain.audit.card import card_of, cards_of, log_of
from certtrain.audit.field_checks import usable
from certtrain.audit.fieldlog import is_ours, read_field_log
from certtrain.certificates import read_card
from certtrain.certificates.card_check import read_whole
from certtrain.claim import Claim, claim_of
from certtrain.errors import UserError
from certtrain.reporting.curve_figures import Line
from certtrain.reporting.curves import outcomes
from certtrain.threat import norms, threat_of


def read_lines(paths: Sequence[str | Path], norm: str | None = None) -> list[Line]:
    """Every log below the paths: a run's are all of its cards'; field logs are in l2 unless the norm is stated.

    Raises:
        UserError: a path that is no run, card or log; a certificate that was falsified; a log that is not
            the one that its card is about; an unknown norm.
    """
    if norm is not None and norm not in norms():
        raise UserError(f"unknown norm {norm!r}", where="--norm", fix=f"one of {', '.join(norms())}")
    found: list[tuple[Path, Line]] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += [(card, _of_card(card)) for card in cards_of(path)]
        elif path.suffix == ".json":
            found.append((path, _of_card(path)))
        elif is_ours(path):
            card = card_of(path)
            found.append((path, _of_log(path, read_card(card) if card.exists() else {}, norm)))
        else:
            found.append((path, Line(path.name, usable(read_field_log(path)), unstated(norm))))
    return told_apart(found)


def told_apart(found: Sequence[tuple[Path, Line]]) -> list[Line]:
    """The lines; where several have one label, each with as much of its folder's path as no other of them has."""
    lines = []
    for path, line in found:
        own = path.resolve().parent.parts
        others = {other.resolve().parent.parts for other, one in found if one.label == line.label} - {own}
        length = 1
        while length < len(own) and any(other[-length:] == own[-length:] for other in others):
            length += 1
        where = f" ({'/'.join(own[-length:])})" if others else ""
        lines.append(replace(line, label=line.label + where))
    return lines


def _of_card(path: Path) -> Line:
    log, card = log_of(path), read_card(path)
    if log is None:
        raise UserError(f"there is no log beside {path}", where="certificate card", fix="the run's certificates folder")
    return _of_log(log, card, None)


def _of_log(path: Path, card: dict[str, Any], norm: str | None) -> Line:
    if (card.get("falsification") or {}).get("failed"):
        raise UserError(
            f"an attack broke certificates of {path}: they are not to be drawn as certified",
            where="certificate card",
            fix="find what is wrong with the bounds or the noise, and certify again",
        )
    rows = read_whole(path, card)
    if not card and norm is None:
        raise UserError(
            f"no card beside {path} says what its radii are of", where="--norm", fix=f"--norm {' or '.join(norms())}"
        )
    stem = path.name.removesuffix(".gz").removesuffix(".tsv")
    label = f"{card['run']}, {stem}" if "run" in card else stem
    return Line(label, outcomes(rows, card.get("inputs_sha256")), claim_of(card, path) if card else unstated(norm))


def unstated(norm: str | None) -> Claim:
    """What is known of a log without a card: the norm that the user states, in the field's logs l2."""
    return Claim.about(
        threat_of(norm or "l2"),
        "probabilistic",
        closed=False,
        radii="continuous",
        subject="a classifier that the log does not name",
        proof="The log states no claim.",
        brief="no claim stated",
    )
