"""What can be wrong with a log of somebody else's, seen from its rows alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from certtrain.audit.fieldlog import FieldLog
from certtrain.certificates import ABSTAIN
from certtrain.certificates.findings import Audit, rows_text
from certtrain.reporting.curves import Outcomes

SPLITS = (10_000, 50_000)  # sizes of the field's test and validation sets: MNIST and CIFAR, ImageNet


def usable(log: FieldLog) -> Outcomes:
    """The log's examples as curves need them: the first row of each index; a radius that is none is no certificate.

    Right is predict = label, whatever the column `correct` says.
    """
    _, first = np.unique(log.index, return_index=True)
    first = np.sort(first)
    radius = log.radius[first]
    sound = np.isfinite(radius) & (radius >= 0) & (log.predict[first] != ABSTAIN)
    correct = (log.predict[first] == log.label[first]) & sound
    return Outcomes(log.index[first], log.label[first], np.where(sound, radius, -1.0), correct)


def check_rows(audit: Audit, log: FieldLog) -> None:
    """Radii that are none, abstentions with a radius, and a `correct` that says something else than its row."""
    for note in log.notes:
        audit.warn(note)
    checks = {
        "the radius is NaN or infinite": ~np.isfinite(log.radius),
        "the radius is negative": log.radius < 0,
        "an abstention has a radius": (log.predict == ABSTAIN) & (log.radius != 0) & ~np.isnan(log.radius),
    }
    for what, wrong in checks.items():
        if wrong.any():
            audit.differs(f"{what} in {int(wrong.sum()):,} rows: {rows_text(log.index[wrong])}")
    _check_correct(audit, log)


def check_indices(audit: Audit, log: FieldLog, total: int | None = None) -> None:
    """Duplicates, unequal spacing, and whether the list ends where its spacing would go on.

    Args:
        audit: takes the findings.
        log: the rows.
        total: how many examples the split has, when it is known: an early end is then certain.
    """
    values, count = np.unique(log.index, return_counts=True)
    if (count > 1).any():
        twice = int((count > 1).sum())
        audit.differs(f"{twice:,} indices stand there more than once: {rows_text(values[count > 1])}")
    if (np.diff(log.index) < 0).any():
        audit.warn("the indices do not ascend")
    if total is not None and values[-1] >= total:
        audit.differs(f"index {values[-1]} in a split of {total:,} examples")
        return
    gaps = np.diff(values)
    if len(gaps) < 2:
        return
    spacings, often = np.unique(gaps, return_counts=True)
    step = int(spacings[often.argmax()])
    uneven = values[1:][gaps != step]
    if len(uneven):
        audit.warn(f"unequal index spacing: mostly {step}, another before {rows_text(uneven)}; rows missing?")
        return
    audit.same(f"index spacing: {step}, from {values[0]} to {values[-1]}, {len(values):,} examples")
    if values[0] != 0:
        audit.warn(f"the list starts at index {values[0]}: not the beginning of the split")
    for size in [total] if total is not None else [size for size in SPLITS if values[-1] < size][:1]:
        expected = math.ceil((size - int(values[0])) / step)
        if expected <= len(values):
            continue
        early = f"the list ends at index {values[-1]}: at a spacing of {step}, {size:,} would give {expected:,} rows"
        if total is not None:
            audit.differs(f"truncated: {early}, here are {len(values):,}")
        else:
            audit.warn(f"truncated? {early}, here are {len(values):,}; --total N says how many examples the split has")


def _check_correct(audit: Audit, log: FieldLog) -> None:
    right = log.predict == log.label
    if np.isin(log.correct, (0, 1)).all() and not is_counter(log.correct, right):
        wrong = log.correct.astype(bool) != right
        if wrong.any():
            audit.differs(
                f"`correct` contradicts predict = label in {int(wrong.sum()):,} rows: {rows_text(log.index[wrong])}; "
                "figures below use predict = label"
            )
        else:
            audit.same("`correct` is predict = label")
    elif is_counter(log.correct, right):
        audit.differs("`correct` is a cumulative counter, not 0 or 1 of each row; figures below use predict = label")
    else:
        other = ~np.isin(log.correct, (0, 1))
        audit.differs(
            f"`correct` is neither 0 nor 1 in {int(other.sum()):,} rows: {rows_text(log.index[other])}; figures below "
            "use predict = label"
        )


def is_counter(correct: NDArray[np.int64], right: NDArray[np.bool_]) -> bool:
    """Whether a column counts the right rows so far instead of marking each."""
    counted = np.cumsum(right)
    return bool((correct == counted).all() and not (correct == right).all())
