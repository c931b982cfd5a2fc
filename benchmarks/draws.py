"""Draws per certificate: certificates of a fixed n beside anytime ones of the same network and images.

    python -m benchmarks.draws FIXED.tsv ANYTIME.tsv [ANYTIME.tsv ...] [--output FILE.json]

Reads the logs and their cards; draws nothing. All must be of one checkpoint, list of examples, sigma and alpha.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.table import Table

from certtrain.certificates import CertificateLog, Certificates, read_card
from certtrain.certificates.summary import certified
from certtrain.claim import claim_of
from certtrain.errors import UserError
from certtrain.radii import parse_radii, radius_text
from certtrain.system.files import write_json_atomic

SAME = ("checkpoint_sha256", "indices_sha256", "dataset", "split")
SAME_SETTINGS = ("sigma", "alpha", "budget", "n0", "seed")


def read(path: Path) -> tuple[Certificates, dict[str, Any]]:
    """The rows by index and the card of a log, packed or not."""
    name = path.name.removesuffix(".gz").removesuffix(".tsv")
    return CertificateLog(path).read().sorted(), read_card(path.with_name(f"{name}.json"))


def compare(fixed: tuple[Certificates, dict[str, Any]], anytime: tuple[Certificates, dict[str, Any]]) -> dict[str, Any]:
    """What both say at the targets, and what it took.

    Raises:
        UserError: the first is staged or the second is not; they are not about the same thing.
    """
    (rows, card), (staged, other) = fixed, anytime
    if [claim_of(card).radii, claim_of(other).radii] != ["continuous", "targets"]:
        raise UserError("first a log of a fixed n, then staged ones", where="the command line")
    if rows.index.tolist() != staged.index.tolist():
        raise UserError(f"{len(rows)} and {len(staged)} examples", where="the logs", fix="finish certifying first")
    differ = [key for key in SAME if card.get(key) != other.get(key)]
    differ += [key for key in SAME_SETTINGS if card["settings"].get(key) != other["settings"].get(key)]
    if differ:
        raise UserError(
            f"the logs differ in {', '.join(differ)}", where="the command line", fix="compare like with like"
        )
    n, draws = int(card["settings"]["n"]), staged.columns["n"]
    targets = parse_radii([0, *other["radii"]])
    return {
        "targets": [radius_text(r) for r in targets],
        "examples": len(rows),
        "n": n,
        "mean_draws": float(draws.mean()),
        "fewer": n / float(draws.mean()),
        "seconds": [float(rows.seconds.sum()), float(staged.seconds.sum())],
        "by_target": [_at(rows, staged, r, targets) for r in targets],
        "undecided": int((draws == int(other["settings"]["n"])).sum()),
    }


def _at(rows: Certificates, staged: Certificates, r: Fraction, targets: Sequence[Fraction]) -> dict[str, Any]:
    """At one target: certified accuracy of both, and the draws of those whose largest reached target it is."""
    a, b = certified(rows, r), certified(staged, r)
    reached = (staged.radius == float(r)) & (staged.predict >= 0)
    draws = staged.columns["n"][reached]
    return {
        "target": radius_text(r),
        "fixed": float(a.mean()),
        "anytime": float(b.mean()),
        "only_fixed": int((a & ~b).sum()),
        "only_anytime": int((b & ~a).sum()),
        "reached": int(reached.sum()),
        "median_draws": float(np.median(draws)) if len(draws) else None,
        "mean_draws": float(draws.mean()) if len(draws) else None,
    }


def table(found: dict[str, Any]) -> Group:
    """One comparison, within 100 columns."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("target", "fixed n (%)", "anytime (%)", "diff", "fixed only", "anytime only", "decided here"):
        shown.add_column(name, justify="right")
    shown.add_column("draws: median", justify="right")
    shown.add_column("mean", justify="right")
    for row in found["by_target"]:
        shown.add_row(
            *(row["target"], f"{100 * row['fixed']:.2f}", f"{100 * row['anytime']:.2f}"),
            *(f"{100 * (row['anytime'] - row['fixed']):+.2f}", str(row["only_fixed"]), str(row["only_anytime"])),
            *(str(row["reached"]), _number(row["median_draws"]), _number(row["mean_draws"])),
        )
    facts = (
        f"{found['examples']:,} examples; {found['mean_draws']:,.0f} draws each on average, {found['fewer']:.1f} times "
        f"fewer than n = {found['n']:,}; {found['undecided']} examples drew all;\n"
        f"{found['seconds'][1]:,.0f} s instead of {found['seconds'][0]:,.0f} s (certifying; machines may differ)"
    )
    return Group(shown, facts)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparisons; write them when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.draws", description=__doc__.split("\n")[0])
    parser.add_argument("fixed", type=Path, help="log of a fixed n (its card beside it)")
    parser.add_argument("anytime", type=Path, nargs="+", help="staged logs of the same network and images")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args(argv)
    console = Console(width=100)
    try:
        found = [compare(read(arguments.fixed), read(path)) for path in arguments.anytime]
    except UserError as error:
        console.print(f"benchmarks.draws: {error}", highlight=False)
        return 2
    for path, one in zip(arguments.anytime, found):
        console.print(path.name, style="bold", highlight=False)
        console.print(table(one), highlight=False)
    if arguments.output:
        write_json_atomic(arguments.output, json.loads(json.dumps(found)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
