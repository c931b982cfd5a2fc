"""How a certificate fares class by class: accuracies, and the confusion of the certified classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import ABSTAIN, Certificates
from certtrain.certificates.summary import certified
from certtrain.radii import radius_text
from certtrain.reporting.entries import percent
from certtrain.reporting.page.evidence import Certified
from certtrain.reporting.page.figures import held, radii_of, share
from certtrain.reporting.page.table import Table

MATRIX = 25  # classes up to which the matrix is shown; beyond it the most frequent confusions
PAIRS = 30


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix, shaded by its counts.

    Attributes:
        caption: what it shows.
        header: the first cell, a class or another answer per column, and n.
        rows: (class, column of the right answer, counts) of each class that has examples.
        peak: the largest count.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[tuple[str, int, Sequence[int]]]
    peak: int


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


def class_table(certificate: Certified, radius: Fraction, names: Sequence[str] | None) -> Table:
    """Per class: n, accuracy, and certified accuracy at the radii of the grid, with the interval at the chosen one."""
    rows = certificate.rows
    assert rows is not None
    grid = sorted({*(r for r in radii_of(certificate) if r > 0), radius} - {Fraction(0)})
    header = ["class", "n", "smoothed (%)" if certificate.probabilistic else "clean (%)"]
    header += ["abstained"] * certificate.probabilistic
    for at in grid:
        header += [f"at {radius_text(at)} (%)"] + ["95 % interval"] * (at == radius)
    lines = []
    for label in np.unique(rows.label).tolist():
        part = rows.select(rows.label == label)
        n = len(part)
        line = [class_name(label, names), f"{n:,}", percent(int(certified(part, Fraction(0)).sum()) / n)]
        line += [f"{int((part.predict == ABSTAIN).sum()):,}"] * certificate.probabilistic
        for at in grid:
            value, interval = share(int(certified(part, at).sum()), n)
            line += [value] + [interval] * (at == radius)
        lines.append(line)
    caption = f"{certificate.name}: certified accuracy by true class"
    strong = header.index(f"at {radius_text(radius)} (%)") if radius in grid else None
    return Table(caption, header, lines, words=(0,), strong=strong)


def confusion(
    certificate: Certified, radius: Fraction, names: Sequence[str] | None
) -> list[tuple[str, Matrix | Table]]:
    """By radius the matrix, at the chosen one first; of many classes at 0 and the chosen radius only."""
    rows = certificate.rows
    assert rows is not None
    others = {Fraction(0), *(radii_of(certificate) if len(classes_of(rows)) <= MATRIX else ())} - {radius}
    return [(radius_text(at), _confusion(certificate, at, names)) for at in (radius, *sorted(others))]


def _confusion(certificate: Certified, radius: Fraction, names: Sequence[str] | None) -> Matrix | Table:
    counts, classes, columns = confusion_counts(certificate, radius)
    text = radius_text(radius)
    caption = (
        f"{certificate.name}: examples by true class (rows) and by the certified answer at radius {text} (columns)"
    )
    if not certificate.probabilistic and radius > 0:
        caption += "; wrong answers are those of the network, which bounds do not certify"
    if len(classes) > MATRIX:
        return _pairs(counts, classes, names, caption)
    told = [class_name(c, names) for c in classes]
    shown = [(told[i], i, line) for i, line in enumerate(counts.tolist()) if sum(line)]
    return Matrix(caption, ["true class", *told, *columns, "n"], shown, max(1, int(counts.max())))


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


def _pairs(counts: NDArray[np.int64], classes: list[int], names: Sequence[str] | None, caption: str) -> Table:
    k = len(classes)
    off = counts[:, :k].copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    lines = []
    for i, j in zip(*np.unravel_index(order, off.shape)):
        if off[i, j]:
            n = int(counts[i].sum())
            lines.append(
                [class_name(classes[i], names), class_name(classes[j], names), f"{int(off[i, j]):,}", f"{n:,}"]
            )
    title = f"{caption}. {k} classes are too many for a matrix: the most frequent confusions."
    return Table(title, ["true class", "answer", "examples", "of n"], lines, words=(0, 1))
