"""Line and step charts, drawn by matplotlib: the shapes of its SVG, which `templates/macros.html` puts into the page.

Matplotlib knows neither the page's colours nor its font. So each colour is drawn as a stand-in that becomes the style
sheet's variable, and text stays text: a chart follows light and dark, can be searched, and needs no other file.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from certtrain.system import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
# Width and height in the units of the SVG, which are pixels where it is not scaled. A chart of several sizes shows the
# one that fits: the style sheet chooses by the room that there is.
SMALL = {"only": (440, 250)}
SEVERAL = {"wide": (1200, 420), "middle": (600, 330), "narrow": (360, 270)}
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 10, 42  # margins, in which ticks and the axes' names stand
FONT, NAME = 11.5, 12.0  # sizes of ticks and of the axes' names
DPI = 72  # of matplotlib's SVG: a unit is a point
HUGE = 1e300  # beyond it the arithmetic of an axis overflows
# Colours of the style sheet in the order of the lines, and dashes, which tell lines apart without colour.
LINES = (("s0", ()), ("s1", (7, 2)), ("s2", (2, 2)), ("s3", (8, 2, 2, 2)), ("s4", (12, 3)), ("s5", (4, 2)))
UPPER = ("upper", (2.0, 2.5))
INKS = {name: f"#{i:06x}" for i, name in enumerate([*(name for name, _ in LINES), "upper", "rule", "faint"], start=1)}
NAMES = {ink: f"var(--{name})" for name, ink in INKS.items()}
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "certtrain",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "font.size": FONT,
    "lines.scale_dashes": False,
}


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        label: in the legend.
        x, y: (m,) points, x ascending; those that are not finite are left out.
        low, high: (m,) an interval around y, of a line whose step is `pre`.
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


@dataclass(frozen=True)
class Drawing:
    """One picture of a chart.

    Attributes:
        name: of its size.
        width, height: of its coordinates.
        paths: the attributes `d` and `style` of each.
        texts: the attributes of each, its text as `text`.
    """

    name: str
    width: int
    height: int
    paths: tuple[dict[str, str], ...]
    texts: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Chart:
    """A figure with its title, legend and alternative text.

    Attributes:
        drawings: one, or the same in several sizes.
        keys: (label, colour, dashes) of each line.
    """

    title: str
    alternative: str
    drawings: tuple[Drawing, ...]
    keys: tuple[tuple[str, str, str], ...]


def chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    describe: str = "",
    sizes: Mapping[str, tuple[int, int]] = SMALL,
) -> Chart:
    """A chart of lines over one pair of axes.

    Args:
        series: at least one, with at least one finite point among them.
        title: the caption.
        x_label, y_label: of the axes.
        y_range: of the vertical axis; by default what the points need.
        describe: the alternative text; by default the lines' last values.
        sizes: of the drawings, by name.

    Raises:
        ValueError: nothing to draw.
    """
    lines = [line for line in map(_finite, series) if len(line.x)]
    if not lines:
        raise ValueError("there is nothing to draw")
    styles, usual = [], 0
    for line in lines:
        styles.append(UPPER if line.upper else LINES[usual % len(LINES)])
        usual += not line.upper
    alternative = describe or "; ".join(f"{line.label}: last {line.y[-1]:.4g}" for line in lines)
    drawings = [_draw(lines, styles, (x_label, y_label), y_range, *size) for size in sizes.items()]
    keys = [(line.label, name, " ".join(map(str, dashes))) for line, (name, dashes) in zip(lines, styles)]
    return Chart(title, f"{y_label} against {x_label}. {alternative}", tuple(drawings), tuple(keys))


def _draw(
    lines: Sequence[Series],
    styles: Sequence[tuple[str, Any]],
    names: tuple[str, str],
    y_range: tuple[float, float] | None,
    name: str,
    size: tuple[int, int],
) -> Drawing:
    import matplotlib

    width, height = size
    x_name, y_name = (_wrapped(label, room) for label, room in zip(names, (width - LEFT, height)))
    bottom, left = BOTTOM + 15 * x_name.count("\n"), LEFT + 15 * y_name.count("\n")
    room = (width - left - RIGHT, height - TOP - bottom)
    buffer = io.StringIO()
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's font lacks: the browser has others
        axes = _axes()
        axes.figure.set_size_inches(width / DPI, height / DPI)
        axes.xaxis.get_major_locator().set_params(nbins=width // 85)
        axes.yaxis.get_major_locator().set_params(nbins=height // 50)
        axes.set_position((left / width, bottom / height, room[0] / width, room[1] / height))
        axes.set_xlabel(x_name, fontsize=NAME)
        axes.set_ylabel(y_name, fontsize=NAME)
        _limits(axes, lines, y_range)
        try:
            _plot(axes, [_thin(line, width) for line in lines], styles)
            axes.figure.canvas.print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        finally:
            for artist in (*axes.lines, *axes.patches):
                artist.remove()
    found = list(ElementTree.fromstring(buffer.getvalue()).iter())
    paths = [_path(element) for element in found if element.tag.endswith("}path")]
    return Drawing(name, width, height, tuple(paths), tuple(_text(e) for e in found if e.tag.endswith("}text")))


@cache
def _axes() -> Axes:
    """Empty axes, used for one chart after the other: matplotlib takes longer to make them than to draw."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(dpi=DPI)
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INKS["faint"])
    axes.grid(axis="y", color=INKS["rule"], linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(steps=(1, 2, 2.5, 5, 10)))
        axis.set_major_formatter(lambda value, _: f"{value:.10g}" if abs(value) < 10_000 else f"{value:,.6g}")
    return axes


def _plot(axes: Axes, lines: Sequence[Series], styles: Sequence[tuple[str, Any]]) -> None:
    for line, (name, _) in zip(lines, styles):
        if line.low is not None and line.high is not None and len(line.x) > 1:
            band = {"baseline": line.low[1:], "fill": True, "color": INKS[name], "alpha": 0.16, "linewidth": 0}
            axes.stairs(line.high[1:], line.x, **band)
    for line, (name, dashes) in zip(lines, styles):
        given = {"color": INKS[name], "linewidth": 1.5 if line.upper else 1.8, "solid_joinstyle": "round"}
        if len(line.x) == 1:  # a point alone would not be seen: a line of no length with round ends
            axes.plot([line.x[0]] * 2, [line.y[0]] * 2, **{**given, "linewidth": 5.0, "solid_capstyle": "round"})
        else:
            drawstyle = {"pre": "steps-pre", "post": "steps-post", None: "default"}[line.step]
            axes.plot(line.x, line.y, drawstyle=drawstyle, linestyle=(0, dashes) if dashes else "-", **given)


def _limits(axes: Axes, lines: Sequence[Series], y_range: tuple[float, float] | None) -> None:
    x = np.concatenate([line.x for line in lines])
    axes.set_xlim(min(0.0, x.min()), x.max() if x.max() > 0 else 1.0)
    if y_range is None:
        y = np.concatenate([v for line in lines for v in (line.y, line.low, line.high) if v is not None])
        low, high = float(y.min()), float(y.max())
        low = 0.0 if 0 < low < high / 2 else low
        flat = (low - 0.5, low + 0.5) if low else (0.0, 1.0)
        y_range = (low, high + 0.04 * (high - low)) if high > low else flat
    axes.set_ylim(*y_range)


def _finite(line: Series) -> Series:
    keep = (np.abs(line.x) < HUGE) & (np.abs(line.y) < HUGE)
    low, high = (None if values is None else values[keep] for values in (line.low, line.high))
    return replace(line, x=line.x[keep], y=line.y[keep], low=low, high=high)


def _thin(line: Series, columns: int) -> Series:
    """At most four points in each of so many columns: the first, the last, the least and the largest value."""
    if len(line.x) <= 2 * columns:
        return line
    span = float(line.x[-1] - line.x[0]) or 1.0
    starts = np.unique(np.floor((line.x - line.x[0]) / span * columns), return_index=True)[1].tolist()
    kept: set[int] = set()
    for a, b in zip(starts, [*starts[1:], len(line.x)]):
        kept |= {a, b - 1, a + int(line.y[a:b].argmin()), a + int(line.y[a:b].argmax())}
    at = np.array(sorted(kept))
    low, high = (None if values is None else values[at] for values in (line.low, line.high))
    return replace(line, x=line.x[at], y=line.y[at], low=low, high=high)


def _wrapped(name: str, room: int) -> str:
    """The name of an axis in lines that it has room for; XML has no place for the two characters that are none."""
    plain = re.sub("[\ufffe\uffff]", "\ufffd", escape.one_line(name))
    return "\n".join(textwrap.wrap(plain, max(10, int(room / (0.55 * NAME))), max_lines=3, placeholder=" …"))


def _path(element: ElementTree.Element) -> dict[str, str]:
    d = re.sub(r"(\.\d)\d+", r"\1", " ".join(element.attrib["d"].split()))  # tenths of a unit
    return {"d": d, "style": re.sub("#[0-9a-f]{6}", lambda ink: NAMES[ink[0]], element.attrib.get("style", ""))}


def _text(element: ElementTree.Element) -> dict[str, str]:
    given = element.attrib
    anchor = re.search(r"text-anchor: (\w+)", given.get("style", ""))
    turned = given.get("transform", "rotate(-0")  # matplotlib turns all text, most of it by nothing
    return {
        "x": given.get("x", "0"),  # of a name in several lines, which matplotlib puts in place by its transform
        "y": given.get("y", "0"),
        "anchor": anchor[1] if anchor else "start",
        "turned": "" if turned.startswith("rotate(-0") else turned,
        "text": element.text or "",
    }
