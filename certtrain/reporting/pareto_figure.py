"""The Pareto front of a study as a figure, over what is published for the same cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.reporting.cells import Figure as Published
from certtrain.reporting.palette import BLUE, GREY, MARKERS, ORANGE
from certtrain.reporting.plots import save_figure
from certtrain.reporting.studies import CertifiedTrial, front_of
from certtrain.sweeps.metric import Metric
from certtrain.sweeps.pareto import pareto_front
from certtrain.sweeps.study import Row
from certtrain.system import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, float]
NAME = (0.09, 0.03)  # room of a method's name, as shares of the axes


def view(points: Sequence[Point]) -> tuple[Point, Point]:
    """The lower and the upper limit of each axis, with a margin around what has to be seen."""
    low, high = [], []
    for values in zip(*points):
        pad = 0.12 * (max(values) - min(values)) or 0.02 * (abs(max(values)) or 1.0)
        low.append(min(values) - pad)
        high.append(max(values) + pad)
    return (low[0], low[1]), (high[0], high[1])


def pareto_plot(
    rows: Sequence[Row],
    metrics: Sequence[Metric],
    n: int,
    path: str | Path,
    published: Sequence[Published] = (),
    tested: Sequence[CertifiedTrial] = (),
) -> Path:
    """Draw every complete trial by its two validation metrics, the front joined by the steps it dominates.

    The view is that of the front, of its test results and of the best published points: trials that came to nothing
    would otherwise crowd it into a corner.

    Args:
        rows: every trial.
        metrics: of the horizontal and the vertical axis.
        n: validation examples.
        path: the PNG to write.
        published: figures of the same data set, threat model and radius, drawn behind ours.
        tested: the front on the test set.

    Raises:
        ValueError: no trial is complete.
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    complete = [row for row in rows if row.state == "complete"]
    if not complete:
        raise ValueError("no trial is complete")
    points = [_scaled(row.values, metrics) for row in complete]
    front = front_of(complete)
    test = [(_scaled(row.validation, metrics), _scaled(row.test, metrics)) for row in tested]
    known = {(figure.clean, figure.certified): figure for figure in published if figure.clean is not None}
    others = [(100 * clean, 100 * certified) for clean, certified in known]
    best = [others[i] for i in pareto_front(others)]
    low, high = view([*(points[i] for i in front), *(point for _, point in test), *best])

    figure = Figure(figsize=(6.4, 4.2), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _published(axes, list(known.values()), low, high)
    dominated = [point for i, point in enumerate(points) if i not in front]
    if dominated:
        axes.plot(*zip(*dominated), linestyle="", marker="o", color=GREY, alpha=0.5, markersize=5, label="dominated")
    x, y = ([points[i][k] for i in front] for k in (0, 1))
    # The horizontal coordinate falls along the front: each point's step reaches down to the next one's height.
    axes.step(x, y, where="post", color=BLUE, linewidth=1.4, alpha=0.7)
    axes.plot(x, y, linestyle="", marker="o", color=BLUE, markersize=7, label="Pareto front, validation")
    for chosen, reached in test:
        axes.plot(*zip(chosen, reached), color=BLUE, linewidth=0.8, linestyle=":")
    if test:
        reached = zip(*(point for _, point in test))
        axes.plot(*reached, linestyle="", marker="s", color=BLUE, markerfacecolor="white", label="the same on test")
    for i in front:
        text = str(complete[i].number)
        axes.annotate(text, points[i], xytext=(5, 5), textcoords="offset points", fontsize=7.5, color=BLUE)
    where = "" if test else "validation: "
    axes.set_xlabel(f"{where}{escape.figure(metrics[0].text)}")
    axes.set_ylabel(f"{where}{escape.figure(metrics[1].text)}")
    outside = sum(any(value < least for value, least in zip(point, low)) for point in points)
    hidden = f", {outside} below the view" if outside else ""
    axes.set_title(f"{len(complete)} trials{hidden}, n = {n:,} validation examples", fontsize=10)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.grid(True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7.5, loc="best")
    return save_figure(figure, Path(path))


def _scaled(values: Sequence[float], metrics: Sequence[Metric]) -> Point:
    x, y = (value * (100.0 if metric.is_share else 1.0) for value, metric in zip(values, metrics))
    return x, y


def _published(axes: Axes, figures: Sequence[Published], low: Point, high: Point) -> None:
    """Published points, a marker for each source; hollow where one of their figures is recalled from memory."""
    groups: dict[str, list[Published]] = {}
    for figure in figures:
        tuned = ", chosen on validation" if figure.published.tuned == "validation" else ""
        groups.setdefault((figure.benchmark or "the methods' papers") + tuned, []).append(figure)
    for place, (name, group) in enumerate(groups.items()):
        marker = MARKERS[1 + place % (len(MARKERS) - 1)]
        style: dict[str, Any] = {"linestyle": "", "marker": marker, "color": ORANGE, "markersize": 5}
        axes.plot([], [], **style, label=f"published: {escape.figure(name)}")
        for figure in group:
            axes.plot(*_at(figure), **style, markerfacecolor="white" if figure.recalled else ORANGE)
    if any(figure.recalled for figure in figures):
        axes.plot([], [], linestyle="", label="(hollow: recalled from memory)")
    _names(axes, figures, low, high)


def _at(figure: Published) -> Point:
    return 100 * (figure.clean or 0.0), 100 * figure.certified


def _names(axes: Axes, figures: Sequence[Published], low: Point, high: Point) -> None:
    """The methods beside their points, the most certified first, where no other name stands yet."""
    named: list[Point] = []
    for figure in sorted(figures, key=lambda figure: -figure.certified):
        point = _at(figure)
        x, y = ((value - a) / (b - a) for value, a, b in zip(point, low, high))
        free = all(abs(x - left) > NAME[0] or abs(y - bottom) > NAME[1] for left, bottom in named)
        if free and 0 <= x <= 1 and 0 <= y <= 1:
            named.append((x, y))
            style = {"fontsize": 5.5, "color": GREY, "xytext": (4, -6), "textcoords": "offset points"}
            axes.annotate(escape.figure(figure.method), point, **style)
