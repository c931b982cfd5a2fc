"""The page as a whole: what leads, what follows, and the file that it is written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from certtrain._version import __version__
from certtrain.errors import UserError
from certtrain.reporting.page.certificate import certificate_view
from certtrain.reporting.page.certified_chart import certified_charts
from certtrain.reporting.page.evidence import Evidence
from certtrain.reporting.page.facts import configuration_view, environment_view
from certtrain.reporting.page.figures import chosen_radius
from certtrain.reporting.page.gallery import Source
from certtrain.reporting.page.glance import CERTIFIED, HEADER, headlines, line
from certtrain.reporting.page.rendering import render
from certtrain.reporting.page.training import training_view
from certtrain.system.files import refuse_foreign, write_text_atomic

MARK = "certtrain report"  # the generator that pages of this module name; no other file is overwritten
HEAD = 2_000  # bytes at a file's beginning in which the mark must stand
# Nothing is loaded from anywhere: a browser is told so, too.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STATES = {
    "interrupted": "The run was interrupted: what follows is what it had done until then.",
    "failed": "The run failed: what follows is what it had done until then.",
    "no result": "The run has no result: it is still at work, or was killed before it could write one.",
}


def page(
    evidence: Evidence,
    *,
    source: Source | None = None,
    why: str = "no data were given",
    most: int = 8,
    radius: Fraction | None = None,
    audits: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> str:
    """The HTML of a run.

    Args:
        evidence: what its directory holds.
        source: of the inputs; None for the reason `why`.
        most: examples shown of the largest, and of the smallest radius; 0 for none.
        radius: at which classes are told apart; by default a sensible one for each certificate.
        audits: by certificate the findings of an audit, (kind, what) each.
    """
    found, result = evidence.certificates, evidence.result or {}
    at = {c.name: chosen_radius(c, evidence.config.get("eps"), radius) for c in found}
    told = [f"{key} {result[key]}" for key in ("method", "data", "model") if result.get(key)]
    told += [f"seed {result['seed']}"] if "seed" in result else []
    sections = [
        certificate_view(c, at[c.name], source=source, why=why, most=most, findings=(audits or {}).get(c.name))
        for c in found
    ]
    return render(
        "page.html",
        mark=MARK,
        policy=POLICY,
        version=__version__,
        evidence=evidence,
        stopped=STATES.get(evidence.status, ""),
        told=", ".join(told),
        anchors={certificate.name: f"certificate-{i}" for i, certificate in enumerate(found, start=1)},
        refuted=", ".join(certificate.name for certificate in found if certificate.falsified),
        headlines=headlines(found, at),
        header=HEADER,
        strong=CERTIFIED,
        lines=[line(certificate, at[certificate.name]) for certificate in found],
        charts=certified_charts(found),
        sections=sections,
        training=training_view(evidence),
        configuration=configuration_view(evidence),
        environment=environment_view(evidence),
    )


def write_page(path: Path, text: str) -> Path:
    """Write the page in place of nothing or of a page that this module wrote.

    Raises:
        UserError: a file that is no such page, or a place that cannot be written.
    """
    check_output(path)
    return write_text_atomic(path, text)


def check_output(path: Path) -> None:
    """Refuse a name that no page has, and a file that is not a page of ours.

    Raises:
        UserError: either.
    """
    if path.suffix not in (".html", ".htm"):
        raise UserError(f"{path} is not HTML", where="--output", fix="NAME.html")
    refuse_foreign(path, f'content="{MARK}"'.encode(), "page of `certtrain report`", HEAD)
