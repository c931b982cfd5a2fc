"""How the training went, from metrics.csv: one chart for each group of columns that share an axis."""

from __future__ import annotations

from collections.abc import Callable

from certtrain.reporting.page.chart import Series, chart
from certtrain.reporting.page.evidence import Evidence
from certtrain.reporting.page.markup import Markup, Node, details, section, tag

# Title, axis, whether in percent, and which columns.
Group = tuple[str, str, bool, Callable[[str], bool]]
GROUPS: tuple[Group, ...] = (
    ("Loss", "loss", False, lambda c: c.startswith("train/loss") or c == "val/loss"),
    (
        "Accuracy",
        "%",
        True,
        lambda c: c in ("train/clean", "train/noisy", "val/clean", "val/certified_clean", "val/noisy"),
    ),
    ("Certified accuracy in validation", "%", True, lambda c: c.startswith("val/certified@")),
    ("What an attack leaves standing in validation", "%", True, lambda c: c.startswith("val/pgd@")),
    ("Radius trained for", "eps", False, lambda c: c in ("schedule/eps", "schedule/train_eps")),
    ("Noise", "sigma", False, lambda c: c == "schedule/sigma"),
    ("Weights of the loss", "weight", False, lambda c: c in ("schedule/kappa", "schedule/beta")),
    ("Learning rate", "rate", False, lambda c: c == "schedule/lr"),
    ("Mean certified radius in validation", "radius", False, lambda c: c in ("val/acr", "val/acr_grid")),
)
MORE = 24  # charts of further columns


def training_section(evidence: Evidence) -> Markup:
    """The curves, the usual ones first; every further column in a part that a click opens."""
    if not evidence.metrics:
        elsewhere = bool(evidence.result) and evidence.result.get("trained") is False  # type: ignore[union-attr]
        why = "The network was trained elsewhere." if elsewhere else "There is no metrics.csv with values in the run."
        return section("training", "Training", tag("p", why))
    charts: list[Node] = []
    shown: set[str] = set()
    for title, axis, percent, belongs in GROUPS:
        names = [name for name in evidence.metrics if belongs(name)]
        if names:
            charts.append(_chart(evidence, title, axis, names, percent))
            shown.update(names)
    rest = [name for name in evidence.metrics if name not in shown]
    more = [_chart(evidence, name, "value", [name], False) for name in rest[:MORE]]
    left = tag("p", f"{len(rest) - MORE} more columns are in metrics.csv.") if len(rest) > MORE else None
    return section(
        "training",
        "Training",
        tag("div", charts, class_="charts"),
        details(f"{len(rest)} further measurements", tag("div", more, class_="charts"), left) if rest else None,
    )


def _chart(evidence: Evidence, title: str, axis: str, names: list[str], percent: bool) -> Markup:
    lines = []
    for name in names:
        steps, values = evidence.metrics[name]
        lines.append(Series(name, steps, 100 * values if percent else values))
    return chart(lines, title=title, x_label="optimiser steps", y_label=axis, y_range=(0, 100) if percent else None)
