"""Whether what a card says of its rows agrees with what lies beside it: the rule of the examples, counterexamples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from certtrain.certificates.card_check import positions
from certtrain.certificates.findings import Audit, rows_text


def audit_counterexamples(audit: Audit, path: Path, card: dict[str, Any]) -> None:
    """Check that the card owns up to the counterexamples that lie beside it."""
    record = card.get("falsification") or {}
    if {"failed", "hits", "allowed"} <= record.keys() and record["failed"] != (record["hits"] > record["allowed"]):
        audit.differs(f"falsification: failed {record['failed']}, {record['hits']} hits, {record['allowed']} allowed")
    for file in sorted(path.parent.glob(f"{path.stem}.counterexamples*.json")):
        try:
            refuted = json.loads(file.read_text(encoding="utf-8")).get("failed") is not False
        except (OSError, ValueError, AttributeError):
            refuted = True
        if refuted and not record.get("failed"):
            audit.differs(f"{file.name} refutes the certificates, and the card does not say so")


def audit_rule(audit: Audit, index: Sequence[int], rule: str) -> None:
    """Rows that were left out because they did not suit somebody leave gaps; what is cut off at the end does not."""
    named = positions(rule, max(index) + 1)
    if named is None:
        audit.unchecked(f"indices: the list {Path(rule).name}, which the card does not hold")
        return
    expected = set(named)
    missing, added = sorted(expected - set(index)), sorted(set(index) - expected)
    wrong = [f"without {rows_text(missing)}"] * bool(missing) + [f"with {rows_text(added)}"] * bool(added)
    audit.expect(not wrong, f"the rows are those of indices={rule}", f"indices={rule}: {', '.join(wrong)}")
