"""One row of a table, in its own units: read for `predict`, and the changes that a certificate allows told in them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from certtrain.errors import UserError, nearest
from certtrain.threat.features import Feature
from certtrain.threat.scales import Scales

if TYPE_CHECKING:
    from torch import Tensor


def read_row(path: Path, features: Sequence[Feature] | None) -> Tensor:
    """(1, d) float32 in [0, 1] from a CSV file with a header and one row, scaled as the training part was.

    Columns of words hold the word; columns that the network does not know are passed over.

    Raises:
        UserError: the network's features are not known, a column is missing, another number of rows, a value that is no
            number, outside the training part's range, or a word that the training part has not.
    """
    import torch

    from certtrain.data.csv_table import read_table

    where = f"input={path}"
    if features is None:
        raise UserError(
            "the checkpoint does not say how a row's values become inputs", where=where, fix="a .npy array in [0, 1]"
        )
    rows = read_table(path, where, "input=PATH of a CSV file with a header and one row")
    count = len(next(iter(rows.values())))
    if count != 1:
        raise UserError(f"{path} has {count} rows", where=where, fix="a header and one row; certify takes whole splits")
    return torch.tensor([[_scaled(path, rows, feature, features) for feature in features]])


def _scaled(path: Path, rows: dict[str, list[str]], feature: Feature, features: Sequence[Feature]) -> float:
    column, where = feature.one_hot or feature.name, f"input={path}"
    if column not in rows:
        raise UserError(f"{path} has no column {column!r}", where=where, fix=nearest(column, rows))
    cell = rows[column][0]
    if feature.one_hot:
        words = [other.name.removeprefix(f"{column}=") for other in features if other.one_hot == column]
        if cell not in words:
            raise UserError(f"{path}, {column!r}: no training row has {cell!r}", where=where, fix=nearest(cell, words))
        return float(feature.name == f"{column}={cell}")
    try:
        value = (float(cell) - feature.minimum) / feature.width
    except ValueError:
        raise UserError(f"{path}, {column!r}: {cell!r} is no number", where=where, fix="a number") from None
    if not 0 <= value <= 1:
        raise UserError(
            f"{path}, {column!r}: {cell} is outside {feature.minimum:g} to {feature.maximum:g} of the training part",
            where=where,
            fix="a certificate holds within the range that the network was trained on",
        )
    return value


def allowed_changes(x: Tensor, radius: Fraction, scales: Scales, features: Sequence[Feature]) -> list[str]:
    """A line for each feature that may change, `mean radius  17.99 ± 0.5`, and one that names those that may not.

    Changes are rounded down; values end where the training part's range does.
    """
    from certtrain.reporting.entries import floored

    lines, wide = [], max(len(feature.name) for feature in features)
    for feature, value, size, whole in zip(features, x.flatten().tolist(), scales.values, scales.whole):
        if size:
            change = float(radius * size) * feature.width
            told = (
                f"{int(change * (1 + 1e-9))} (whole numbers)" if whole else floored(change, 6).rstrip("0").rstrip(".")
            )
            lines.append(f"  {feature.name:<{wide}}  {feature.own(value):.6g} ± {told}")
    for column, places in scales.groups:
        words = [features[place].name.removeprefix(f"{column}=") for place in places]
        lines.append(f"  {column:<{wide}}  any of {', '.join(words)}")
    if scales.immutable:
        lines.append(f"  unchanged: {', '.join(scales.immutable)}")
    return lines
