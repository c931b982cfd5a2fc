"""Figures of logs: certified accuracy, selective accuracy and coverage, and the difference of two, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from certtrain.claim import Claim
from certtrain.errors import UserError
from certtrain.reporting.bootstrap import Difference
from certtrain.reporting.curves import Outcomes, Share, curves, image_sets, steps
from certtrain.reporting.entries import acr_text
from certtrain.reporting.palette import BLACK, BLUE, GREEN, MARKERS, ORANGE, PURPLE, SKY, VERMILION, radius_axis
from certtrain.reporting.plots import CONFIDENCE
from certtrain.system import escape
from certtrain.system.files import refuse_foreign, write_bytes_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From dark to light; dashes and markers say the same in grey.
COLOURS = (BLACK, BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)), (0, (3, 1)))
BAND = 0.14  # opacity of an interval
SUFFIXES = (".png", ".pdf")
MARK = "certtrain plot"  # in the figures that this module wrote; no other file is overwritten


@dataclass(frozen=True)
class Line:
    """One log to draw.

    Attributes:
        label: in the legend.
        examples: of the log.
        claim: of it.
    """

    label: str
    examples: Outcomes
    claim: Claim

    @property
    def dense(self) -> bool:
        """Whether radii may take any value, so that a curve ends where its largest one does; else nothing larger was
        asked for."""
        return self.claim.radii in ("continuous", "count")

    @property
    def described(self) -> str:
        """The label, what it amounts to, and n."""
        n, label = f"n = {len(self.examples):,}", escape.figure(self.label)
        if self.claim.radii == "targets":
            return f"{label}\n{n}, at target radii"
        told = [] if self.claim.probabilistic else [self.claim.kind]
        told += [f"ACR {acr_text(self.examples.acr)}"] if self.claim.mean_radius == "acr" else []
        return f"{label}\n{n}, {', '.join(told)}"


def certified_figure(lines: Sequence[Line]) -> Figure:
    """Certified accuracy against the radius, as exact step functions; one panel per threat model and set of images."""
    images = image_sets([line.examples for line in lines])
    keys = [(line.claim.threat, of) for line, of in zip(lines, images)]
    sets = list(dict.fromkeys(keys))
    figure, panels = _figure(len(sets))
    for axes, own in zip(panels, sets):
        shown = [line for line, key in zip(lines, keys) if key == own]
        for i, line in enumerate(shown):
            at = steps(line.examples)
            share = curves(line.examples, at).certified
            _steps(axes, at, share, i, line.described, drop=line.dense)
        _finish(axes, shown[0].claim, "certified accuracy (%)")
        axes.set_title(f"certified accuracy, {CONFIDENCE:.0%} intervals over images", fontsize=9.5)
    if len(set(images)) > 1:
        figure.suptitle("panels of different images: their figures do not compare", fontsize=8.5)
    return figure


def risk_coverage_figure(lines: Sequence[Line]) -> Figure:
    """Left: selective accuracy (thick) and coverage (thin) against the radius. Right: selective risk against coverage.

    At r the classifier answers where it has a certificate of at least r, whatever the class; the answered share is the
    coverage, the right share of them the selective accuracy, and the wrong one the selective risk.

    Raises:
        UserError: a deterministic log, or logs of two threat models or of different images.
    """
    for line in lines:
        if not line.claim.probabilistic:
            raise UserError(
                f"{line.label} is deterministic, and proved for right predictions only: that leaves no risk, and "
                " says nothing of a selection that does not know the label",
                where="--risk-coverage",
                fix="logs of randomized smoothing",
            )
    if len({line.claim.threat for line in lines}) > 1:
        raise UserError("radii in two norms cannot share an axis", where="--risk-coverage", fix="logs of one norm")
    _same_images(lines, "--risk-coverage")
    figure, (left, right) = _figure(2)
    top = 1.0
    for i, line in enumerate(lines):
        at = steps(line.examples)
        found = curves(line.examples, at)
        _steps(left, at, found.selective, i, line.described, drop=False)
        left.plot(at, 100 * found.coverage.value, drawstyle="steps-pre", **_style(i, len(at), width=0.8))
        x, risk = 100 * found.coverage.value, 100 * (1 - found.selective.value)
        low, high = 100 * (1 - found.selective.high), 100 * (1 - found.selective.low)
        right.plot(x, risk, label=line.described, **_style(i, len(at)))
        right.fill_between(x, low, high, color=COLOURS[i % len(COLOURS)], alpha=BAND, linewidth=0)
        common = x >= 20
        top = max(top, 1.1 * float(np.max(high[common], initial=0.0)))
    _finish(left, lines[0].claim, "% (thick: selective accuracy, thin: coverage)")
    _finish(right, lines[0].claim, "selective risk (%)")
    right.set_xlabel("coverage (%), from the largest certified radii down")
    right.set_xlim(0, 102)
    right.set_ylim(0, min(top, 102))
    left.set_title(f"selective accuracy and coverage, {CONFIDENCE:.0%} intervals", fontsize=9.5)
    right.set_title(f"risk against coverage, {CONFIDENCE:.0%} intervals over images", fontsize=9.5)
    return figure


def probability_figure(lines: Sequence[Line]) -> Figure:
    """The empirical distribution of the label's probability under noise: the share of images whose bound is below p.

    The ACR rewards images that are certain already, and an abstention costs it nothing (Sun et al. 2024, arXiv
    2410.06895); here each image counts the same. At 1/2 a curve begins with what is wrong or abstained. Equal distances
    are equal radii in units of sigma (one-sided, `R = sigma Phi^-1(p)`).

    Raises:
        UserError: no log, one without probabilities, or logs of different images.
    """
    from scipy.special import ndtr, ndtri

    if not lines:
        what = "certificates that decide target radii say whether a probability suffices, not what it is"
        raise UserError(what, where="--ecdf", fix="a log of certifier=smoothing")
    for line in lines:
        if line.examples.p_right is None:
            what = f"{line.label} holds no probabilities of classes under noise"
            raise UserError(what, where="--ecdf", fix="certtrain's own logs of randomized smoothing")
    _same_images(lines, "--ecdf")
    figure, (axes,) = _figure(1)
    ends = []
    for i, line in enumerate(lines):
        p = np.sort(line.examples.p_right)
        inside = p[p > 0.5]
        at = np.append(0.5, inside)
        below = 100 * (len(p) - len(inside) + np.arange(len(inside) + 1)) / len(p)
        ends.append(float(inside[-1]) if len(inside) else 0.75)
        label = f"{line.described}, wrong or abstained {below[0]:.1f} %"
        axes.plot(at, below, drawstyle="steps-post", label=label, **_style(i, len(at)))
    axes.set_xscale("function", functions=(ndtri, ndtr))
    end = float(ndtr(ndtri(max(ends)) + 0.1))
    ticks = [p for p in (0.5, 0.75, 0.9, 0.97, 0.99, 0.999, 0.9999, 0.99999) if p <= end]
    axes.set_xticks(ticks, [f"{p:g}" for p in ticks])
    axes.minorticks_off()
    _finish(axes, lines[0].claim, "share of images below (%)")
    axes.set_xlim(0.5, end)
    axes.set_xlabel("lower bound of the label's probability under noise")
    axes.set_title("empirical distribution (lower is better)", fontsize=9.5)
    return figure


def _same_images(lines: Sequence[Line], where: str) -> None:
    if len(set(image_sets([line.examples for line in lines]))) > 1:
        shown = "; ".join(f"{line.label}: n = {len(line.examples):,}" for line in lines)
        fix = "logs of one index list, or a figure for each"
        raise UserError(f"logs of different images do not compare: {shown}", where=where, fix=fix)


def difference_figure(a: Line, b: Line, difference: Difference) -> Figure:
    """Left: both curves. Right: certified accuracy of b minus that of a, with the bootstrap's intervals."""
    figure, (left, right) = _figure(2)
    for i, line in enumerate((a, b)):
        at = steps(line.examples)
        _steps(left, at, curves(line.examples, at).certified, i, line.described, drop=line.dense)
    _finish(left, a.claim, "certified accuracy (%)")
    left.set_title(f"certified accuracy, {CONFIDENCE:.0%} intervals over images", fontsize=9.5)
    value = 100 * difference.certified
    below, above = value - 100 * difference.certified_low, 100 * difference.certified_high - value
    right.axhline(0, color="#777777", linewidth=0.9)
    right.errorbar(difference.radii, value, [below, above], fmt="o", color=COLOURS[1], capsize=3, markersize=4.5)
    _finish(right, a.claim, "difference (percentage points)", legend=False, percent=False)
    right.set_xlim(left=-0.03 * float(difference.radii[-1] or 1))
    right.set_title(f"second minus first, same {difference.n:,} images, paired bootstrap", fontsize=9.5)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG or PDF by the name's suffix, in place of nothing or of a figure that this function wrote.

    Raises:
        UserError: another suffix, a file that is no such figure, or a place that cannot be written.
    """
    import io

    check_output(path)
    keys = {".png": {"Software": MARK}, ".pdf": {"Creator": MARK, "CreationDate": None}}
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], metadata=keys[path.suffix])
    return write_bytes_atomic(path, buffer.getvalue())


def check_output(path: Path) -> None:
    """Refuse a name that no figure has, and a file that is not a figure of ours.

    Raises:
        UserError: either.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is neither PNG nor PDF", where="--output", fix="NAME.png, NAME.pdf, or NAME for both")
    refuse_foreign(path, MARK.encode(), "figure of `certtrain plot`")


def _figure(panels: int) -> tuple[Figure, NDArray[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * panels, 4.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _steps(axes: Axes, at: NDArray[np.float64], share: Share, i: int, label: str, *, drop: bool = True) -> None:
    """A share as the step function that it is: its value at r holds for all radii down to the next smaller one."""
    value, x = 100 * share.value, at
    axes.fill_between(
        at, 100 * share.low, 100 * share.high, step="pre", color=COLOURS[i % len(COLOURS)], alpha=BAND, linewidth=0
    )
    if drop:
        x, value = np.append(at, at[-1]), np.append(value, 0.0)
    axes.plot(x, value, drawstyle="steps-pre", label=label, **_style(i, len(x)))


def _style(i: int, points: int, width: float = 1.6) -> dict[str, Any]:
    every = max(1, points // 7)
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": DASHES[i % len(DASHES)],
        "linewidth": width,
        "marker": MARKERS[i % len(MARKERS)],
        "markevery": (min(i * max(1, every // 4), points - 1), every),
        "markersize": 4.5 if width > 1 else 3,
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }


def _finish(axes: Axes, claim: Claim, y: str, *, legend: bool = True, percent: bool = True) -> None:
    axes.set_xlabel(radius_axis(claim))
    axes.set_ylabel(y)
    axes.set_xlim(left=0)
    if percent:
        axes.set_ylim(0, 102)
    axes.grid(True, color="#E2E2E2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), handlelength=3.5)
