"""The part of the page about one certificate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from certtrain.reporting.page.markup import Markup, Node, definitions, details, join, section, table, tag
from certtrain.reporting.page.meaning import meaning

WITHHELD = "withheld: an attack refuted these certificates"
VERDICTS = {"same": "checks hold", "not checked": "not possible", "warning": "warnings", "DIFFERENT": "differ"}
# Of a refuted certificate's summary: what would read as certified.
CLAIMS = ("certified", "acr", "acr_grid", "largest_eps", "mean_largest_eps", "statuses", "stages", "decided")


def certificate_section(
    certificate: Certified,
    radius: Fraction,
    *,
    identifier: str,
    first: bool,
    source: Source | None,
    why: str,
    most: int,
    findings: Sequence[tuple[str, str]] | None,
) -> Markup:
    """All about one certificate.

    Args:
        certificate: of the run.
        radius: at which classes are told apart.
        identifier: of the part, for links to it.
        first: of its kind: what such a certificate means is opened.
        source: of the inputs; None for the reason `why`.
        most: examples shown of the largest, and of the smallest radius; 0 for none.
        findings: of an audit, (kind, what) each; None when there was none.
    """
    parts: list[Node] = [tag("p", badges(certificate)), *notices(certificate), meaning(certificate, opened=first)]
    parts.append(allowed(certificate))
    names = source.class_names if source and source.refusal(certificate) is None else None
    if certificate.shown:
        parts += [tag("h3", "By radius"), radius_table(certificate)]
        parts += [_stages(certificate)]
        if certificate.rows is not None:
            parts += [tag("h3", "By class"), class_table(certificate, radius, names)]
            parts += [tag("h3", f"Confusion at radius {radius_text(radius)}"), *confusion(certificate, radius, names)]
    examples = gallery(certificate, source, why, most)
    parts += [tag("h3", "Examples"), *examples] if examples else []
    parts += [_attack(certificate), _audit(findings), _card(certificate)]
    return section(identifier, ["Certificate ", tag("code", certificate.name)], *parts)


def badges(certificate: Certified) -> Markup:
    """How it stands and what kind it is, in a few words."""
    return join(state_badge(certificate), [tag("span", text, class_="badge") for text in kinds(certificate)])


def kinds(certificate: Certified) -> list[str]:
    """The certifier, the threat model, the kind of claim, and the split where it is not the test split."""
    claim, told = certificate.claim, [certificate.title]
    if claim is not None:
        told += [claim.symbol, claim.kind if claim.alpha is None else f"alpha {claim.alpha:g}"]
    told += [f"{certificate.split} split"] if certificate.split != "test" else []
    return [text for text in told if text]


def state_badge(certificate: Certified) -> Markup:
    """How it stands: complete, unfinished, FALSIFIED, or with figures that its rows contradict."""
    state = ("FALSIFIED", "bad") if certificate.falsified else ("unfinished", "warn")
    if certificate.shown:
        state = ("complete", "good")
    elif certificate.mismatch and not certificate.falsified:
        state = ("does not add up", "bad")
    return tag("span", state[0], class_=f"badge {state[1]}")


def notices(certificate: Certified) -> list[Node]:
    """What a reader must know before any figure."""
    made: list[Node] = []
    if certificate.falsified:
        record = certificate.card.get("falsification") or (certificate.entry or {}).get("falsification") or {}
        hits, attacked = record.get("hits", "some"), record.get("attacked", "the")
        broke = f"An attack broke {hits} of {attacked} certificates that it tried"
        broke += f" (at most {record['allowed']} may fall). " if "allowed" in record else ". "
        made.append(_notice("FALSIFIED", broke + "No figure of it is shown as certified.", bad=True))
    elif certificate.mismatch:
        made.append(_notice("Does not add up", f"Its figures are withheld: {certificate.mismatch}.", bad=True))
    elif not certificate.complete:
        done = 0 if certificate.rows is None else len(certificate.rows)
        of = certificate.card.get("n", "?")
        text = f"{done:,} of {of} examples were certified when it stopped. The rest may be other than these: no figure "
        made.append(_notice("Unfinished", text + "is shown. The same command goes on from there."))
    if said := guess_note(certificate.entry):
        made.append(_notice("No better than a guess", f"This classifier is {said}.", bad=True))
    if warnings := certificate.card.get("warnings"):
        made.append(_notice("Warnings of the card", tag("ul", [tag("li", warning) for warning in warnings])))
    made += [_notice("Incomplete evidence", problem) for problem in certificate.problems]
    return made


def radius_table(certificate: Certified) -> Markup:
    """Certified accuracy by radius with intervals; coverage for smoothing, the statuses for bounds."""
    entry, rows = certificate.entry, certificate.rows
    assert entry is not None
    n = entry["n"]
    grid = sorted({Fraction(0), *radii_of(certificate)})
    header: list[Node] = ["radius", "certified (%)", "95 % interval"]
    attacked = entry.get("pgd") or {}
    header += ["attack's bound (%)"] * bool(attacked)
    votes = certificate.probabilistic and rows is not None
    header += ["coverage (%)", "selective (%)"] if votes else []
    bounds = not certificate.probabilistic and rows is not None
    header += list(STATUSES) if bounds else []
    found = curves(outcomes(rows), [float(r) for r in grid]) if rows is not None and votes else None
    lines: list[list[Node]] = []
    for i, radius in enumerate(grid):
        value = stated(certificate, radius)
        _, interval = share(round((value or 0.0) * n), n)
        line: list[Node] = [radius_text(radius), percent(value), interval if value is not None else "–"]
        line += [percent(attacked.get(radius_text(radius)))] if attacked else []
        if found is not None:
            line += [_percent(found.coverage.value[i]), _percent(found.selective.value[i])]
        if bounds and rows is not None:
            at = radius in radii_of(certificate)
            counts = status_counts(rows, radius) if at else {}
            line += [f"{counts[status]:,}" if at else "–" for status in STATUSES]
        lines.append([*line, f"{n:,}"])
    caption = f"{certificate.name}: certified accuracy by radius; at 0 the accuracy of the certified classifier"
    return join(
        table([*header, "n"], lines, caption=caption, strong=1), tag("p", _amounts(certificate), class_="faint")
    )


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


def _stages(certificate: Certified) -> Node:
    stages = (certificate.entry or {}).get("stages")
    if not isinstance(stages, Mapping):
        return None
    lines = [
        [LABELS.get(name, name), f"{stage['seen']:,}", f"{stage['decided']:,}", f"{stage['seconds']:,.1f}"]
        for name, stage in stages.items()
    ]
    header = ["stage", "examples seen", "decided", "seconds"]
    return table(header, lines, caption=f"{certificate.name}: what each stage did and cost", words=[0])


def _attack(certificate: Certified) -> Node:
    record = certificate.card.get("falsification") or (certificate.entry or {}).get("falsification")
    if not isinstance(record, Mapping):
        return details("Standing attack: none was made", tag("p", "No issued certificate was attacked afterwards."))
    settings = record.get("settings") if isinstance(record.get("settings"), Mapping) else {}
    pairs = [(key, record.get(key)) for key in ("attacked", "hits", "allowed", "failed")]
    pairs += [
        (key, _json(value) if isinstance(value, (dict, list)) else value) for key, value in (settings or {}).items()
    ]
    title = f"Standing attack: {record.get('hits', '?')} of {record.get('attacked', '?')} certificates broken"
    return details(title, definitions((key, None if value is None else str(value)) for key, value in pairs))


def _audit(findings: Sequence[tuple[str, str]] | None) -> Node:
    if findings is None:
        return None
    count = {kind: sum(k == kind for k, _ in findings) for kind in dict.fromkeys(kind for kind, _ in findings)}
    differs = count.get("DIFFERENT", 0)
    told = ", ".join(f"{n} {VERDICTS.get(kind, kind)}" for kind, n in count.items())
    title = f"Audit: {'FAILS' if differs else 'passes'}, {told}"
    ordered = sorted(findings, key=lambda finding: (finding[0] != "DIFFERENT", finding[0] == "same"))
    lines = [tag("li", f"{kind}: {what}", class_="differs" if kind == "DIFFERENT" else None) for kind, what in ordered]
    return details(title, tag("ul", lines, class_="findings"), opened=bool(differs))


def _card(certificate: Certified) -> Node:
    if not certificate.card:
        return None
    card: Mapping[str, Any] = certificate.card
    if certificate.falsified and isinstance(card.get("summary"), Mapping):
        summary = {key: WITHHELD if key in CLAIMS else value for key, value in card["summary"].items()}
        card = {**card, "summary": summary}
    return details("The card in full", tag("pre", _json(card)))


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _percent(value: np.float64) -> str:
    return "–" if np.isnan(value) else percent(float(value))


def _notice(title: str, text: Node, *, bad: bool = False) -> Markup:
    inner = text if isinstance(text, Markup) else tag("span", text)
    return tag(
        "div", tag("strong", title, class_="title"), inner, class_="notice bad" if bad else "notice", role="note"
    )
