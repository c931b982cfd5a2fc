"""Which method for this radius: a table for each data set and radius, a line for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from certtrain.radii import parse_radius
from certtrain.reporting.brief import best
from certtrain.reporting.cells import Cell, Figure, figures_of
from certtrain.reporting.comparison import Line
from certtrain.reporting.entries import percent
from certtrain.reporting.paper_tables import blocks
from certtrain.reporting.published import Paper
from certtrain.system import escape
from certtrain.threat import norm_text

Papers = Sequence[tuple[Paper, Sequence[Line]]]
OWN, MARK, UNKNOWN = "its paper", "~", "–"
UNITS = "natural/certified accuracy in %; of several figures the one that certifies most, best first"
RECALLED = f"{MARK} recalled from memory, not read again"


@dataclass(frozen=True)
class Ours:
    """Our best result for a method in a cell."""

    method: str
    clean: Line
    certified: Line

    @property
    def order(self) -> tuple[bool, float]:
        """Sorts results of one method, the one to show last."""
        return not self.certified.setting, self.certified.ours or 0.0


@dataclass(frozen=True)
class Comparison:
    """A cell's table: its title, columns, rows of texts, and notes."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def comparisons(papers: Papers) -> list[Comparison]:
    """One for each cell that any paper has a figure or a result of ours for, by data set and radius."""
    figures, ours = figures_of(paper for paper, _ in papers), _ours(papers)
    names = _names(papers)
    order = sorted({*figures, *ours}, key=lambda cell: (cell.norm, names[cell.data].lower(), parse_radius(cell.eps)))
    return [_comparison(cell, names[cell.data], figures.get(cell, []), ours.get(cell, [])) for cell in order]


def _names(papers: Papers) -> dict[str, str]:
    """Of a cell's data set, as the papers write it."""
    found = [row.data for paper, _ in papers for row in (*paper.rows.values(), *paper.points)]
    return {Cell.of(name, "", "").data: name for name in reversed(found)}


def _ours(papers: Papers) -> dict[Cell, list[Ours]]:
    """Of each method the best result among all rows of the cell, whatever the network; of a preset as it stands first,
    and none that is no better than a guess."""
    found: dict[Cell, dict[str, Ours]] = {}
    for _, lines in papers:
        for block in blocks([line for line in lines if line.ours is not None]):
            row = block[0].row
            if not row.eps or block[0].guesses or not any(line.quantity == f"certified@{row.eps}" for line in block):
                continue
            cell = Cell.of(row.data, row.norm, row.eps)
            made = Ours(row.method or row.name, next(line for line in block if line.quantity == "clean"), best(block))
            methods = found.setdefault(cell, {})
            before = methods.get(made.method)
            if before is None or made.order > before.order:
                methods[made.method] = made
    return {cell: list(methods.values()) for cell, methods in found.items()}


def _comparison(cell: Cell, name: str, figures: Sequence[Figure], ours: Sequence[Ours]) -> Comparison:
    chosen = [figure for figure in figures if figure.published.tuned != "validation"]
    benchmarks = list(dict.fromkeys(figure.benchmark for figure in chosen if figure.benchmark))
    found: dict[str, dict[str, Figure]] = {}
    for figure in chosen:
        columns = found.setdefault(figure.method, {})
        column = figure.benchmark or OWN
        if column not in columns or figure.certified > columns[column].certified:
            columns[column] = figure
    mine = {result.method: result for result in ours}
    places = {method: f" ({chr(ord('a') + place)})" for place, method in enumerate(mine)}

    def most(method: str) -> float:
        shown = [figure.certified for figure in found.get(method, {}).values()]
        return max([*shown, *([mine[method].certified.ours or 0.0] if method in mine else [])])

    rows = []
    for method in sorted(dict.fromkeys([*found, *mine]), key=most, reverse=True):
        columns = found.get(method, {})
        own, result = columns.get(OWN), mine.get(method)
        texts = [method, _result(result) + places.get(method, "")]
        texts += [_figure(columns.get(column)) for column in (OWN, *benchmarks)]
        by = [f"ours {result.certified.verifier}"] if result else []
        by += [f"{own.paper} {own.published.how}"] if own else []
        rows.append((*texts, "; ".join(by)))
    notes = [f"ours{places[r.method]}: {_network(r)}" for r in ours]
    notes += [f"{column}: {_protocol([c[column] for c in found.values() if column in c])}" for column in benchmarks]
    notes += [f"tuned on validation images: {text}" for text in _validated(figures)]
    notes += [RECALLED] if any(figure.recalled for columns in found.values() for figure in columns.values()) else []
    header = ("method", "ours", OWN, *benchmarks, "verifier")
    return Comparison(f"{name}, {norm_text(cell.norm)} eps {cell.eps}", header, tuple(rows), tuple(notes))


def _result(result: Ours | None) -> str:
    return UNKNOWN if result is None else f"{percent(result.clean.ours)}/{percent(result.certified.ours)}"


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return UNKNOWN
    return f"{MARK if figure.recalled else ''}{percent(figure.clean)}/{percent(figure.certified)}"


def _network(result: Ours) -> str:
    line = result.certified
    setting = f", with {line.setting}" if line.setting else ""
    return f"{result.method} by {line.row.experiment}: {line.row.network}, n = {line.n:,}, seeds {line.seeds}{setting}"


def _protocol(figures: Sequence[Figure]) -> str:
    """Verifiers and what the recipes were chosen by, over the figures shown."""
    by = "; ".join(dict.fromkeys(figure.published.how for figure in figures))
    tuned = dict.fromkeys(figure.published.tuned for figure in figures if figure.published.tuned)
    return by + "".join(f", chosen on the {which} images" for which in tuned)


def _validated(figures: Sequence[Figure]) -> list[str]:
    shown: dict[str, list[str]] = {}
    for figure in figures:
        if figure.published.tuned == "validation":
            shown.setdefault(figure.benchmark or figure.paper, []).append(f"{figure.method} {_figure(figure)}")
    return [f"{paper} {', '.join(texts)}" for paper, texts in shown.items()]


def rich_comparisons(papers: Papers) -> RenderableType:
    """For a terminal of 100 columns."""
    parts: list[RenderableType] = [Text(UNITS, style="dim"), Text()]
    for comparison in comparisons(papers):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column in comparison.header:
            last = column == comparison.header[-1]
            table.add_column(column, no_wrap=not last, overflow="fold")
        for row in comparison.rows:
            table.add_row(*(Text(escape.one_line(text)) for text in row))
        notes = [Padding(Text(escape.one_line(note), style="dim"), (0, 0, 0, 2)) for note in comparison.notes]
        parts += [Text(escape.one_line(comparison.title), style="bold cyan"), table, *notes, Text()]
    return Group(*parts)


def markdown_comparisons(papers: Papers) -> str:
    """For a README."""
    out = [f"{UNITS[0].upper()}{UNITS[1:]}.", ""]
    for comparison in comparisons(papers):
        out += [f"**{escape.markdown(comparison.title)}**", "", f"| {' | '.join(comparison.header)} |"]
        out += ["|" + "---|" * len(comparison.header)]
        out += [f"| {' | '.join(escape.markdown(text) for text in row)} |" for row in comparison.rows]
        out += ["", *(f"- {escape.markdown_item(note)}" for note in comparison.notes), ""]
    return "\n".join(out).rstrip() + "\n"
