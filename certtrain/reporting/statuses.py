"""Tables of a cascade: how many examples have which status at each radius, and what each stage did and cost."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certtrain.radii import parse_radius
from certtrain.reporting.entries import LABELS, Entry, falsified, label


def status_tables(entry: Entry) -> RenderableType:
    """The statuses by radius, which add up to n; below them each stage's examples, decisions and seconds.

    Args:
        entry: of `result.json`, with `statuses` and `stages` (see `certtrain.certificates.summary.cascade_summary`).
    """
    statuses = entry["statuses"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("radius", justify="right", no_wrap=True)
    names = list(next(iter(statuses.values())))
    for name in (*names, "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for radius in sorted(statuses, key=parse_radius):
        counts = statuses[radius]
        shown = ["–" if falsified(entry) and name == "verified" else f"{counts[name]:,}" for name in names]
        table.add_row(radius, *shown, f"{sum(counts.values()):,}")
    lines = [Text(f"{label(entry)}: examples by status", style="bold"), table, _stages(entry)]
    if (changed := entry.get("float32_changed")) is not None:
        lines.append(Text(f"float64 changed {changed:,} of the float32 screen's verdicts"))
    if "largest_eps" in entry:
        tolerance = entry["settings"]["bisect"]
        lines.append(Text(f"mean largest certified eps, to {tolerance}: {entry['largest_eps']:.6f} (no ACR)"))
    return Group(*lines, Text())


def _stages(entry: Entry) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for name in ("examples seen", "decided", "seconds", "ms per example seen"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, stage in entry["stages"].items():
        each = f"{1000 * stage['seconds'] / stage['seen']:,.2f}" if stage["seen"] else "–"
        row = (f"{stage['seen']:,}", f"{stage['decided']:,}", f"{stage['seconds']:,.1f}", each)
        table.add_row(LABELS.get(name, name), *row)
    return table
