"""The page as a whole: what leads, what follows, and the file that it is written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from certtrain._version import __version__
from certtrain.certificates.summary import certified
from certtrain.errors import UserError
from certtrain.files import refuse_foreign, write_text_atomic
from certtrain.radii import radius_text
from certtrain.reporting.entries import acr_text, percent
from certtrain.reporting.page.certificate import certificate_section, kinds, state_badge
from certtrain.reporting.page.certified_chart import certified_charts
from certtrain.reporting.page.evidence import Certified, Evidence
from certtrain.reporting.page.facts import configuration_section, environment_section
from certtrain.reporting.page.figures import chosen_radius, share, stated
from certtrain.reporting.page.gallery import Source
from certtrain.reporting.page.markup import Markup, Node, join, section, table, tag
from certtrain.reporting.page.style import STYLE
from certtrain.reporting.page.training import training_section

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
    found = evidence.certificates
    at = {c.name: chosen_radius(c, evidence.config.get("eps"), radius) for c in found}
    sections: list[Node] = [_glance(found, at)]
    seen: set[bool] = set()
    for i, certificate in enumerate(found):
        first = certificate.probabilistic not in seen
        seen.add(certificate.probabilistic)
        given = (audits or {}).get(certificate.name)
        shown: dict[str, Any] = {"source": source, "why": why, "most": most, "findings": given, "first": first}
        sections.append(certificate_section(certificate, at[certificate.name], identifier=_anchor(i), **shown))
    sections += [training_section(evidence), configuration_section(evidence), environment_section(evidence)]
    links = [("certificates", "Certificates"), *((_anchor(i), c.name) for i, c in enumerate(found))]
    links += [("training", "Training"), ("configuration", "Configuration"), ("environment", "Environment")]
    navigation = tag(
        "nav",
        tag("ul", [tag("li", tag("a", text, href=f"#{name}-title")) for name, text in links]),
        aria_label="Parts of this page",
    )
    body = tag(
        "body",
        tag("header", tag("h1", evidence.name), _state(evidence), navigation),
        tag("main", sections),
        tag(
            "footer", f"certtrain {__version__}. Figures come from the files of the run; the page needs no other file."
        ),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="generator", content=MARK),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"{evidence.name}: certificates"),
        tag("style", Markup(STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


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


def _state(evidence: Evidence) -> Markup:
    result = evidence.result or {}
    kind = "good" if evidence.status == "complete" else "warn"
    told = [f"{key} {result[key]}" for key in ("method", "data", "model") if result.get(key)]
    told += [f"seed {result['seed']}"] if "seed" in result else []
    made: list[Node] = [tag("span", evidence.status, class_=f"badge {kind}"), ", ".join(told)]
    notices: list[Node] = []
    if text := STATES.get(evidence.status):
        notices.append(tag("div", tag("strong", evidence.status, class_="title"), text, class_="notice", role="note"))
    if fallen := [certificate.name for certificate in evidence.certificates if certificate.falsified]:
        text = f"An attack refuted {', '.join(fallen)}: nothing of it is shown as certified."
        notices.append(tag("div", tag("strong", "FALSIFIED", class_="title"), text, class_="notice bad", role="note"))
    for problem in evidence.problems:
        notices.append(tag("div", tag("strong", "Not readable", class_="title"), problem, class_="notice", role="note"))
    return join(tag("p", made), notices)


def _glance(certificates: Sequence[Certified], at: Mapping[str, Fraction]) -> Markup:
    if not certificates:
        text = "The run has no certificate yet. Nothing is proved about this network."
        return section("certificates", "Certificates", tag("p", text))
    lines = [_line(c, at[c.name], _anchor(i)) for i, c in enumerate(certificates)]
    header = [
        "certificate",
        "status",
        "what",
        "accuracy (%)",
        "at radius",
        "certified (%)",
        "95 % interval",
        "ACR",
        "n",
    ]
    made = table(header, lines, caption="all certificates of the run", words=[0, 1, 2], strong=5)
    return section("certificates", "Certificates", made, certified_charts(certificates))


def _anchor(i: int) -> str:
    return f"certificate-{i + 1}"


def _line(certificate: Certified, radius: Fraction, anchor: str) -> list[Node]:
    link = tag("a", certificate.name, href=f"#{anchor}-title")
    entry, what = certificate.entry, ", ".join(kinds(certificate))
    if not certificate.shown or entry is None:
        return [link, state_badge(certificate), what, *["–"] * 6]
    value, interval = stated(certificate, radius), "–"
    if value is None and certificate.rows is not None:  # a radius that is not of the grid
        value = int(certified(certificate.rows, radius).sum()) / len(certificate.rows)
    if value is not None:
        interval = share(round(value * entry["n"]), entry["n"])[1]
    acr = "–" if entry.get("acr") is None else acr_text(entry["acr"])
    figures = [percent(entry["clean"]), radius_text(radius), percent(value), interval, acr, f"{entry['n']:,}"]
    return [link, state_badge(certificate), what, *figures]
