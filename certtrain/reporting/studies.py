"""A study as a table; its front on validation and on test."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certtrain.reporting.sweeps import GUESS_LINE, MARK, ROOM, number, setting_cells
from certtrain.sweeps.metric import Metric
from certtrain.sweeps.pareto import pareto_front
from certtrain.sweeps.study import Row

MOST_ROWS = 15


def study_table(rows: Sequence[Row], metrics: Sequence[Metric], n: int) -> Group:
    """The best trials, or with two metrics the front; below it how many ended otherwise.

    Args:
        rows: every trial.
        metrics: what they maximise.
        n: validation examples.
    """
    complete = [row for row in rows if row.state == "complete"]
    names = " and ".join(metric.name for metric in metrics)
    if len(metrics) == 2:
        shown = [complete[i] for i in front_of(complete)]
        title = f"Pareto front: {len(shown)} of {len(complete)} trials, validation metrics {names} (n = {n:,})"
    else:
        shown = sorted(complete, key=lambda row: row.order)[:MOST_ROWS]
        title = f"{len(complete)} trials, best first by the validation metric {names} (n = {n:,})"
    keys = list(dict.fromkeys(key for row in shown for key in row.settings))
    headings, settings = setting_cells(keys, [row.settings for row in shown], ROOM)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("trial", justify="right", no_wrap=True)
    for metric in metrics:
        table.add_column(metric.text.replace(" at ", "\nat "), justify="right", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="left" if headings == ["settings"] else "right", overflow="fold")
    for row, cells in zip(shown, settings):
        values = [number(value, metric.is_share) for value, metric in zip(row.values, metrics)]
        table.add_row(f"{row.number}{MARK if row.guessing else ''}", *values, *cells)
    parts: list[RenderableType] = [Text(title, style="bold"), table]
    parts += [Text(GUESS_LINE, style="bold red")] if any(row.guessing for row in shown) else []
    below = sum(not row.allowed for row in complete)
    parts += (
        [Text(f"{below} of them miss a floor" + (", all that there are" if below == len(complete) else ""))]
        if below
        else []
    )
    counts = {state: sum(row.state == state for row in rows) for state in ("pruned", "failed", "running")}
    if told := ", ".join(f"{count} {state}" for state, count in counts.items() if count):
        parts.append(Text(f"besides: {told}; every trial stands in trials.json"))
    for row in [row for row in rows if row.state == "failed"][:3]:
        parts.append(Text(f"failed: trial {row.number}  ({(row.message or 'no reason').splitlines()[0]})", style="red"))
    return Group(*parts, Text())


def front_of(rows: Sequence[Row]) -> list[int]:
    """The positions of the Pareto front of complete trials, those left out that are no better than a guess or miss a
    floor (unless all do)."""
    better = [i for i, row in enumerate(rows) if not row.guessing] or list(range(len(rows)))
    kept = [i for i in better if rows[i].allowed] or better
    return [kept[i] for i in pareto_front([rows[i].values for i in kept])]


@dataclass(frozen=True)
class CertifiedTrial:
    """What a trial of the front reaches on the test set: a value for each metric, and by which certificate.

    Attributes:
        number: of the trial.
        validation, test: values in the order of the metrics.
        by: the certifier that proves most at the metric.
        n: test examples.
    """

    number: int
    validation: tuple[float, ...]
    test: tuple[float, ...]
    by: str
    n: int


def tested_table(tested: Sequence[CertifiedTrial], metrics: Sequence[Metric]) -> Group:
    """The front on validation, by which it was chosen, beside the test set, which it never saw before."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("trial", justify="right", no_wrap=True)
    for metric in metrics:
        for heading in ("validation", "test", "gap"):
            text = (
                f"{metric.text}\n{heading}".replace("certified at ", "certified\n")
                if heading == "validation"
                else heading
            )
            table.add_column(text, justify="right", vertical="bottom")
    table.add_column("certified by", overflow="fold", vertical="bottom")
    gaps: list[list[float]] = [[] for _ in metrics]
    for row in tested:
        cells = []
        for metric, chosen, value, known in zip(metrics, row.validation, row.test, gaps):
            known.append(value - chosen)
            cells += [number(chosen, metric.is_share), number(value, metric.is_share), _signed(value - chosen, metric)]
        table.add_row(str(row.number), *cells, row.by)
    means = ", ".join(f"{m.text} {_signed(statistics.fmean(known), m)}" for m, known in zip(metrics, gaps))
    title = f"the front of {len(tested)}, chosen on validation and certified once on test (n = {tested[0].n:,})"
    mean = f"test minus validation, mean: {means}; what choosing on the test set would have hidden"
    return Group(Text(title, style="bold"), table, Text(mean), Text())


def _signed(value: float, metric: Metric) -> str:
    return f"{100 * value:+.2f}" if metric.is_share else f"{value:+.4f}"
