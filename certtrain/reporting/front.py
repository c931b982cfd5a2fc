"""One line per row, whatever the claim, for the first screen of a README: each line says what its figures claim."""

from __future__ import annotations

from collections.abc import Sequence

from certtrain.reporting.brief import beside, best
from certtrain.reporting.comparison import GUESSED, Line
from certtrain.reporting.paper_tables import HOURS, blocks, cells
from certtrain.reporting.published import Paper
from certtrain.system import escape
from certtrain.threat import norm_text

HEADER = ("experiment", "data, network", "claim", "accuracy", "certified", "n", "seeds", "hours")
CLAIMS = {"bounds": "proved", "smoothing": "with probability 1 - alpha"}


def front(papers: Sequence[tuple[Paper, Sequence[Line]]]) -> str:
    """Markdown: a table of all papers' rows that were run as their presets say; of several draws, those of the most."""
    found: list[tuple[Line, str]] = []
    for _, lines in papers:
        ran = [block for block in blocks([line for line in lines if line.ours is not None]) if not block[0].setting]
        for row in dict.fromkeys(block[0].row.name for block in ran):
            own = [block for block in ran if block[0].row.name == row]
            found.append(_shown(max(own, key=lambda block: block[0].draws or 0)))
    notes = [HOURS.format("; ".join(dict.fromkeys(line.hardware for line, _ in found)))]
    notes += [GUESSED] if any(line.guesses for line, _ in found) else []
    head = [f"| {' | '.join(HEADER)} |", "|" + "---|" * len(HEADER)]
    return "\n".join([*head, *(text for _, text in found), "", escape.markdown_item("; ".join(notes) + ".")]) + "\n"


def _shown(block: Sequence[Line]) -> tuple[Line, str]:
    """The line that a block is shown by, and its row of the table."""
    row, clean = block[0].row, next(line for line in block if line.quantity == "clean")
    size = f"eps {row.eps}" if row.eps else f"sigma {row.sigma:g}" if row.sigma else ""
    claim = escape.markdown(f"{norm_text(row.norm)}, {size}: {CLAIMS[row.family]}")
    if row.family == "bounds":
        shown = best(block)
        certified = f"{beside(shown)} % by {escape.markdown(shown.verifier)}"
    else:
        shown = next((line for line in block if line.quantity == "ACR"), clean)
        told = [f"ACR {beside(shown)}"] if shown is not clean else []
        at = [line for line in block if row.sigma and line.quantity == f"certified@{row.sigma:g}"]
        certified = "<br>".join([*told, *(f"{beside(line)} % at {row.sigma:g}" for line in at)])
    what = escape.markdown(f"{row.data}, {row.network}")
    tail = [f"{shown.n:,}", str(shown.seeds), cells(shown)["hours"]]
    parts = [escape.markdown_code(row.experiment), what, claim, f"{beside(clean)} %", certified, *tail]
    return shown, f"| {' | '.join(parts)} |"
