"""What a run's certificate logs say about an example at a radius."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import VERIFIED, CertificateLog, Certificates, read_card
from certtrain.certificates.card_check import read_whole
from certtrain.claim import claim_of
from certtrain.radii import parse_radius, radius_text
from certtrain.threat.scales import Scales


@dataclass(frozen=True)
class _Log:
    name: str
    radii: tuple[Fraction, ...]
    rows: Certificates
    place: dict[int, int]


@dataclass(frozen=True)
class Claims:
    """Statuses from deterministic l-inf logs."""

    logs: tuple[_Log, ...]

    def at(self, index: int, radius: Fraction) -> list[dict[str, Any]]:
        """`[{"log", "status", "decided_by", "proved_at"}]`: the status at the radius, or at the least larger one that
        verified, which proves every smaller radius; nothing from a log that says nothing about it."""
        found = []
        for log in self.logs:
            row = log.place.get(index)
            if row is None:
                continue
            for proved_at in sorted(r for r in log.radii if r >= radius):
                status = str(log.rows.columns[f"status@{radius_text(proved_at)}"][row])
                if proved_at == radius or status == VERIFIED:
                    decided = log.rows.columns.get("decided_by")
                    by = str(decided[row]) if decided is not None else ""
                    entry = {"log": log.name, "status": status, "decided_by": by, "proved_at": radius_text(proved_at)}
                    found.append(entry)
                    break
        return found


def read_claims(
    folder: str | Path,
    *,
    checkpoint_sha256: str,
    dataset: str,
    split: str,
    scales: Scales | None = None,
    hash_of: Callable[[NDArray[np.int64]], str] | None = None,
) -> Claims:
    """The deterministic l-inf logs in a run's folder of certificates about these weights, this split and these scales.

    Not those that an attack broke, nor those proved in float32, nor those about other inputs than `hash_of` finds at
    the positions of their rows (`data.hashing.inputs_sha256`).

    Raises:
        UserError: a card or a log that cannot be read; a log that is not the one that its complete card is about.
    """
    logs = []
    for path in sorted((*Path(folder).glob("*.tsv"), *Path(folder).glob("*.tsv.gz"))):
        name = path.name.split(".tsv")[0]
        card_path = path.with_name(f"{name}.json")
        if not card_path.exists():
            continue
        card = read_card(card_path)
        if (card.get("falsification") or {}).get("failed") or card.get("settings", {}).get("precision") == "float32":
            continue  # claims that fell, and those of float32 bounds over boxes that are not rounded outward
        about, claim = (
            (card.get("checkpoint_sha256"), card.get("dataset"), card.get("split")),
            claim_of(card, card_path),
        )
        if about != (checkpoint_sha256, dataset, split) or claim.probabilistic:
            continue
        sizes = card.get("settings", {}).get("scales", {}).get("sha256")
        if claim.threat.split(" ")[0] != "linf" or sizes != (scales and scales.sha256):
            continue  # about another ball, or boxes of other sizes
        whole = card.get("status") == "complete"  # of a part of the examples nobody knows the hash
        rows = read_whole(path, card) if whole else CertificateLog(path, read_only=True).read()
        if whole and hash_of is not None and hash_of(np.sort(rows.index)) != card.get("inputs_sha256"):
            continue
        radii = tuple(_radii(rows.columns))
        if radii:
            logs.append(_Log(name, radii, rows, {int(i): row for row, i in enumerate(rows.index)}))
    return Claims(tuple(logs))


def _radii(columns: Iterable[str]) -> Iterable[Fraction]:
    return (parse_radius(name.removeprefix("status@")) for name in columns if name.startswith("status@"))
