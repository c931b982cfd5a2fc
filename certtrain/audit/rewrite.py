"""Writes a log at another alpha, with a card that says what it was derived from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from certtrain.audit.card import card_of
from certtrain.certificates import CertificateLog, Certificates, write_card
from certtrain.certificates.summary import summarise
from certtrain.certifiers.claims import abstention_rule
from certtrain.claim import claim_of
from certtrain.errors import UserError
from certtrain.radii import parse_radii

DROPPED = ("start", "end", "last_run_seconds", "command")  # of the old card: they say how that was made


def check_output(output: Path) -> None:
    """Refuse a name that exists, or that no log has.

    Raises:
        UserError: either.
    """
    if output.suffix != ".tsv":
        raise UserError(f"{output} is no name of a log", where="--output", fix=f"--output {output.stem}.tsv")
    for path in (output, card_of(output)):
        if path.exists():
            raise UserError(f"{path} exists: nothing is overwritten", where="--output", fix="another name")


def write_derived(
    rows: Certificates, source: CertificateLog, card: dict[str, Any] | None, output: Path, settings: dict[str, Any]
) -> list[Path]:
    """The log and, where the old one has a card, a card with the new settings, summary and hashes.

    Args:
        rows: derived from the source.
        source: the old log.
        card: its card, if there is one.
        output: the new log, which must not exist.
        settings: what differs from the old card's settings: alpha, two_sided, budget.

    Raises:
        UserError: something of the name exists, or cannot be written.
    """
    check_output(output)
    log = CertificateLog(output)
    log.append(rows)
    if card is None:
        return [output]
    merged = {**card["settings"], **settings}
    merged["abstain"] = abstention_rule(staged=False, two_sided=bool(merged.get("two_sided")))
    if "alpha_each" not in settings:
        merged.pop("alpha_each", None)
    claim = replace(claim_of(card), alpha=merged["alpha"], budget="dataset" if "alpha_each" in merged else "example")
    summary = summarise(rows, parse_radii(card["radii"]), claim)
    summary |= {"indices_sha256": card.get("indices_sha256"), "certifier": card["certifier"], "settings": merged}
    summary["seconds"] = float(rows.seconds.sum())
    derived = {key: value for key, value in card.items() if key not in DROPPED}
    derived["claim"] = claim.to_dict()
    if (card.get("falsification") or {}).get("failed"):  # what fell at one alpha is not sound at another
        summary |= {"falsification": card["falsification"], "falsified": True}
    else:
        derived.pop("falsification", None)
    derived |= {"settings": merged, "summary": summary, "log_sha256": log.sha256(), "seconds": summary["seconds"]}
    derived["derived_from"] = {"log": source.path.name, "log_sha256": source.sha256(), "settings": card["settings"]}
    return [output, write_card(card_of(output), derived)]
