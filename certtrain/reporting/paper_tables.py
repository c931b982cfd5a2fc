"""Ours beside the published, for the terminal (rich), Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from certtrain.reporting.comparison import NOT_RUN, OTHER_IMAGES, SHORT, WITHIN, Line, notes_of
from certtrain.reporting.published import Paper
from certtrain.system import escape
from certtrain.threat import norm_text

CLAIMS = {
    "bounds": "deterministic certificates, proved for every input of the ball",
    "smoothing": "randomized smoothing, each certificate with probability 1 - alpha over its noise",
}
UNITS = "in % of n images, ACR in input units; ± sd over seeds; 95 % intervals over images"
HOURS = "hours: training and certifying, mean per seed, on {}"
JUDGED = ("published", "diff", "verdict")
COLUMNS = ("row", "quantity", "ours", "95 %", "published", "diff", "verdict", "n", "seeds", "hours")
STYLES = {WITHIN: "green", SHORT: "yellow", NOT_RUN: "dim", OTHER_IMAGES: "yellow"}


def cells(line: Line) -> dict[str, str]:
    """What the tables show of a line, as text, by column."""
    digits, scale = (3, 1.0) if line.quantity == "ACR" else (2, 100.0)

    def number(value: float | None, sign: str = "") -> str:
        if value is None:
            return "–"
        text = f"{scale * value:{sign}.{digits}f}"
        return "99.99" if text == "100.00" and value < 1 else text

    ours = number(line.ours) + (f" ± {scale * line.sd:.{digits}f}" if line.sd is not None else "")
    ours += " !" if line.guesses else ""
    short = 3 if line.quantity == "ACR" else 1
    interval = "–".join(f"{scale * end:.{short}f}" for end in line.interval) if line.interval else ""
    quantity = line.quantity
    if not quantity.startswith("PGD") and quantity not in ("clean", "ACR"):
        quantity += f" {line.verifier}" if line.row.family == "bounds" else ""
    recalled = " [recalled]" if line.figures and line.figures.is_recalled(line.quantity) else ""
    return {
        "row": line.row.name,
        "quantity": quantity,
        "ours": ours,
        "95 %": interval,
        "published": number(line.published) + (recalled if line.published is not None else ""),
        "diff": number(line.difference, "+") if line.difference is not None else "",
        "verdict": line.verdict,
        "n": f"{line.n:,}" if line.n else "",
        "seeds": str(line.seeds or ""),
        "hours": "" if line.hours is None else f"{line.hours:.2f}",
    }


def sections(papers: Sequence[tuple[Paper, Sequence[Line]]]) -> list[tuple[str, list[Line]]]:
    """Lines that may stand in one table: of one paper, one kind of claim, one norm; with a title that says which."""
    found = []
    for paper, lines in papers:
        kinds = sorted({(line.row.family, line.row.norm) for line in lines})
        for family, norm in kinds:
            title = f"{paper.name}, {norm_text(norm)}: {CLAIMS[family]}"
            found.append((title, [line for line in lines if (line.row.family, line.row.norm) == (family, norm)]))
    return found


def settings_of(lines: Sequence[Line]) -> dict[str, str]:
    """The letter that marks each setting other than the preset's own."""
    named = dict.fromkeys(line.setting for line in lines if line.setting)
    return {setting: f"({chr(ord('a') + place % 26)}{place // 26 or ''})" for place, setting in enumerate(named)}


def footnotes(lines: Sequence[Line]) -> list[str]:
    """Units, the settings that letters stand for, notes of the rows, hardware."""
    notes = ["PGD@r: accuracy under that attack, which no certificate can exceed"] if _attacked(lines) else []
    notes += [f"{letter} with {setting}" for setting, letter in settings_of(lines).items()] + notes_of(lines)
    hardware = list(dict.fromkeys(line.hardware for line in lines if line.hardware))
    return [UNITS, *([HOURS.format("; ".join(hardware))] if hardware else []), *notes]


def _attacked(lines: Sequence[Line]) -> bool:
    return any(line.quantity.startswith("PGD") for line in lines)


def columns_of(lines: Sequence[Line]) -> list[str]:
    """The columns that say something: no published figure anywhere, no comparison."""
    told = (NOT_RUN, OTHER_IMAGES)
    bare = all(line.published is None for line in lines) and not any(line.verdict in told for line in lines)
    return [column for column in COLUMNS if not (bare and column in JUDGED)]


def blocks(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines of one row under one setting, draws and examples: what shares a heading."""
    return [
        list(group) for _, group in groupby(lines, key=lambda line: (line.row.name, line.setting, line.draws, line.n))
    ]


def rich_tables(papers: Sequence[tuple[Paper, Sequence[Line]]]) -> RenderableType:
    """For a terminal of 100 columns: a heading per row, a line per quantity, footnotes."""
    parts: list[RenderableType] = []
    for title, lines in sections(papers):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        columns = columns_of(lines)[1:]
        for column in columns:
            table.add_column(column, justify="left" if column in ("quantity", "verdict") else "right", no_wrap=True)
        letters = settings_of(lines)
        for block in blocks(lines):
            first = block[0]
            marks = [letters[first.setting]] if first.setting else []
            marks += [f"n={first.draws:,}"] if first.draws else []
            table.add_row(Text(escape.one_line(" ".join([first.row.name, *marks])), style="bold"))
            for line in block:
                shown = cells(line)
                shown["quantity"] = f"  {shown['quantity']}"
                style = {"verdict": STYLES.get(line.verdict, "")}
                table.add_row(
                    *(Text(escape.one_line(shown[column]), style=style.get(column, "")) for column in columns)
                )
        notes = [Padding(Text(escape.one_line(note), style="dim"), (0, 0, 0, 2)) for note in footnotes(lines)]
        parts += [Text(escape.one_line(title), style="bold cyan"), table, *notes, Text()]
    return Group(*parts)


def markdown(papers: Sequence[tuple[Paper, Sequence[Line]]]) -> str:
    """Tables with every column, a heading per section, footnotes as a list."""
    out: list[str] = []
    for title, lines in sections(papers):
        letters = settings_of(lines)
        header = columns_of(lines) + (["draws"] if any(line.draws for line in lines) else [])
        out += [f"**{escape.markdown(title)}**", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        for line in lines:
            shown = cells(line) | {"draws": f"{line.draws:,}" if line.draws else ""}
            shown = {column: escape.markdown(text) for column, text in shown.items()}
            shown["row"] = escape.markdown_code(line.row.name) + (f" {letters[line.setting]}" if line.setting else "")
            out.append(f"| {' | '.join(shown[column] for column in header)} |")
        out += ["", *(f"- {escape.markdown_item(note)}" for note in footnotes(lines)), ""]
    return "\n".join(out).rstrip() + "\n"


def latex(papers: Sequence[tuple[Paper, Sequence[Line]]]) -> str:
    """One booktabs table per section; wants `\\usepackage{booktabs}`."""
    out: list[str] = []
    for title, lines in sections(papers):
        letters, columns = settings_of(lines), columns_of(lines)
        out += [
            r"\begin{table}",
            rf"\caption{{{escape.latex(title)}.}}",
            rf"\begin{{tabular}}{{{''.join('l' if c in ('row', 'quantity', 'verdict') else 'r' for c in columns)}}}",
            r"\toprule",
            " & ".join(escape.latex(column) for column in columns) + r" \\",
            r"\midrule",
        ]
        for place, block in enumerate(blocks(lines)):
            out += [r"\addlinespace"] if place else []
            for number, line in enumerate(block):
                shown = cells(line)
                mark = f" {letters[line.setting]}" if line.setting else ""
                draws = f" $n={line.draws}$" if line.draws else ""
                first = (escape.latex(shown["row"] + mark) + draws) if not number else ""
                out.append(" & ".join([first, *(escape.latex(shown[column]) for column in columns[1:])]) + r" \\")
        out += [
            r"\bottomrule",
            r"\end{tabular}",
            *(f"% {escape.one_line(note)}" for note in footnotes(lines)),
            r"\end{table}",
            "",
        ]
    return "\n".join(out)


RAW = ("paper", "row", "family", "norm", "quantity", "verifier", "setting", "ours", "sd", "low", "high", "published")
RAW += ("provenance", "indices", "difference", "allowed", "verdict", "n", "draws", "seeds", "hours", "hardware", "path")


def csv_text(papers: Sequence[tuple[Paper, Sequence[Line]]]) -> str:
    """Every line with full precision; what is not known is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, RAW, lineterminator="\n")
    writer.writeheader()
    for paper, lines in papers:
        for line in lines:
            low, high = line.interval or (None, None)
            target = line.figures
            values = {key: getattr(line, key, None) for key in RAW}
            values |= {"paper": paper.name, "row": line.row.name, "family": line.row.family, "norm": line.row.norm}
            values |= {"low": low, "high": high, "provenance": target.provenance if target else None}
            values |= {"indices": target.indices if target else None}
            writer.writerow({key: "" if value is None else escape.csv(value) for key, value in values.items()})
    return file.getvalue()
