"""What a table's columns are: their names, ranges and kinds, as data modules state them and checkpoints carry them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from certtrain.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Feature:
    """One input of a tabular network, scaled to [0, 1] by `(value - minimum) / width`.

    Attributes:
        name: of the feature; `colour=red` for one value of a column of words.
        minimum, maximum: of the training part (validation included), in the feature's own units.
        spread: its standard deviation there, in its own units.
        whole: whether all training values are whole numbers.
        one_hot: the column of words that it is one value of, else None.
    """

    name: str
    minimum: float
    maximum: float
    spread: float
    whole: bool = False
    one_hot: str | None = None

    @property
    def width(self) -> float:
        """What [0, 1] is wide in the feature's own units; 1 for a constant one."""
        return self.maximum - self.minimum if self.maximum > self.minimum else 1.0

    def own(self, value: float) -> float:
        """A value of [0, 1] in the feature's own units."""
        return self.minimum + value * self.width


def describe_features(names: Sequence[str], train: Tensor, one_hot: Mapping[str, str] | None = None) -> list[Feature]:
    """The features of a training part, from its unscaled values.

    Args:
        names: of the d columns.
        train: (n, d) in their own units.
        one_hot: by name, the column of words of those that are one value of it.
    """
    values = train.double()
    low, high = values.aminmax(dim=0)
    spread = values.std(dim=0, correction=0)
    whole = (values == values.round()).all(0)
    columns = zip(names, low.tolist(), high.tolist(), spread.tolist(), whole.tolist(), strict=True)
    return [Feature(name, *numbers, one_hot=(one_hot or {}).get(name)) for name, *numbers in columns]


def features_to_list(features: Sequence[Feature]) -> list[dict[str, Any]]:
    """Plain values, which JSON and `torch.load(weights_only=True)` take."""
    return [asdict(feature) for feature in features]


def features_from_list(values: Sequence[Mapping[str, Any]]) -> tuple[Feature, ...]:
    """The inverse of `features_to_list`.

    Raises:
        UserError: a field is missing or unknown.
    """
    try:
        return tuple(Feature(**value) for value in values)
    except TypeError as error:
        names = ", ".join(field.name for field in fields(Feature))
        raise UserError(
            f"a feature has other fields than {names}", where="input contract", fix="use a file that this program wrote"
        ) from error
