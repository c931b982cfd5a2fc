"""A study as a table, and its Pareto front as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certtrain.reporting.palette import BLUE, GREY
from certtrain.reporting.plots import save_figure
from certtrain.reporting.sweeps import GUESS_LINE, MARK, ROOM, number, setting_cells
from certtrain.sweeps.metric import Metric
from certtrain.sweeps.pareto import pareto_front
from certtrain.sweeps.study import Row
from certtrain.system import escape

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
    counts = {state: sum(row.state == state for row in rows) for state in ("pruned", "failed", "running")}
    if told := ", ".join(f"{count} {state}" for state, count in counts.items() if count):
        parts.append(Text(f"besides: {told}; every trial stands in trials.json"))
    for row in [row for row in rows if row.state == "failed"][:3]:
        parts.append(Text(f"failed: trial {row.number}  ({(row.message or 'no reason').splitlines()[0]})", style="red"))
    return Group(*parts, Text())


def front_of(rows: Sequence[Row]) -> list[int]:
    """The positions of the Pareto front of complete trials, those left out that are no better than a guess (unless all
    are)."""
    kept = [i for i, row in enumerate(rows) if not row.guessing] or list(range(len(rows)))
    return [kept[i] for i in pareto_front([rows[i].values for i in kept])]


def view(points: Sequence[Sequence[float]], front: Sequence[int]) -> tuple[list[float], list[float]]:
    """The lower and the upper limit of each axis: the front and the better three quarters of the trials.

    Trials that came to nothing would otherwise crowd the front into a corner.
    """
    low, high = [], []
    for values in zip(*points):
        least = min([values[i] for i in front] + [sorted(values)[len(values) // 4]])
        pad = 0.08 * ((max(values) - least) or 1.0)
        low.append(least - pad)
        high.append(max(values) + pad)
    return low, high


def pareto_plot(rows: Sequence[Row], metrics: Sequence[Metric], n: int, path: str | Path) -> Path:
    """Draw every complete trial by its two validation metrics, the front joined by the steps it dominates.

    Args:
        rows: every trial.
        metrics: of the horizontal and the vertical axis.
        n: validation examples.
        path: the PNG to write.

    Raises:
        ValueError: no trial is complete.
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    complete = [row for row in rows if row.state == "complete"]
    if not complete:
        raise ValueError("no trial is complete")
    scale = [100.0 if metric.is_share else 1.0 for metric in metrics]
    points = [[value * factor for value, factor in zip(row.values, scale)] for row in complete]
    front = front_of(complete)
    figure = Figure(figsize=(5.6, 3.9), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    others = [point for i, point in enumerate(points) if i not in front]
    if others:
        axes.plot(*zip(*others), linestyle="", marker="o", color=GREY, alpha=0.5, markersize=5, label="dominated")
    x, y = ([points[i][k] for i in front] for k in (0, 1))
    # The horizontal coordinate falls along the front: each point's step reaches down to the next one's height.
    axes.step(x, y, where="post", color=BLUE, linewidth=1.4, alpha=0.7)
    axes.plot(x, y, linestyle="", marker="o", color=BLUE, markersize=7, label="Pareto front")
    for i in front:
        text = str(complete[i].number)
        axes.annotate(text, points[i], xytext=(5, 5), textcoords="offset points", fontsize=7.5, color=BLUE)
    axes.set_xlabel(f"validation: {escape.figure(metrics[0].text)}")
    axes.set_ylabel(f"validation: {escape.figure(metrics[1].text)}")
    low, high = view(points, front)
    outside = sum(any(value < least for value, least in zip(point, low)) for point in points)
    hidden = f", {outside} below the view" if outside else ""
    axes.set_title(f"{len(complete)} trials{hidden}, n = {n:,} validation examples", fontsize=10)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, loc="best")
    return save_figure(figure, Path(path))
