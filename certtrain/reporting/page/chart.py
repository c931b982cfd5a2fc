"""Line and step charts as inline SVG: they follow the page's colours, light or dark, and need no other file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from certtrain.reporting.page.markup import Markup, Node, tag

Floats = NDArray[np.float64]
WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 10, 40  # margins, in which ticks and the axis' name stand
COLOURS = 6  # classes s0 ... s5 of the style sheet
MOST = 600  # points of a line before it is thinned


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        label: in the legend.
        x, y: (m,) points, x ascending; those that are not finite are left out.
        low, high: (m,) an interval around y.
        step: `pre`: a value holds from the point before up to its own; `post`: from its own to the next.
        upper: drawn thin and grey, as a limit for the others.
    """

    label: str
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None
    step: Literal["pre", "post"] | None = None
    upper: bool = False


def chart(
    series: Sequence[Series],
    *,
    title: Node,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    describe: str = "",
) -> Markup:
    """A figure with its title, axes, lines and legend.

    Args:
        series: at least one, with at least one finite point among them.
        title: the caption.
        x_label, y_label: of the axes.
        y_range: of the vertical axis; by default what the points need.
        describe: the alternative text; by default the lines' last values.

    Raises:
        ValueError: nothing to draw.
    """
    lines = [line for line in map(_finite, series) if len(line.x)]
    if not lines:
        raise ValueError("there is nothing to draw")
    x0, x1 = _limits(np.concatenate([line.x for line in lines]), least=0.0)
    y0, y1 = y_range or _limits(
        np.concatenate([v for line in lines for v in (line.y, line.low, line.high) if v is not None])
    )
    scale = _Scale(x0, x1, y0, y1)
    drawn: list[Node] = [_axes(scale, x_label, y_label)]
    styles = _styles(lines)
    drawn += [
        tag("path", d=_band(line, scale), class_=f"band {style}")
        for line, style in zip(lines, styles)
        if line.low is not None
    ]
    drawn += [tag("path", d=_line(line, scale), class_=f"line {style}") for line, style in zip(lines, styles)]
    alternative = describe or "; ".join(f"{line.label}: last {line.y[-1]:.4g}" for line in lines)
    image = tag(
        "svg",
        drawn,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{y_label} against {x_label}. {alternative}",
    )
    keys = [tag("li", _swatch(style), line.label) for line, style in zip(lines, styles)]
    return tag("figure", tag("figcaption", title), image, tag("ul", keys, class_="legend"), class_="chart")


@dataclass(frozen=True)
class _Scale:
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float | Floats) -> Floats:
        return LEFT + (np.asarray(value) - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float | Floats) -> Floats:
        share = (np.asarray(value) - self.y0) / (self.y1 - self.y0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high: multiples of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _styles(lines: Sequence[Series]) -> list[str]:
    names, number = [], 0
    for line in lines:
        names.append("upper" if line.upper else f"s{number % COLOURS}")
        number += not line.upper
    return names


def _finite(line: Series) -> Series:
    keep = np.isfinite(line.x) & np.isfinite(line.y)
    low, high = (None if values is None else values[keep] for values in (line.low, line.high))
    return Series(line.label, line.x[keep], line.y[keep], low, high, line.step, line.upper)


def _limits(values: Floats, least: float | None = None) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    low = min(low, 0.0 if least is None and low > 0 and low < high / 2 else low) if least is None else least
    if high <= low:
        return (low - 0.5, low + 0.5) if low else (0.0, 1.0)
    return (low, high) if least is not None else (low, high + 0.04 * (high - low))


def _axes(scale: _Scale, x_label: str, y_label: str) -> Node:
    made: list[Node] = []
    for value in ticks(scale.y0, scale.y1):
        at = _px(scale.y(value))
        made.append(tag("path", d=f"M{LEFT} {at}H{WIDTH - RIGHT}", class_="grid"))
        made.append(tag("text", _tick(value), x=LEFT - 6, y=at, dy="0.35em", text_anchor="end"))
    for value in ticks(scale.x0, scale.x1):
        at = _px(scale.x(value))
        made.append(tag("path", d=f"M{at} {HEIGHT - BOTTOM}v4", class_="axis"))
        made.append(tag("text", _tick(value), x=at, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    made.append(tag("path", d=f"M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}", class_="axis"))
    made.append(tag("text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 5, text_anchor="middle", class_="name"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f"rotate(-90 11 {middle})"
    made.append(tag("text", y_label, x=11, y=middle, text_anchor="middle", transform=turned, class_="name"))
    return made


def _line(line: Series, scale: _Scale) -> str:
    x, y = _thin(line.x, line.y) if line.step is None else (line.x, line.y)
    if len(x) == 1:  # a point alone would not be seen
        at = _px(scale.y(y[0]))
        return f"M{_px(scale.x(x[0]) - 3)} {at}h6"
    return _path(scale.x(x), scale.y(y), line.step)


def _band(line: Series, scale: _Scale) -> str:
    assert line.low is not None
    assert line.high is not None
    x, low, high = scale.x(line.x), scale.y(line.low), scale.y(line.high)
    there = _path(x, high, line.step)
    opposite = {"pre": "post", "post": "pre", None: None}[line.step]
    return f"{there}L{_path(x[::-1], low[::-1], opposite)[1:]}Z"  # type: ignore[arg-type]


def _path(x: Floats, y: Floats, step: Literal["pre", "post"] | None) -> str:
    """A path through the points, in tenths of a unit; what does not move is left out."""
    px, py = [_px(value) for value in x], [_px(value) for value in y]
    parts, at = [f"M{px[0]} {py[0]}"], (px[0], py[0])
    for point in zip(px[1:], py[1:]):
        moves = (point[0] != at[0], point[1] != at[1])
        if not any(moves):
            continue
        if step is None:
            parts.append(f"L{point[0]} {point[1]}")
        else:
            across, along = f"H{point[0]}" * moves[0], f"V{point[1]}" * moves[1]
            parts.append(along + across if step == "pre" else across + along)
        at = point
    return "".join(parts)


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most MOST points: of each stretch the least and the largest value, so that no peak is lost."""
    if len(x) <= MOST:
        return x, y
    kept: set[int] = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), MOST // 2):
        kept |= {int(part[y[part].argmin()]), int(part[y[part].argmax()])}
    rows = np.array(sorted(kept))
    return x[rows], y[rows]


def _swatch(style: str) -> Markup:
    line = tag("path", d="M0 5H24", class_=f"line {style}")
    return tag("svg", line, viewBox="0 0 24 10", class_="swatch", aria_hidden="true")


def _px(value: float | Floats) -> str:
    return f"{float(value):.1f}".removesuffix(".0")


def _tick(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 10_000 else f"{value:,.0f}"
