"""`certtrain plot LOG|CARD|RUN ...`: curves with intervals over images, several in one figure, as PNG and PDF.

Certified accuracy against the radius; with --risk-coverage selective accuracy, coverage and risk; with --ecdf how
probable labels are under noise; with --compare the paired difference between two logs of the same images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from certtrain.cli.table import Parser
from certtrain.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from certtrain.reporting.curve_figures import Line

NAMES = {"certified": "certified_accuracy", "risk": "risk_coverage", "ecdf": "probability", "compare": "comparison"}


def parser() -> Parser:
    """The arguments of the command."""
    made = Parser(prog="certtrain plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("paths", nargs="+", metavar="PATH", help="a run directory, a card (.json), or a log of any code")
    kind = made.add_mutually_exclusive_group()
    kind.add_argument("--risk-coverage", action="store_true", help="selective accuracy, coverage and risk")
    kind.add_argument("--ecdf", action="store_true", help="of smoothing: distribution of the label's probability")
    kind.add_argument("--compare", action="store_true", help="the second log minus the first, same images")
    made.add_argument("--output", action="append", default=[], metavar="NAME", help=".png or .pdf; neither: both")
    made.add_argument("--label", action="append", default=[], help="in the legend, in the order of the logs")
    made.add_argument("--norm", help="of logs that do not say it (default: l2)")
    made.add_argument("--radii", nargs="+", default=[], help="at which --compare compares")
    made.add_argument("--resamples", type=int, default=None, metavar="B", help="of --compare (default: 10,000)")
    made.add_argument("--seed", type=int, default=0, help="of --compare")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command. Returns 0."""
    options = parser().parse_args(list(arguments))
    if options.resamples is not None and options.resamples < 100:
        raise UserError(f"--resamples {options.resamples}", where="--resamples", fix="at least 100")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}", where="--seed", fix="a whole number >= 0")
    kinds = {"risk": options.risk_coverage, "ecdf": options.ecdf, "compare": options.compare}
    kind = next((name for name, asked in kinds.items() if asked), "certified")
    from certtrain.audit.sources import read_lines
    from certtrain.reporting import curve_figures

    outputs = output_paths(options.output or [NAMES[kind]])
    for path in outputs:
        curve_figures.check_output(path)
    lines = _labelled(read_lines(options.paths, options.norm), options.label)
    draw: dict[str, Callable[[list[Line]], Figure]] = {
        "certified": curve_figures.certified_figure,
        "risk": curve_figures.risk_coverage_figure,
        "ecdf": _probabilities,
        "compare": lambda lines: _compare(lines, options),
    }
    figure = draw[kind](lines)
    for path in outputs:
        print(f"wrote {curve_figures.save(figure, path)}")
    return 0


def output_paths(names: Sequence[str]) -> list[Path]:
    """The files of the names: a name without suffix stands for a PNG and a PDF."""
    from certtrain.reporting.curve_figures import SUFFIXES

    paths: list[Path] = []
    for name in names:
        path = Path(name)
        paths += [path] if path.suffix else [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    return list(dict.fromkeys(paths))


def _labelled(lines: list[Line], labels: Sequence[str]) -> list[Line]:
    if labels and len(labels) != len(lines):
        raise UserError(
            f"{len(labels)} labels for {len(lines)} curves: " + "; ".join(line.label for line in lines),
            where="--label",
            fix="one --label for each, or none",
        )
    return [replace(line, label=label) for line, label in zip(lines, labels)] if labels else lines


def _probabilities(lines: list[Line]) -> Figure:
    """Print the quantiles, and draw the distributions."""
    from certtrain.reporting import curve_figures, terminal
    from certtrain.reporting.curve_tables import probability_table

    figure = curve_figures.probability_figure(lines := [line for line in lines if line.claim.radii != "targets"])
    terminal.console().print(probability_table([(line.label, line.examples) for line in lines]))
    return figure


def _compare(lines: list[Line], options: argparse.Namespace) -> Figure:
    """Print the paired difference of two logs, and draw it."""
    from certtrain.reporting import curve_figures, terminal
    from certtrain.reporting.bootstrap import RESAMPLES, paired_difference
    from certtrain.reporting.curve_tables import difference_table
    from certtrain.reporting.curves import parse_grid, sensible_radii

    if len(lines) != 2:
        raise UserError(
            f"--compare is of two logs, not {len(lines)}: " + "; ".join(line.label for line in lines),
            where="the command line",
            fix="name two logs or cards",
        )
    first, second = lines
    if first.claim.threat != second.claim.threat:
        raise UserError(
            f"radii in {first.claim.symbol} and in {second.claim.symbol} are not comparable",
            where="--compare",
            fix="logs of one norm, and of the same scales",
        )
    if first.claim.kind != second.claim.kind:
        raise UserError(
            "one log is deterministic, the other holds with a confidence: they certify other classifiers, with other "
            "claims",
            where="--compare",
            fix="logs of one kind; `certtrain plot` without --compare draws both",
        )
    largest = float(max(line.examples.held.max() for line in lines))
    radii = parse_grid(options.radii) if options.radii else sensible_radii(largest)
    difference = paired_difference(
        first.examples,
        second.examples,
        [float(radius) for radius in radii],
        resamples=options.resamples or RESAMPLES,
        seed=options.seed,
    )
    acr = all(line.claim.mean_radius == "acr" for line in lines)
    terminal.console().print(difference_table(first.examples, second.examples, difference, radii, acr=acr))
    return curve_figures.difference_figure(first, second, difference)
