"""`certtrain table [experiments/PAPER ...]`: ours beside the published, from result files alone."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from certtrain.errors import UserError
from certtrain.reporting.collected import Collection, collect
from certtrain.reporting.comparison import NOT_RUN, Line, compare
from certtrain.reporting.published import FILE, Paper, read_paper
from certtrain.system import escape
from certtrain.system.files import conf_dir, write_text_atomic

FORMATS = ("rich", "markdown", "latex", "csv", "brief", "front")
SKIPPED = 1  # exit status when a result could not be used
BEGIN, END = r"<!-- begin: certtrain table (?P<arguments>[^>]*?) ?-->\n", "<!-- end: certtrain table -->"
BLOCK = re.compile(f"({BEGIN}).*?{END}", re.S)
Tables = list[tuple[Paper, list[Line]]]


class Parser(argparse.ArgumentParser):
    """argparse with our one kind of error."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, where="the command line", fix=f"{self.prog} --help")


def parser() -> Parser:
    """The arguments of the command, and of a block in a README."""
    made = Parser(prog="certtrain table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folders", nargs="*", help="experiments/PAPER; all of experiments/ when none is named")
    made.add_argument("--papers", metavar="DIR", help="the folder of all papers, yours in place of experiments/")
    made.add_argument("--format", choices=FORMATS, default="rich")
    made.add_argument("--methods", action="store_true", help="of each data set and radius all methods, side by side")
    made.add_argument("--ran", action="store_true", help="leave out the rows that were not run")
    made.add_argument("--every-certifier", action="store_true", help="also certificates that a row does not name")
    made.add_argument("--row", action="append", default=[], help="only this row; may be given again")
    made.add_argument("--runs", default="runs", metavar="DIR", help="also results below this folder (default: runs)")
    made.add_argument("--committed", action="store_true", help="only results that lie under the folders themselves")
    made.add_argument("--output", metavar="FILE", help="write there instead of to the terminal")
    made.add_argument("--write", metavar="README", nargs="+", help="renew the marked blocks of these files")
    made.add_argument("--check", metavar="README", nargs="+", help="fail when a marked block is not what results give")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns 0; 1 when a result was skipped, or `--check` found a block out of date."""
    options = parser().parse_args(list(arguments))
    if options.write or options.check:
        return renew([Path(name) for name in options.write or options.check], check=bool(options.check))
    tables, collection = build(options)
    text = render(tables, options)
    if options.output:
        print(write_table(Path(options.output), text if isinstance(text, str) else plain_text(text)))
    elif isinstance(text, str):
        print(text, end="")
    else:
        from certtrain.reporting import terminal

        terminal.console().print(text)
    return report(collection)


def build(options: argparse.Namespace) -> tuple[Tables, Collection]:
    """The lines of every paper asked for, and the results that they come from."""
    folders = [Path(folder) for folder in options.folders] or every_paper(Path(options.papers or "experiments"))
    papers = [read_paper(folder) for folder in folders]
    names = {name for paper in papers for name in paper.rows}
    for row in options.row:
        if row not in names:
            from certtrain.errors import nearest

            raise UserError(f"there is no row {row!r}", where=", ".join(map(str, folders)), fix=nearest(row, names))
    roots = [folder / "results" for folder in folders] + ([] if options.committed else [Path(options.runs)])
    collection = collect(root for root in roots if root.is_dir())
    tables = []
    for paper in papers:
        lines = compare(paper, collection, every_certifier=options.every_certifier)
        lines = [line for line in lines if not options.row or line.row.name in options.row]
        tables.append((paper, [line for line in lines if not options.ran or line.verdict != NOT_RUN]))
    return tables, collection


def every_paper(root: Path = Path("experiments")) -> list[Path]:
    """The folders of experiments/ that hold published numbers.

    Raises:
        UserError: there are none here.
    """
    found = sorted(path.parent for path in root.glob(f"*/{FILE}"))
    if not found:
        raise UserError(
            f"no PAPER/{FILE} in {root.resolve()}",
            where="the folder of papers",
            fix="run it in a checkout of certtrain, or name yours: --papers DIR",
        )
    return found


def experiments_dir() -> Path:
    """The folder of papers: of the working directory, or of the checkout that the package lies in."""
    here = Path("experiments")
    return here if any(here.glob(f"*/{FILE}")) else conf_dir().parent / "experiments"


def render(tables: Tables, options: argparse.Namespace) -> Any:
    """A rich renderable, or text.

    Raises:
        UserError: a format that methods side by side do not have.
    """
    from certtrain.reporting import paper_tables, side_by_side
    from certtrain.reporting.brief import brief
    from certtrain.reporting.front import front

    form = options.format
    if options.methods:
        if form not in ("rich", "markdown"):
            raise UserError(f"--methods has no format {form}", where="--format", fix="--format rich or markdown")
        return (side_by_side.markdown_comparisons if form == "markdown" else side_by_side.rich_comparisons)(tables)
    make = {"markdown": paper_tables.markdown, "latex": paper_tables.latex, "csv": paper_tables.csv_text}
    return (make | {"brief": brief, "front": front}).get(form, paper_tables.rich_tables)(tables)


def plain_text(renderable: Any) -> str:
    """A rich renderable as 100 columns of text."""
    import io

    from certtrain.reporting import terminal

    file = io.StringIO()
    terminal.console(file).print(renderable)
    return file.getvalue()


def write_table(path: Path, text: str) -> str:
    """Write the table in place of nothing or of an earlier one. Returns what was done, in words.

    An earlier one begins with the same two lines, which name the papers, or the columns of a CSV.

    Raises:
        UserError: another file; a place that cannot be written.
    """
    before = ""
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        ours = not before.strip() or _head(before) == _head(text)
    except UnicodeDecodeError:
        ours = False
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", where="--output", fix="another name") from error
    if not ours:
        raise UserError(
            f"{path} exists and is not this table in the same format: it is left as it is",
            where="--output",
            fix="another name, or move the file away",
        )
    write_text_atomic(path, text)
    return f"wrote {path}" + (" in place of the earlier table" if before.strip() else "")


def _head(text: str) -> list[str]:
    return text.split("\n")[: 1 if text.startswith("paper,") else 2]


def report(collection: Collection) -> int:
    """Name what was skipped. Returns the exit status."""
    import sys

    for item in collection.skipped:
        print(escape.terminal(f"certtrain: skipped {item.path}: {item.reason}"), file=sys.stderr)
    return SKIPPED if any(item.damaged for item in collection.skipped) else 0


def renew(files: Sequence[Path], *, check: bool) -> int:
    """Fill every block `<!-- begin: certtrain table ARGUMENTS -->` ... `<!-- end: certtrain table -->` of the files.

    A block is a function of committed results: runs/ is not looked at.
    """
    import sys

    status = 0
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}", where=str(path), fix="name a README") from error
        if not BLOCK.search(text):
            raise UserError(
                f"{path} has no block for a table",
                where=str(path),
                fix="<!-- begin: certtrain table experiments/PAPER --> and <!-- end: certtrain table -->",
            )

        def fill(match: re.Match[str]) -> str:
            nonlocal status
            options = parser().parse_args(["--format", "markdown", *shlex.split(match["arguments"]), "--committed"])
            tables, collection = build(options)
            status = max(status, report(collection))
            return f"{match[1]}{render(tables, options)}{END}"

        new = BLOCK.sub(fill, text)
        if check and new != text:
            print(f"certtrain: {path} is out of date: certtrain table --write {path}", file=sys.stderr)
            status = 1
        elif not check and new != text:
            write_text_atomic(path, new)
            print(f"wrote {path}")
    return status
