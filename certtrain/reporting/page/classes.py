"""How a certificate fares class by class: accuracies, and the confusion of the certified classifier."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import ABSTAIN, Certificates
from certtrain.certificates.summary import certified
from certtrain.radii import radius_text
from certtrain.reporting.entries import percent
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.figures import held, radii_of, share
from certtrain.reporting.page.markup import Markup, Node, captioned, details, table, tag

MATRIX = 25  # classes up to which the matrix is shown; beyond it the most frequent confusions
PAIRS = 30


def classes_of(rows: Certificates) -> NDArray[np.int64]:
    """Every class that is a label or a prediction, ascending."""
    return np.unique(np.concatenate([rows.label, rows.predict[rows.predict != ABSTAIN]]))


def class_name(number: int, names: Sequence[str] | None) -> str:
    """`7`, or `7 (horse)` where the data set names its classes."""
    return (
        f"{number} ({names[number]})"
        if names and 0 <= number < len(names) and names[number] != str(number)
        else str(number)
    )


def class_table(certificate: Certified, radius: Fraction, names: Sequence[str] | None) -> Markup:
    """Per class: n, accuracy, and certified accuracy at the radii of the grid, with the interval at the chosen one."""
    rows = certificate.rows
    assert rows is not None
    grid = sorted({*(r for r in radii_of(certificate) if r > 0), radius} - {Fraction(0)})
    header: list[Node] = ["class", "n", "smoothed (%)" if certificate.probabilistic else "clean (%)"]
    header += ["abstained"] * certificate.probabilistic
    for at in grid:
        header += [f"at {radius_text(at)} (%)"] + ["95 % interval"] * (at == radius)
    lines: list[list[Node]] = []
    for label in np.unique(rows.label).tolist():
        part = rows.select(rows.label == label)
        n = len(part)
        line: list[Node] = [class_name(label, names), f"{n:,}", percent(int(certified(part, Fraction(0)).sum()) / n)]
        line += [f"{int((part.predict == ABSTAIN).sum()):,}"] * certificate.probabilistic
        for at in grid:
            value, interval = share(int(certified(part, at).sum()), n)
            line += [value] + [interval] * (at == radius)
        lines.append(line)
    caption = f"{certificate.name}: certified accuracy by true class"
    strong = header.index(f"at {radius_text(radius)} (%)") if radius in grid else None
    return table(header, lines, caption=caption, words=[0], strong=strong)


def confusion(certificate: Certified, radius: Fraction, names: Sequence[str] | None) -> list[Markup]:
    """The matrix at the chosen radius, and for few classes those of the other radii behind a click."""
    rows = certificate.rows
    assert rows is not None
    others = [r for r in radii_of(certificate) if r != radius] if len(classes_of(rows)) <= MATRIX else []
    made = [_confusion(certificate, radius, names)]
    return made + [
        details(f"Confusion at radius {radius_text(other)}", _confusion(certificate, other, names))
        for other in sorted({Fraction(0), *others} - {radius})
    ]


def _confusion(certificate: Certified, radius: Fraction, names: Sequence[str] | None) -> Markup:
    counts, classes, columns = confusion_counts(certificate, radius)
    text = radius_text(radius)
    caption = (
        f"{certificate.name}: examples by true class (rows) and by the certified answer at radius {text} (columns)"
    )
    if not certificate.probabilistic and radius > 0:
        caption += "; wrong answers are those of the network, which bounds do not certify"
    if len(classes) > MATRIX:
        return _pairs(counts, classes, names, caption)
    header = ["true class", *(class_name(c, names) for c in classes), *columns, "n"]
    peak = max(1, int(counts.max()))
    body: list[Node] = []
    for i, label in enumerate(classes):
        if not counts[i].sum():
            continue
        cells = [_cell(int(value), peak, right=j == i) for j, value in enumerate(counts[i].tolist())]
        total = tag("td", f"{int(counts[i].sum()):,}")
        body.append(tag("tr", tag("th", class_name(label, names), scope="row", class_="words"), cells, total))
    head = tag("tr", [tag("th", cell, scope="col", class_="words" if not i else None) for i, cell in enumerate(header)])
    return captioned(tag("table", tag("thead", head), tag("tbody", body), class_="confusion"), caption)


def confusion_counts(certificate: Certified, radius: Fraction) -> tuple[NDArray[np.int64], list[int], list[str]]:
    """Counts (K, K + further columns) of labels by answers; the rows add up to each class's n.

    Smoothing: the class with its certificate, `not certified` below the radius, `abstains`. Bounds: the label where it
    is verified at the radius, the network's class where that is wrong, else `not certified`.

    Returns:
        The counts, the classes, and the names of the columns behind them.
    """
    rows = certificate.rows
    assert rows is not None
    classes = classes_of(rows)
    k = len(classes)
    columns = ["not certified", "abstains"] if certificate.probabilistic else ["not certified"]
    answers = np.searchsorted(classes, rows.predict)
    given = held(rows, radius) if certificate.probabilistic else certified(rows, radius) | (rows.predict != rows.label)
    answers = np.where(given, answers, k)
    if certificate.probabilistic:
        answers = np.where(rows.predict == ABSTAIN, k + 1, answers)
    counts = np.zeros((k, k + len(columns)), dtype=np.int64)
    np.add.at(counts, (np.searchsorted(classes, rows.label), answers), 1)
    return counts, classes.tolist(), columns


def _cell(count: int, peak: int, *, right: bool) -> Markup:
    names = " ".join(["zero"] * (count == 0) + ["right"] * right)
    shade = f"background: rgba(var(--cell), {0.06 + 0.5 * count / peak:.2f})" if count else None
    return tag("td", f"{count:,}" if count else "·", class_=names or None, style=shade)


def _pairs(counts: NDArray[np.int64], classes: list[int], names: Sequence[str] | None, caption: str) -> Markup:
    k = len(classes)
    off = counts[:, :k].copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    lines: list[list[Node]] = []
    for i, j in zip(*np.unravel_index(order, off.shape)):
        if off[i, j]:
            n = int(counts[i].sum())
            lines.append(
                [class_name(classes[i], names), class_name(classes[j], names), f"{int(off[i, j]):,}", f"{n:,}"]
            )
    title = f"{caption}. {k} classes are too many for a matrix: the most frequent confusions."
    return table(["true class", "answer", "examples", "of n"], lines, caption=title, words=[0, 1])
