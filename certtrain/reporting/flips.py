"""What fraction of decisions bounded changes cannot flip, by class, and which feature alone flips most.

A decision counts when it is right and proved: no admissible change of the features flips it. What an attack flips is
shown beside, so that what lies between is what nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from certtrain.certificates import FALSIFIED, MISCLASSIFIED, Certificates
from certtrain.certificates.summary import held_radii
from certtrain.radii import radius_text
from certtrain.reporting.entries import percent
from certtrain.reporting.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION
from certtrain.reporting.plots import clopper_pearson, interval_text, save_figure, step_curve
from certtrain.system import escape

if TYPE_CHECKING:
    from certtrain.certifiers.alone import Alone

COLOURS = (VERMILION, BLUE, GREEN, PURPLE, ORANGE)
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)))
MOST = 12  # features shown
INTERVAL = "95 % interval\nover examples"


@dataclass(frozen=True)
class ClassFlips:
    """The decisions about the examples of one class.

    Attributes:
        name: of the class.
        held: (n,) the largest radius that is proved, -1 where the decision is wrong.
        standing: by radius of the grid how many the attack did not flip, the wrong ones counted as flipped.
        reach: the largest radius that was looked at.
    """

    name: str
    held: NDArray[np.float64]
    standing: Mapping[Fraction, int]
    reach: float

    def __len__(self) -> int:
        return len(self.held)

    def proved(self, radius: Fraction) -> int:
        """How many are right and cannot be flipped by changes up to the radius; at 0 how many are right."""
        return int((self.held >= float(radius)).sum())

    def interval(self, count: int) -> tuple[float, float]:
        """Clopper-Pearson's 95 % for a count of them."""
        low, high = clopper_pearson(np.array(count), len(self))
        return float(low), float(high)


def by_class(
    rows: Certificates, radii: Sequence[Fraction], names: Sequence[str] | None, reach: Fraction | None = None
) -> list[ClassFlips]:
    """The classes of a log, in their order.

    Args:
        rows: with one status per radius.
        radii: of the log's grid.
        names: of the classes; None: their numbers.
        reach: the largest radius that was looked at; None: of the grid.
    """
    held = held_radii(rows.correct, np.maximum(rows.columns.get("largest_eps", rows.radius), rows.radius))
    found = []
    for label in np.unique(rows.label):
        mine = rows.label == label
        standing = {
            r: int((~np.isin(rows.columns[f"status@{radius_text(r)}"][mine], (FALSIFIED, MISCLASSIFIED))).sum())
            for r in radii
        }
        name = names[label] if names is not None and label < len(names) else f"class {label}"
        found.append(ClassFlips(name, held[mine], standing, float(reach or radii[-1])))
    return found


def ranked(alone: Sequence[Alone], radius: Fraction) -> list[Alone]:
    """The features, those that flip most decisions at the radius first; of equal ones those with fewer proofs."""
    return sorted(alone, key=lambda one: (-one.counts(radius)[1], one.counts(radius)[0], one.name))


def shown_name(one: Alone) -> str:
    """`income`; of a column of words `colour, any category`."""
    return one.name if one.size is not None else f"{one.name}, any category"


def flips_tables(
    classes: Sequence[ClassFlips],
    alone: Sequence[Alone],
    radii: Sequence[Fraction],
    radius: Fraction,
    unit: str,
    any_category: Sequence[str] = (),
) -> Group:
    """By class and radius the decisions that cannot be flipped; below, by feature, those that it alone flips.

    Args:
        classes: of the log.
        alone: every feature by itself; none for the first table only.
        radii: of the grid.
        radius: at which features are compared.
        unit: of radius 1, in words.
        any_category: columns of words that may take any of their categories at each change > 0.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class")
    for name in ("n", "change", "cannot be\nflipped (%)", INTERVAL, "left standing\nby attack (%)"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in classes:
        for r in (Fraction(0), *radii):
            count = one.proved(r)
            attacked = percent(one.standing[r] / len(one)) if r in one.standing else "–"
            cells = (radius_text(r), percent(count / len(one)), interval_text(*one.interval(count)), attacked)
            table.add_row(escape.one_line(one.name), f"{len(one):,}", *cells, end_section=r == radii[-1])
    parts: list[Any] = [Text("decisions that are right and that no allowed change flips", style="bold"), table]
    free = f", and any category of {escape.one_line(' and '.join(any_category))}" if any_category else ""
    parts.append(
        Text(f"change: in multiples of {escape.one_line(unit)}, of all features at once{free}; 0: right as it is\n")
    )
    if alone:
        features = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, side in (("one feature alone", "left"), ("flips", "right"), ("cannot flip", "right")):
            features.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
        features.add_column("open", justify="right", no_wrap=True)
        for one in ranked(alone, radius)[:MOST]:
            proved, broken, unknown = one.counts(radius)
            features.add_row(escape.one_line(shown_name(one)), f"{broken:,}", f"{proved:,}", f"{unknown:,}")
        n = len(alone[0].proved)
        parts += [Text(f"of the {n:,} right decisions, at change {radius_text(radius)}", style="bold"), features]
    return Group(*parts)


def flips_figure(
    classes: Sequence[ClassFlips],
    alone: Sequence[Alone],
    path: str | Path,
    *,
    radius: Fraction,
    unit: str,
    subject: str,
) -> Path:
    """Left: the fraction that cannot be flipped against the size of the change, by class, with 95 % intervals. Right:
    of the right decisions those that one feature alone flips, and those where nobody knows.

    Args:
        classes, alone, radius: as for `flips_tables`.
        path: the PNG.
        unit: of radius 1, in words; `a standard deviation` gives per cents of it.
        subject: what was decided about, for the title.

    Raises:
        UserError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = bool(alone)
    figure = Figure(figsize=(11.2 if wide else 5.8, 5.0), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if wide else 1, squeeze=False, width_ratios=[1.15, 1] if wide else None)[0]
    _curves(panels[0], classes, unit)
    panels[0].set_title(f"{escape.figure(subject)}: decisions that no allowed change flips", fontsize=10, loc="left")
    if wide:
        shown = ranked(alone, radius)
        told = [one for one in shown if sum(one.counts(radius)[1:])]
        _bars(panels[1], (told or shown)[:MOST], radius, unit)
        if len(told) < len(shown):
            panels[1].set_xlabel(f"{panels[1].get_xlabel()}; none by {len(shown) - len(told)} other features")
    return save_figure(figure, Path(path))


def _curves(axes: Any, classes: Sequence[ClassFlips], unit: str) -> None:
    for i, one in enumerate(classes):
        colour = COLOURS[i % len(COLOURS)]
        at, count = step_curve(one.held)
        if at[-1] < one.reach:  # up to there nothing was proved; beyond it nobody looked
            at, count = np.append(at, one.reach), np.append(count, 0)
        low, high = clopper_pearson(count, len(one))
        axes.fill_between(100 * at, 100 * low, 100 * high, step="pre", color=colour, alpha=0.13, linewidth=0)
        label = f"{escape.figure(one.name)} (n = {len(one):,}), proved"
        axes.step(
            100 * at,
            100 * count / len(one),
            where="pre",
            color=colour,
            linewidth=1.7,
            linestyle=DASHES[i % len(DASHES)],
            label=label,
        )
        upper = [(float(r), 100 * k / len(one)) for r, k in sorted(one.standing.items())]
        x, y = [100 * r for r, _ in upper], [value for _, value in upper]
        axes.plot(x, y, linestyle="", marker="x", color=colour, markersize=6, markeredgewidth=1.5, clip_on=False)
    axes.plot(
        [],
        [],
        linestyle="",
        marker="x",
        color=GREY,
        markeredgewidth=1.5,
        label="left standing by an attack: an upper bound",
    )
    axes.fill_between([], [], [], color=GREY, alpha=0.2, linewidth=0, label="95 % interval over examples of the class")
    axes.set_xlim(0, 100 * max(one.reach for one in classes))
    axes.set_ylim(0, 102)
    axes.set_xlabel(f"allowed change of each feature, all at once (% of {escape.figure(unit)})")
    axes.set_ylabel("right, and cannot be flipped (%)")
    _plain(axes)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


def _bars(axes: Any, alone: Sequence[Alone], radius: Fraction, unit: str) -> None:
    n = len(alone[0].proved)
    counts = [one.counts(radius) for one in alone]
    place = np.arange(len(alone))[::-1]
    broken, unknown = np.array([c[1] for c in counts]), np.array([c[2] for c in counts])
    axes.barh(place, 100 * broken / n, color=VERMILION, label="flipped: a value was found")
    axes.barh(
        place, 100 * unknown / n, left=100 * broken / n, color="#CCCCCC", label="open: neither found nor excluded"
    )
    for y, (_, k, more) in zip(place, counts):
        axes.annotate(f"{k}", (100 * (k + more) / n, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(place, [escape.figure(shown_name(one), 30) for one in alone], fontsize=8.5)
    axes.set_xlim(0, max(5.0, 118 * float((broken + unknown).max()) / n))
    axes.set_xlabel(f"of the {n:,} right decisions (%)")
    axes.set_title(
        f"one feature alone, by up to {100 * float(radius):g} %\nof {escape.figure(unit)}", fontsize=10, loc="left"
    )
    _plain(axes)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.13))


def _plain(axes: Any) -> None:
    axes.grid(True, color="#E2E2E2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def to_dict(classes: Sequence[ClassFlips], alone: Sequence[Alone], radii: Sequence[Fraction]) -> dict[str, Any]:
    """All counts in plain values: by class and by feature, at the radii of the grid."""
    return {
        "classes": {
            one.name: {
                "n": len(one),
                "right": one.proved(Fraction(0)),
                "cannot_be_flipped": {radius_text(r): one.proved(r) for r in radii},
                "not_flipped_by_attack": {radius_text(r): one.standing[r] for r in radii},
            }
            for one in classes
        },
        "features_alone": {
            one.name: {
                radius_text(r): dict(zip(("cannot_flip", "flips", "open"), one.counts(r), strict=True)) for r in radii
            }
            for one in alone
        },
    }
