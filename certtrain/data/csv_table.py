"""A user's own table: a CSV file with a header, one column of classes, numbers in the others."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from certtrain.data.module import DataModule, Part
from certtrain.data.sklearn_sets import held_out, min_max
from certtrain.data.split import validation_count
from certtrain.errors import UserError, nearest
from certtrain.threat.features import describe_features

log = logging.getLogger(__name__)

# Of numbers: up to so many are classes without a word, and fewer rows for each are too few to learn one from.
FEW_CLASSES, ROWS_PER_CLASS = 10, 5
MISSING = ("na", "n/a", "null", "none", "?", "-")  # what programs write where a number is missing, beside nan


class CSVTable(DataModule):
    """Rows of a CSV file as vectors in [0, 1], for tabular classifiers.

    Each numeric column is scaled by the training part's (validation included) minimum and maximum, so that a radius is
    in units of each feature's range; test values beyond are clipped and counted in `clipped_values`. A column of words
    must be named: dropped, or turned into one column of 0 and 1 per value. A certificate then covers every point of the
    ball, also those between 0 and 1 that are no value at all: it is sound for rows, and stricter than it need be. With
    `scales` such a column must be immutable.

    Args:
        data_dir: folder of the files.
        file: CSV file with a header, below `data_dir`.
        label: the column of classes.
        test_file: CSV file with the test rows; None: `test_size` of `file`, the classes in proportion, the same for
            every seed.
        test_size: a fraction in (0, 1) or a count.
        one_hot: columns of words to turn into columns of 0 and 1.
        drop: columns to leave out.
        options: those of `DataModule`.

    Attributes:
        feature_names: the columns of the inputs; `colour=red` for one-hot ones.
        class_names: the values of the label column, sorted.

    Raises:
        UserError: no such file or column, a cell that is empty or no number, labels that are a quantity, a class or a
            word of the test rows that no training row has.
    """

    clipped_values: int

    def __init__(
        self,
        data_dir: str | Path = "data",
        *,
        file: str,
        label: str,
        test_file: str | None = None,
        test_size: float = 0.2,
        one_hot: Sequence[str] = (),
        drop: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.path = Path(data_dir) / file
        self.test_path = None if test_file is None else Path(data_dir) / test_file
        self.name, self.label, self.test_size = self.path.stem, label, test_size
        self.one_hot, self.drop = tuple(one_hot), tuple(drop)
        rows = read_table(self.path)
        named = {"data.label": [label], "data.one_hot": self.one_hot, "data.drop": self.drop}
        for where, columns in named.items():
            for column in columns:
                if column not in rows:
                    raise UserError(f"{self.path} has no column {column!r}", where=where, fix=nearest(column, rows))
        self._words = {column: sorted(set(rows[column])) for column in self.one_hot}
        self.class_names = sorted(set(rows[label]), key=_by_number)
        self.num_classes = len(self.class_names)
        _check_classes(self.path, label, self.class_names, len(rows[label]))
        self._columns = [name for name in rows if name != label and name not in self.drop]
        names = [[f"{c}={word}" for word in self._words[c]] if c in self._words else [c] for c in self._columns]
        self.feature_names = [name for group in names for name in group]
        if len(set(self.feature_names)) < len(self.feature_names):
            twice = next(name for name in self.feature_names if self.feature_names.count(name) > 1)
            raise UserError(
                f"{self.path} has two features named {twice!r}, of a column and of a value of another",
                where="data.one_hot",
                fix="rename a column, or data.drop it",
            )
        self.input_shape = (len(self.feature_names),)
        if not self.feature_names or self.num_classes < 2:
            raise UserError(
                f"{self.path} gives {len(self.feature_names)} features and {self.num_classes} classes",
                where="data.file, data.label, data.drop",
                fix="at least one feature and two classes",
            )
        self._rows = rows
        super().__init__(data_dir, **options)

    def load(self) -> tuple[Part, Part]:
        """Both parts, scaled to [0, 1]."""
        x, y = self._numbers(self.path, self._rows)
        if self.test_path is None:
            (train, y_train), (test, y_test) = held_out(x, y, validation_count(self.test_size, len(y)))
            if not len(y_test):
                raise UserError("there are no test rows", where="data.test_size", fix="data.test_size=0.2")
        else:
            rows = read_table(self.test_path)
            lacking = [name for name in (*self._columns, self.label) if name not in rows]
            if lacking:
                raise UserError(f"{self.test_path} has no column {lacking[0]!r}", where="data.test_file")
            train, y_train = x, y
            test, y_test = self._numbers(self.test_path, rows)
        words = {f"{column}={word}": column for column in self._words for word in self._words[column]}
        self.features = describe_features(self.feature_names, train, words)
        train, test, self.clipped_values = min_max(train, test)
        return (train, y_train), (test, y_test)

    def _numbers(self, path: Path, rows: dict[str, list[str]]) -> tuple[Tensor, Tensor]:
        classes = {name: position for position, name in enumerate(self.class_names)}
        columns = []
        for column in self._columns:
            if column in self._words:
                known = {word: position for position, word in enumerate(self._words[column])}
                places = torch.tensor([_known(path, column, n, cell, known) for n, cell in enumerate(rows[column])])
                columns.append(torch.nn.functional.one_hot(places, len(known)).double())
            else:
                numbers = [_number(path, column, n, cell) for n, cell in enumerate(rows[column])]
                columns.append(torch.tensor(numbers, dtype=torch.float64)[:, None])
        y = [_known(path, self.label, n, cell, classes) for n, cell in enumerate(rows[self.label])]
        return torch.cat(columns, dim=1), torch.tensor(y)


def read_table(
    path: Path, where: str = "data.file", fix: str = "data_dir=FOLDER data.file=NAME.csv"
) -> dict[str, list[str]]:
    """The cells of each column, stripped, by the column's name.

    Args:
        path: of the file.
        where: names the setting that it comes from.
        fix: how the file is named there.

    Raises:
        UserError: no such file, no header or rows, a name twice, a row of another length, an empty cell.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}", where=where, fix=fix) from error
    if len(lines) < 2:
        raise UserError(f"{path} holds no rows below a header", where=where, fix="the first line names the columns")
    header, *rows = lines
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"{path} has the column {twice!r} twice", where=where, fix="rename one")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}, row {number}: {len(row)} cells for {len(header)} columns", where=where)
        if "" in row:
            column = header[row.index("")]
            fix = "fill it" + (f", remove the row, or data.drop=[{column}]" if where == "data.file" else "")
            raise UserError(f"{path}, row {number}: the cell of {column!r} is empty", where=where, fix=fix)
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _number(path: Path, column: str, row: int, cell: str) -> float:
    number = _value(cell)
    if number is not None and math.isfinite(number):
        return number
    words = number is None and cell.lower() not in MISSING
    ways = f"data.one_hot=[{column}] where its values are words" if words else "fill it, or remove the row"
    _refuse(path, column, row, f"{cell!r} is no number", f"{ways}; or data.drop=[{column}]")


def _check_classes(path: Path, label: str, names: Sequence[str], rows: int) -> None:
    """Refuse a label column whose values are no classes; say so where they are many numbers and may be some."""
    numbers = [number for name in names if (number := _value(name)) is not None]
    if any(math.isnan(number) for number in numbers):
        raise UserError(f"{path}: labels of {label!r} are missing (nan)", where="data.label", fix="remove these rows")
    if len(numbers) < len(names) or len(names) <= FEW_CLASSES:
        return
    fractions = sum(not number.is_integer() for number in numbers)
    if fractions or rows < ROWS_PER_CLASS * len(names):
        kind = f"{fractions} of them no whole numbers" if fractions else f"for {rows} rows"
        raise UserError(
            f"{path}: {label!r} holds {len(names)} different numbers, {kind}: a quantity, not a column of classes",
            where="data.label",
            fix="another column; or a new one that cuts the quantity into classes, such as low, middle and high",
        )
    log.warning("%s: %r holds %d different whole numbers, and each becomes a class", path, label, len(names))


def _known(path: Path, column: str, row: int, cell: str, known: dict[str, int]) -> int:
    if cell in known:
        return known[cell]
    _refuse(path, column, row, f"no training row has {cell!r}", nearest(cell, list(known)))


def _refuse(path: Path, column: str, row: int, what: str, fix: str) -> NoReturn:
    raise UserError(f"{path}, row {row + 2}, column {column!r}: {what}", where="data.file", fix=fix)


def _by_number(text: str) -> tuple[int, float, str]:
    """Numbers in their order, before words."""
    number = _value(text)
    return (1, 0.0, text) if number is None else (0, number, text)


def _value(text: str) -> float | None:
    """The number that a cell says; None where it says a word."""
    try:
        return float(text)
    except ValueError:
        return None
