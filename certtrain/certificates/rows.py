"""Rows of certificates in memory, and the words for what can be said of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

ABSTAIN = -1
# What can be said about one example at one radius, in this precedence; the counts of a radius add up to n.
MISCLASSIFIED, VERIFIED, FALSIFIED = "misclassified", "verified", "falsified"
UNKNOWN, TIMEOUT, INVALID, ERROR = "unknown", "timeout", "invalid", "error"
STATUSES: tuple[str, ...] = (MISCLASSIFIED, VERIFIED, FALSIFIED, UNKNOWN, TIMEOUT, INVALID, ERROR)

HEADER: tuple[str, ...] = ("idx", "label", "predict", "radius", "correct", "time")


@dataclass
class Certificates:
    """Columns of certificates, one entry per example.

    Attributes:
        index: (n,) int64 positions in the split.
        label: (n,) int64 true classes.
        predict: (n,) int64 classes of the certified classifier; -1 = ABSTAIN.
        radius: (n,) float64 certified radii; 0 where it abstains or nothing was proved. A misclassified example may
            have a positive radius: its wrong prediction is certified.
        correct: (n,) bool, never true where the prediction is not the label.
        seconds: (n,) float64.
        columns: further columns by name: integers, floats or text. Smoothing: `n0 n count_top count_runner_up classes
            p_lower status`; bounds: `margin decided_by` and one `status@<radius>` per radius.

    Raises:
        ValueError: columns of unequal length, a radius that is negative, NaN or infinite, or a row that contradicts
            itself (abstains with a radius, correct with another class than the label).
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    predict: NDArray[np.int64]
    radius: NDArray[np.float64]
    correct: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in (("index", np.int64), ("label", np.int64), ("predict", np.int64)):
            setattr(self, name, np.asarray(getattr(self, name), dtype=kind))
        self.radius = np.asarray(self.radius, dtype=np.float64)
        self.correct = np.asarray(self.correct, dtype=bool)
        self.seconds = np.asarray(self.seconds, dtype=np.float64)
        self.columns = {name: _column(name, values) for name, values in self.columns.items()}
        for name, values in self._all():
            if values.shape != self.index.shape or values.ndim != 1:
                raise ValueError(f"column {name!r} has shape {values.shape}, index {self.index.shape}")
        if not (np.isfinite(self.radius) & (self.radius >= 0)).all():
            raise ValueError("a certified radius is finite and >= 0")
        if (self.correct & (self.predict != self.label)).any():
            raise ValueError("a row is correct although its prediction is not the label")
        if ((self.predict == ABSTAIN) & (self.radius > 0)).any():
            raise ValueError("a row abstains with a positive radius")

    def __len__(self) -> int:
        return len(self.index)

    def select(self, rows: NDArray[Any]) -> Certificates:
        """The rows of a mask or of positions (not of split indices), in that order."""
        main = [values[rows] for _, values in self._main()]
        return Certificates(*main, columns={name: values[rows] for name, values in self.columns.items()})

    def sorted(self) -> Certificates:
        """The rows in ascending order of index."""
        return self.select(np.argsort(self.index, kind="stable"))

    @staticmethod
    def concat(parts: Sequence[Certificates]) -> Certificates:
        """All rows of the parts, in their order. A text column that a part lacks is empty there.

        Raises:
            ValueError: no parts, or a part that has rows but lacks a column of numbers.
        """
        if not parts:
            raise ValueError("nothing to concatenate")
        parts = [part for part in parts if len(part)] or [parts[0]]
        names = dict.fromkeys(name for part in parts for name in part.columns)
        columns = {}
        for name in names:
            known = [part.columns[name] for part in parts if name in part.columns]
            if len(known) < len(parts) and any(values.dtype != object for values in known):
                raise ValueError(f"some certificates lack the column {name!r}")
            empty = [part.columns.get(name, np.full(len(part), "", dtype=object)) for part in parts]
            columns[name] = np.concatenate(empty)
        main = zip(*([values for _, values in part._main()] for part in parts))
        return Certificates(*(np.concatenate(values) for values in main), columns=columns)

    def lines(self, names: Iterable[str]) -> str:
        """The rows as tab separated text, the further columns in the given order; floats in full precision."""
        columns = [values for _, values in self._main()] + [self.columns[name] for name in names]
        texts = [[_text(value) for value in values.tolist()] for values in columns]
        return "".join("\t".join(row) + "\n" for row in zip(*texts))

    def _main(self) -> list[tuple[str, NDArray[Any]]]:
        names = ("index", "label", "predict", "radius", "correct", "seconds")
        return [(name, getattr(self, name)) for name in names]

    def _all(self) -> list[tuple[str, NDArray[Any]]]:
        return [*self._main(), *self.columns.items()]


def _column(name: str, values: Any) -> NDArray[Any]:
    if name in HEADER or not name or any(c in name for c in "\t\r\n"):
        raise ValueError(f"{name!r} cannot name a further column")
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    array = np.array([str(value) for value in array.tolist()], dtype=object)
    if any(c in value for value in array for c in "\t\r\n"):
        raise ValueError(f"a value of column {name!r} holds a tab or a line break")
    return array


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
