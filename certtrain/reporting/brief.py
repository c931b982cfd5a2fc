"""One line per row, for the first screen of a README: ours, and the published figure in brackets."""

from __future__ import annotations

from collections.abc import Sequence

from certtrain.reporting.comparison import GUESSED, Line
from certtrain.reporting.paper_tables import CLAIMS, HOURS, blocks, cells, settings_of
from certtrain.reporting.published import Paper
from certtrain.system import escape
from certtrain.threat import norm_text

TITLES = {"bounds": "Deterministic certificates", "smoothing": "Randomized smoothing"}
HEADERS = {
    "bounds": ("experiment", "data, network", "eps", "clean", "certified", "verifier", "n", "seeds", "hours"),
    "smoothing": ("experiment", "data, network", "sigma", "smoothed", "certified at l2 radius", "ACR", "draws", "n"),
}
HEADERS["smoothing"] += ("seeds", "hours")


def brief(papers: Sequence[tuple[Paper, Sequence[Line]]]) -> str:
    """Markdown: a table per kind of claim and norm, over all papers; rows that were not run are left out."""
    ran = [line for _, lines in papers for line in lines if line.ours is not None]
    out: list[str] = []
    for family, norm in sorted({(line.row.family, line.row.norm) for line in ran}):
        lines = [line for line in ran if (line.row.family, line.row.norm) == (family, norm)]
        letters, header = settings_of(lines), HEADERS[family]
        claim = CLAIMS[family].split(", ", 1)[1]
        what = f"({claim}; %, published on the same images in brackets)"
        out += [f"**{TITLES[family]}, {escape.markdown(norm_text(norm))}** {what}", ""]
        out += [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        for block in blocks(lines):
            first = block[0]
            named = escape.markdown_code(first.row.experiment) + (f" {letters[first.setting]}" if first.setting else "")
            what = escape.markdown(f"{first.row.data}, {first.row.network}")
            row = _bounds(block) if family == "bounds" else _smoothing(block)
            shown = best(block) if family == "bounds" else first
            tail = [f"{shown.n:,}", str(shown.seeds), cells(shown)["hours"]]
            out.append(f"| {' | '.join([named, what, *row, *tail])} |")
        hardware = dict.fromkeys(line.hardware for line in lines)
        notes = [f"{letter} with {setting}" for setting, letter in letters.items()]
        notes += [GUESSED] if any(line.guesses for line in lines) else []
        out += ["", escape.markdown_item("; ".join([HOURS.format("; ".join(hardware)), *notes]) + "."), ""]
    return "\n".join(out).rstrip() + "\n"


def _bounds(block: Sequence[Line]) -> list[str]:
    row = block[0].row
    clean, shown = next(line for line in block if line.quantity == "clean"), best(block)
    return [escape.markdown(row.eps or ""), beside(clean), beside(shown), escape.markdown(shown.verifier)]


def best(block: Sequence[Line]) -> Line:
    """The certified accuracy at the row's eps that is shown: beside the published one, else the largest proved."""
    row = block[0].row
    certified = [line for line in block if line.quantity == f"certified@{row.eps}"]
    certified = certified or [line for line in block if line.quantity.startswith("certified@")]
    judged = [line for line in certified if line.published is not None]
    # Each of several certifiers proves what it says: without a published figure to stand beside, the best one counts.
    return judged[0] if judged else max(certified, key=lambda line: line.ours or 0.0)


def _smoothing(block: Sequence[Line]) -> list[str]:
    row, found = block[0].row, {line.quantity: line for line in block}
    radii = [line for line in block if line.quantity.startswith("certified@")]
    shown = [line for line in radii if line.published is not None] or radii
    certified = "<br>".join(f"{escape.markdown(line.quantity.partition('@')[2])}: {beside(line)}" for line in shown)
    draws = f"{block[0].draws:,}" if block[0].draws else ""
    acr = beside(found["ACR"]) if "ACR" in found else "–"  # staged draws have none
    return [f"{row.sigma:g}" if row.sigma else "", beside(found["clean"]), certified, acr, draws]


def beside(line: Line) -> str:
    """Ours, with the published figure of the same images in brackets."""
    shown = cells(line)
    return shown["ours"] + (f" ({escape.markdown(shown['published'])})" if line.published is not None else "")
