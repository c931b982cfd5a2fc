"""Curves of one log, or of its old and new radii, as a table: the figures with their intervals over images."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from rich import box
from rich.table import Table

from certtrain.radii import radius_text
from certtrain.reporting.bootstrap import Difference
from certtrain.reporting.curves import Curves, Outcomes, Share, curves
from certtrain.reporting.entries import acr_text, percent
from certtrain.reporting.plots import CONFIDENCE, interval_text
from certtrain.system import escape


def curve_table(examples: Outcomes, radii: Sequence[Fraction], *, selective: bool, acr: str | None = None) -> Table:
    """Per radius the certified accuracy with its interval, and when asked coverage and selective accuracy with theirs.

    Args:
        examples: of one log.
        radii: the rows of the table.
        selective: False for bounds, which prove right predictions only: their coverage says nothing.
        acr: what stands in place of the ACR where there is none.
    """
    found = curves(examples, [float(radius) for radius in radii])
    n = len(examples)
    share = f"ACR {acr_text(examples.acr)}" if acr is None else acr
    caption = f"{share}; abstained {examples.abstained:,} of {n:,} ({percent(examples.abstained / n)} %); "
    caption += f"{CONFIDENCE:.0%} intervals over images (Clopper-Pearson, at each radius by itself)"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    names = ["radius", "certified (%)", "interval"] + (["coverage (%)", "selective (%)", "interval"] * selective)
    for name in [*names, "n"]:
        table.add_column(name, justify="right", no_wrap=True)
    for i, radius in enumerate(radii):
        cells = [radius_text(radius), *_cells(found.certified, i)]
        cells += [_cells(found.coverage, i)[0], *_cells(found.selective, i)] if selective else []
        table.add_row(*cells, f"{n:,}")
    return table


QUANTILES = (5, 10, 25, 50, 75, 90)


def probability_table(lines: Sequence[tuple[str, Outcomes]]) -> Table:
    """Quantiles over images of the lower bound of the label's probability under noise; `wrong` where it is below 1/2.

    Args:
        lines: name and examples of logs with probabilities.
    """
    caption = "Quantiles over images: lower bounds of the label's probability under noise, rounded down."
    caption += "".join(f"\n{i}: {escape.terminal(name)}" for i, (name, _) in enumerate(lines, 1))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    for name in ("log", "n", "wrong (%)", "abstained (%)", *(f"{q} %" for q in QUANTILES)):
        table.add_column(name, justify="right", no_wrap=True)
    for i, (_, examples) in enumerate(lines, 1):
        p, n = examples.p_right, len(examples)
        assert p is not None
        # Each is an image's own, the larger share of images has at least that much.
        found = np.quantile(p, [q / 100 for q in QUANTILES], method="inverted_cdf")
        wrong = int(((p == 0) & (examples.certificate >= 0)).sum())
        cells = [f"{np.floor(1e4 * value) / 1e4:.4f}" if value >= 0.5 else "wrong" for value in found]
        table.add_row(str(i), f"{n:,}", percent(wrong / n), percent(examples.abstained / n), *cells)
    return table


def old_and_new(old: Outcomes, new: Outcomes, radii: Sequence[Fraction], names: tuple[str, str]) -> Table:
    """Certified accuracy of the same examples before and after radii were derived anew."""
    at = [float(radius) for radius in radii]
    before, after = curves(old, at), curves(new, at)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    for i, radius in enumerate(radii):
        table.add_row(f"certified at {radius_text(radius)} (%)", _with_interval(before, i), _with_interval(after, i))
    table.add_row("ACR", acr_text(old.acr), acr_text(new.acr))
    table.add_row("abstained", f"{old.abstained:,}", f"{new.abstained:,}")
    table.add_row("n", f"{len(old):,}", f"{len(new):,}")
    return table


def _cells(share: Share, i: int) -> tuple[str, str]:
    value = share.value[i]
    if np.isnan(value):
        return "–", "–"
    return percent(float(value)), interval_text(share.low[i], share.high[i])


def _with_interval(found: Curves, i: int) -> str:
    value, interval = _cells(found.certified, i)
    return f"{value} ({interval})"


def difference_table(
    a: Outcomes, b: Outcomes, difference: Difference, radii: Sequence[Fraction], *, acr: bool
) -> Table:
    """Certified accuracy of two logs of the same images, and their paired difference with its interval.

    Args:
        a, b: the first and the second log.
        difference: b minus a.
        radii: those of the difference.
        acr: whether the logs have one: no targets, no grid.
    """
    caption = f"second minus first; {CONFIDENCE:.0%} percentile intervals of a paired bootstrap over the same "
    caption += f"{difference.n:,} images, B = {difference.resamples:,}, seed {difference.seed}; each radius by itself"
    caption += "" if acr else "; no ACR: radii are targets, or those of a grid"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    for name in ("radius", "first", "second", "difference", "interval"):
        table.add_column(name, justify="right", no_wrap=True)
    at = difference.radii
    one, two = curves(a, at).certified.value, curves(b, at).certified.value
    for i, radius in enumerate(radii):
        change = [difference.certified[i], difference.certified_low[i], difference.certified_high[i]]
        value, low, high = (f"{100 * share:+.2f}" for share in change)
        table.add_row(radius_text(radius), percent(float(one[i])), percent(float(two[i])), value, f"{low} to {high}")
    if acr:
        value, low, high = (f"{share:+.4f}" for share in (difference.acr, difference.acr_low, difference.acr_high))
        table.add_row("ACR", acr_text(a.acr), acr_text(b.acr), value, f"{low} to {high}")
    return table
