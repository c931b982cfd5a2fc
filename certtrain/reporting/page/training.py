"""How the training went, from metrics.csv: one chart for each group of columns that share an axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from certtrain.reporting.page.charts import Chart, Series, chart
from certtrain.reporting.page.evidence import Evidence

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
    (
        "Neurons, boxes and attack in validation",
        "%",
        True,
        lambda c: c in ("val/unstable_relu", "val/tightness", "val/attack_success"),
    ),
    ("Radius trained for", "eps", False, lambda c: c in ("schedule/eps", "schedule/train_eps")),
    ("Noise", "sigma", False, lambda c: c == "schedule/sigma"),
    ("Weights of the loss", "weight", False, lambda c: c in ("schedule/kappa", "schedule/beta")),
    ("Learning rate", "rate", False, lambda c: c == "schedule/lr"),
    ("Mean certified radius in validation", "radius", False, lambda c: c in ("val/acr", "val/acr_grid")),
)
MORE = 24  # charts of further columns


def training_view(evidence: Evidence) -> dict[str, Any]:
    """The curves, the usual ones first; further columns apart, the first of them as charts."""
    charts: list[Chart] = []
    shown: set[str] = set()
    for title, axis, percent, belongs in GROUPS:
        names = [name for name in evidence.metrics if belongs(name)]
        if names:
            charts.append(_chart(evidence, title, axis, names, percent))
            shown.update(names)
    rest = [name for name in evidence.metrics if name not in shown]
    more = [_chart(evidence, name, "value", [name], False) for name in rest[:MORE]]
    elsewhere = bool(evidence.result) and evidence.result.get("trained") is False  # type: ignore[union-attr]
    return {"charts": charts, "more": more, "further": len(rest), "elsewhere": elsewhere}


def _chart(evidence: Evidence, title: str, axis: str, names: list[str], percent: bool) -> Chart:
    lines = []
    for name in names:
        steps, values = evidence.metrics[name]
        lines.append(Series(name, steps, 100 * values if percent else values))
    return chart(lines, title=title, x_label="optimiser steps", y_label=axis, y_range=(0, 100) if percent else None)
