"""What the part of the page about one certificate shows; `templates/certificate.html` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from certtrain.certificates import STATUSES
from certtrain.certificates.summary import status_counts
from certtrain.radii import radius_text
from certtrain.reporting.curves import curves, outcomes
from certtrain.reporting.entries import LABELS, acr_text, floored, guess_note, percent
from certtrain.reporting.page.allowed import allowed
from certtrain.reporting.page.classes import class_table, confusion
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.figures import radii_of, share, stated
from certtrain.reporting.page.gallery import Source, gallery
from certtrain.reporting.page.meaning import meaning
from certtrain.reporting.page.table import Table

WITHHELD = "withheld: an attack refuted these certificates"
VERDICTS = {"same": "checks hold", "not checked": "not possible", "warning": "warnings", "DIFFERENT": "differ"}
# Of a refuted certificate's summary: what would read as certified.
CLAIMS = ("certified", "acr", "acr_grid", "largest_eps", "mean_largest_eps", "statuses", "stages", "decided")


@dataclass(frozen=True)
class Notice:
    """What a reader must know before any figure: a title, a text or a list of them, whether it is bad news."""

    title: str
    text: str = ""
    items: Sequence[str] = ()
    bad: bool = False


def certificate_view(
    certificate: Certified,
    radius: Fraction,
    *,
    source: Source | None,
    why: str,
    most: int,
    findings: Sequence[tuple[str, str]] | None,
) -> dict[str, Any]:
    """All about one certificate.

    Args:
        certificate: of the run.
        radius: at which classes are told apart.
        source: of the inputs; None for the reason `why`.
        most: examples shown of the largest, and of the smallest radius; 0 for none.
        findings: of an audit, (kind, what) each; None when there was none.
    """
    refusal = why if source is None else source.refusal(certificate)
    source = None if refusal else source
    names = source.class_names if source else None
    counted = certificate.shown and certificate.rows is not None
    said, points = meaning(certificate)
    return {
        "certificate": certificate,
        "state": state(certificate),
        "kinds": kinds(certificate),
        "notices": notices(certificate),
        "said": said,
        "points": points,
        "allowed": allowed(certificate),
        "by_radius": radius_table(certificate) if certificate.shown else None,
        "amounts": _amounts(certificate) if certificate.shown else "",
        "stages": _stages(certificate) if certificate.shown else None,
        "by_class": class_table(certificate, radius, names) if counted else None,
        "confusion": confusion(certificate, radius, names) if counted else [],
        "gallery": gallery(certificate, source, refusal, most),
        "attack": _attack(certificate),
        "audit": _audit(findings),
        "card": _card(certificate),
    }


def kinds(certificate: Certified) -> list[str]:
    """The certifier, the threat model, the kind of claim, and the examples where they are not the run's test set."""
    claim, told = certificate.claim, [certificate.title]
    if claim is not None:
        told += [claim.symbol, claim.kind if claim.alpha is None else f"alpha {claim.alpha:g}"]
    told += [certificate.about] if certificate.about else []
    return [text for text in told if text]


def state(certificate: Certified) -> tuple[str, str]:
    """How it stands, and the class of its badge: complete, unfinished, FALSIFIED, or contradicted by its rows."""
    if certificate.shown:
        return "complete", "good"
    if certificate.falsified:
        return "FALSIFIED", "bad"
    return ("does not add up", "bad") if certificate.mismatch else ("unfinished", "warn")


def notices(certificate: Certified) -> list[Notice]:
    """What a reader must know before any figure."""
    made: list[Notice] = []
    if certificate.falsified:
        record = certificate.card.get("falsification") or (certificate.entry or {}).get("falsification") or {}
        broke = f"An attack broke {record.get('hits', 'some')} of {record.get('attacked', 'the')} certificates that it "
        broke += f"tried (at most {record['allowed']} may fall). " if "allowed" in record else "tried. "
        made.append(Notice("FALSIFIED", broke + "No figure of it is shown as certified.", bad=True))
    elif certificate.mismatch:
        made.append(Notice("Does not add up", f"Its figures are withheld: {certificate.mismatch}.", bad=True))
    elif not certificate.complete:
        done = 0 if certificate.rows is None else len(certificate.rows)
        of = certificate.card.get("n", "?")
        text = f"{done:,} of {of} examples were certified when it stopped. The rest may be other than these: no figure "
        made.append(Notice("Unfinished", text + "is shown. The same command goes on from there."))
    if said := guess_note(certificate.entry):
        made.append(Notice("No better than a guess", f"This classifier is {said}.", bad=True))
    if warnings := certificate.card.get("warnings"):
        made.append(Notice("Warnings of the card", items=warnings if isinstance(warnings, list) else [warnings]))
    return made + [Notice("Incomplete evidence", problem) for problem in certificate.problems]


def radius_table(certificate: Certified) -> Table:
    """Certified accuracy by radius with intervals; coverage for smoothing, the statuses for bounds."""
    entry, rows = certificate.entry, certificate.rows
    assert entry is not None
    n = entry["n"]
    grid = sorted({Fraction(0), *radii_of(certificate)})
    header = ["radius", "certified (%)", "95 % interval"]
    attacked = entry.get("pgd") or {}
    header += ["attack's bound (%)"] * bool(attacked)
    votes = certificate.probabilistic and rows is not None
    header += ["coverage (%)", "selective (%)"] if votes else []
    bounds = not certificate.probabilistic and rows is not None
    header += list(STATUSES) if bounds else []
    found = curves(outcomes(rows), [float(r) for r in grid]) if rows is not None and votes else None
    lines = []
    for i, radius in enumerate(grid):
        value = stated(certificate, radius)
        _, interval = share(round((value or 0.0) * n), n)
        line = [radius_text(radius), percent(value), interval if value is not None else "–"]
        line += [percent(attacked.get(radius_text(radius)))] if attacked else []
        if found is not None:
            line += [_percent(found.coverage.value[i]), _percent(found.selective.value[i])]
        if bounds and rows is not None:
            at = radius in radii_of(certificate)
            counts = status_counts(rows, radius) if at else {}
            line += [f"{counts[status]:,}" if at else "–" for status in STATUSES]
        lines.append([*line, f"{n:,}"])
    caption = f"{certificate.name}: certified accuracy by radius; at 0 the accuracy of the certified classifier"
    return Table(caption, [*header, "n"], lines, strong=1)


def _amounts(certificate: Certified) -> str:
    entry = certificate.entry
    assert entry is not None
    told = []
    if entry.get("acr") is not None:
        told.append(f"Average certified radius (ACR) {acr_text(entry['acr'])}")
    elif certificate.targets:
        told.append("No ACR: radii are targets")
    elif entry.get("acr_grid") is not None:
        told.append(f"mean radius on this grid (acr_grid) {floored(entry['acr_grid'], 4)}, not comparable with an ACR")
    for key, name in (("abstained", "abstained"), ("invalid", "invalid"), ("error", "errors")):
        if isinstance(entry.get(key), int):
            told.append(f"{name} {entry[key]:,}")
    if isinstance(entry.get("near_ties"), int):
        told.append(f"near-ties among the votes {entry['near_ties']:,}")
    if isinstance(entry.get("mean_draws"), (int, float)):
        told.append(f"mean draws an example {entry['mean_draws']:,.0f}")
    if isinstance(entry.get("largest_eps"), (int, float)):
        told.append(f"mean largest certified eps by bisection {floored(entry['largest_eps'], 4)}")
    if isinstance(entry.get("seconds"), (int, float)):
        told.append(f"{entry['seconds']:,.1f} seconds")
    return "; ".join(told) + "."


def _stages(certificate: Certified) -> Table | None:
    stages = (certificate.entry or {}).get("stages")
    if not isinstance(stages, Mapping):
        return None
    lines = [
        [LABELS.get(name, name), f"{stage['seen']:,}", f"{stage['decided']:,}", f"{stage['seconds']:,.1f}"]
        for name, stage in stages.items()
    ]
    header = ["stage", "examples seen", "decided", "seconds"]
    return Table(f"{certificate.name}: what each stage did and cost", header, lines, words=(0,))


def _attack(certificate: Certified) -> tuple[str, list[tuple[str, str]] | None]:
    """A title, and the facts of the attack on issued certificates; None for them when there was none."""
    record = certificate.card.get("falsification") or (certificate.entry or {}).get("falsification")
    if not isinstance(record, Mapping):
        return "Standing attack: none was made", None
    settings = record.get("settings") if isinstance(record.get("settings"), Mapping) else {}
    facts = [("attacked", "attacked"), ("counterexamples", "hits"), ("allowed", "allowed"), ("failed", "failed")]
    pairs: Iterable[tuple[str, Any]] = [(name, record.get(key)) for name, key in facts] + list((settings or {}).items())
    title = f"Standing attack: {record.get('hits', '?')} of {record.get('attacked', '?')} certificates broken"
    told = [
        (key, _json(value) if isinstance(value, (dict, list)) else str(value))
        for key, value in pairs
        if value not in (None, "")
    ]
    return title, told


def _audit(findings: Sequence[tuple[str, str]] | None) -> dict[str, Any] | None:
    if findings is None:
        return None
    count = {kind: sum(k == kind for k, _ in findings) for kind in dict.fromkeys(kind for kind, _ in findings)}
    differs = "DIFFERENT" in count
    told = ", ".join(f"{n} {VERDICTS.get(kind, kind)}" for kind, n in count.items())
    ordered = sorted(findings, key=lambda finding: (finding[0] != "DIFFERENT", finding[0] == "same"))
    return {"title": f"Audit: {'FAILS' if differs else 'passes'}, {told}", "findings": ordered, "differs": differs}


def _card(certificate: Certified) -> str:
    card: Mapping[str, Any] = certificate.card
    if certificate.falsified and isinstance(card.get("summary"), Mapping):
        summary = {key: WITHHELD if key in CLAIMS else value for key, value in card["summary"].items()}
        card = {**card, "summary": summary}
    return _json(card) if card else ""


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _percent(value: np.float64) -> str:
    return "–" if np.isnan(value) else percent(float(value))
