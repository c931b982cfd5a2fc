"""Certified accuracy against the radius, as a figure for a paper."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from certtrain.claim import claim_of
from certtrain.reporting.entries import (
    Entry,
    acr_text,
    falsified,
    grid,
    groups,
    label,
    percent,
    upper_bound,
)
from certtrain.reporting.palette import BLUE, GREEN, GREY, MARKERS, PURPLE, SKY, VERMILION, radius_axis
from certtrain.system import escape
from certtrain.system.files import write_bytes_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFIDENCE = 0.95  # of every interval that is shown
COLOURS = (BLUE, GREEN, VERMILION, PURPLE, SKY)  # markers repeat what they say
STYLE = {"linewidth": 1.6, "markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}


def certified_accuracy_plot(
    test: Mapping[str, Entry],
    path: str | Path,
    *,
    radii: Mapping[str, Sequence[float] | np.ndarray] | None = None,
) -> Path:
    """Draw a test result, one panel per set of entries that may be compared, and replace the PNG at path.

    Bounds: what each certifier proves at the radii of the grid, joined by the steps that follow from it (a certificate
    at R proves every r <= R), from clean accuracy at 0; above it what PGD leaves standing, joined by the steps that
    follow likewise (an attack at r is one at every R >= r); between the best of both nobody knows.
    Smoothing: the exact step curve when the radii of the examples are given, else the points of the grid and the steps
    that follow from them.

    Args:
        test: the mapping of `result.json`.
        path: the PNG to write.
        radii: per entry name the radius of each example, -1 where it is misclassified or abstained. With them each
            value gets its Clopper-Pearson 95 % interval over the n examples as a draw from the data's distribution
            (alpha, the risk of each certificate, comes on top).

    Raises:
        ValueError: there is nothing to draw, or as many radii as examples are not given.
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = groups(test)
    if not panels:
        raise ValueError("there is no certificate to draw")
    figure = Figure(figsize=(5.6 * len(panels), 3.9), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    names = {id(entry): name for name, entry in test.items()}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        entry = panel[0]
        if claim_of(entry).probabilistic:
            _votes(axes, entry, (radii or {}).get(names[id(entry)]))
        else:
            _bounds(axes, panel, [names[id(entry)] for entry in panel])
        axes.set_xlabel(radius_axis(claim_of(entry)))
        axes.set_ylabel("accuracy (%)")
        axes.grid(True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8.5, loc="best")
    return save_figure(figure, Path(path))


def step_curve(radii: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Certified accuracy as the exact step function of the radius: `mean(radius >= r)`.

    Args:
        radii: (n,) radius of each example, -1 (any negative number) where misclassified or abstained.

    Returns:
        The distinct radii >= 0, ascending from 0, and the count that is certified at each. Between two of them the
        count is that of the larger one; beyond the last it is 0.
    """
    values = np.sort(np.asarray(radii, dtype=float))
    points = np.unique(np.append(values[values >= 0], 0.0))
    return points, len(values) - np.searchsorted(values, points, side="left")


def clopper_pearson(count: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The exact two-sided 95 % interval of a probability after `count` successes in n (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv  # scipy.stats takes a second to be imported

    tail = (1 - CONFIDENCE) / 2
    count = np.asarray(count)
    with np.errstate(invalid="ignore"):
        lower = np.where(count > 0, betaincinv(count, n - count + 1, tail), 0.0)
        upper = np.where(count < n, betaincinv(count + 1, n - count, 1 - tail), 1.0)
    return lower, upper


def interval_text(low: float, high: float) -> str:
    """`85.3 to 86.7`, in percent and rounded outwards: never narrower than the interval is."""
    return f"{math.floor(1000 * low) / 10:.1f} to {math.ceil(1000 * high) / 10:.1f}"


def _bounds(axes: Axes, entries: list[Entry], names: list[str]) -> None:
    exact, labels = grid(entries), [label(entry) for entry in entries]
    # Two certificates of one certifier are told apart by what their files are called.
    labels = [f"{one} ({name})" if labels.count(one) > 1 else one for one, name in zip(labels, names)]
    clean = 100 * entries[0]["clean"]
    best = dict.fromkeys((r for r, _ in exact), 0.0)
    attacked = upper_bound(entries)
    ceiling = [(r, 100 * attacked[text]) for r, text in exact if text in attacked]
    if ceiling:
        x, y = _columns(ceiling)
        dashed = {"color": GREY, "linewidth": 1.2, "linestyle": (0, (4, 2))}
        axes.plot([0.0, *x], [clean, *y], drawstyle="steps-post", **dashed)
        axes.plot(x, y, linestyle="", marker="x", color=GREY, markersize=6, markeredgewidth=1.5, zorder=3)
        axes.plot([], [], color=GREY, linestyle=(0, (4, 2)), marker="x", markeredgewidth=1.5, label="PGD (upper bound)")
    for i, entry in enumerate(entries):
        under = len(entries) - 1 - i
        points = [(r, 100 * entry["certified"][text]) for r, text in exact if text in entry["certified"]]
        for r, value in points:
            best[r] = max(best[r], value)
        x, y = _columns(points)
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        _steps(axes, [0.0, *x], [clean, *y], colour, marker, f"certified by {escape.figure(labels[i])}", under)
    if len(ceiling) == len(exact):
        edges = [0.0, *(float(r) for r, _ in exact)]
        floor = [best[r] for r, _ in exact]
        roof = [clean, *(y for _, y in ceiling[:-1])]
        for left, right, low, high in zip(edges, edges[1:], floor, roof):
            axes.fill_between([left, right], low, high, color=GREY, alpha=0.09, linewidth=0)
    axes.plot([0], [clean], linestyle="", marker="*", color="black", markersize=11, clip_on=False, label="clean")
    _radius_ticks(axes, [r for r, _ in exact], [text for _, text in exact])
    _accuracy_axis(axes, 100 * min(value for entry in entries for value in entry["certified"].values()))
    axes.set_title(f"certified accuracy, n = {entries[0]['n']:,}", fontsize=10)


def _votes(axes: Axes, entry: Entry, radii: Sequence[float] | np.ndarray | None) -> None:
    claim, n, colour = claim_of(entry), entry["n"], COLOURS[0]
    found = f"ACR {acr_text(entry['acr'])}" if entry.get("acr") is not None else "at targets"
    brief = escape.figure(claim.brief).replace(" with sigma ", r", $\sigma$ = ")
    text = f"{brief}, {'FALSIFIED' if falsified(entry) else found}"
    if radii is None:
        x, y = _columns([(r, 100 * entry["certified"][key]) for r, key in grid([entry])])
        _steps(axes, [0.0, *x], [y[0], *y], colour, MARKERS[0], text)
        right, lowest = max(x), min(y)
    else:
        if len(radii) != n:
            raise ValueError(f"{len(radii)} radii given for {n} examples")
        points, count = step_curve(radii)
        right, lowest = points[-1], 0.0
        x = np.append(points, right)
        axes.step(x, 100 * np.append(count, 0) / n, where="pre", color=colour, linewidth=1.6, label=text)
        low, high = clopper_pearson(count, n)
        shade = {"step": "pre", "color": colour, "alpha": 0.16, "linewidth": 0}
        axes.fill_between(points, 100 * low, 100 * high, label=f"95 % interval over {n:,} images", **shade)
    clean = entry.get("clean")
    if clean is not None and "0" in entry["certified"] and percent(clean) != percent(entry["certified"]["0"]):
        axes.plot(
            [0], [100 * clean], linestyle="", marker="*", color="black", markersize=11, clip_on=False, label="clean"
        )
    axes.set_xlim(0, max(right * 1.04, 1e-6))
    _accuracy_axis(axes, lowest)
    told = [f"n = {n:,} images"]
    if (draws := entry["settings"].get("n")) is not None:
        told.append(f"{'up to ' if claim.radii == 'targets' else ''}{draws:,} draws")
    told += [rf"$\alpha$ = {claim.alpha:g}"] if claim.alpha is not None else []
    axes.set_title(f"certified accuracy, {', '.join(told)}", fontsize=10)


def _steps(axes: Axes, x: list[float], y: list[float], colour: str, marker: str, text: str, under: int = 0) -> None:
    """Certified accuracy from radius 0 on: what a point proves holds for the smaller radii down to the next one.

    Args:
        x, y: the points, the first at radius 0, which has no marker.
        under: how many curves are drawn over it: one that coincides with them is seen on both of their sides.
    """
    width, size = STYLE["linewidth"] + 1.5 * under, STYLE["markersize"] + 1.9 * under
    style = {**STYLE, "color": colour, "marker": marker, "linewidth": width, "markersize": size}
    axes.plot(x, y, drawstyle="steps-pre", color=colour, linewidth=width, solid_joinstyle="miter")
    axes.plot(x[1:], y[1:], clip_on=False, **{**style, "linestyle": ""})
    axes.plot([], [], label=text, **style)


def _accuracy_axis(axes: Axes, lowest: float) -> None:
    """From 0, or from higher up when all is high, with room for the legend below the curves."""
    bottom = 10 * np.floor((lowest - 0.6 * (100 - lowest)) / 10)
    axes.set_ylim(max(0.0, bottom), 101)


def _radius_ticks(axes: Axes, radii: list[Any], texts: list[str]) -> None:
    """Ticks at the exact radii while they are few: 2/255 says more than 0.0078."""
    right = float(radii[-1])
    axes.set_xlim(-0.02 * right, right * 1.05)
    if len(radii) <= 8 and radii[0] > 0:
        places, shown = [0.0, *map(float, radii)], ["0", *texts]
        apart, last = 0.055 * right, places[1]
        shown[0] = "" if last < apart else "0"  # of two that would be printed over each other the radius stays
        for i, place in enumerate(places[2:], start=2):
            if place - last < apart:
                shown[i] = ""
            else:
                last = place
        axes.set_xticks(places, shown)


def _marker() -> dict[str, Any]:
    return {key: value for key, value in STYLE.items() if key != "linewidth"}


def _columns(points: list[tuple[Any, float]]) -> tuple[list[float], list[float]]:
    return [float(x) for x, _ in points], [y for _, y in points]


def save_figure(figure: Any, path: Path) -> Path:
    """Write beside the file and rename, so that a killed run leaves the old figure or the new one.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_bytes_atomic(path, buffer.getvalue())
