"""What a network expects of its inputs: carried by checkpoints, compared before anything is certified."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from certtrain.errors import UserError
from certtrain.models.invariance import count_logits
from certtrain.models.normalize import Normalize, normalises_by, normalising_layer
from certtrain.models.two_logits import TwoLogits
from certtrain.threat.features import Feature, features_from_list, features_to_list


class _Data(Protocol):
    input_shape: tuple[int, ...]
    num_classes: int
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class InputContract:
    """Shape, classes, normalisation and range of a network's inputs.

    Attributes:
        shape: of one example, (C, H, W) or (d,).
        num_classes: K.
        mean: the normalisation's, per channel or feature.
        std: likewise.
        lower: smallest input value.
        upper: largest input value.
        features: of a table, how its columns were scaled to [0, 1]; None: not known, or no table.
        class_names: of a table; None: not known.
    """

    shape: tuple[int, ...]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    lower: float = 0.0
    upper: float = 1.0
    features: tuple[Feature, ...] | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        for name in ("features", "class_names"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values * self.shape[0] if len(values) == 1 else values)

    @property
    def normalised(self) -> bool:
        """Whether mean and std change anything."""
        return any(self.mean) or any(value != 1 for value in self.std)

    @classmethod
    def of(cls, data: _Data) -> InputContract:
        """What a data module delivers."""
        features = getattr(data, "features", None)
        names = None if features is None else getattr(data, "class_names", None)
        shape, classes = tuple(data.input_shape), data.num_classes
        return cls(shape, classes, tuple(data.mean), tuple(data.std), features=features, class_names=names)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, which `torch.load(weights_only=True)` accepts; without what is not known."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return plain if self.features is None else {**plain, "features": features_to_list(self.features)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputContract:
        """The inverse of `to_dict`.

        Raises:
            UserError: a field is missing or unknown.
        """
        stated = values.get("features") if isinstance(values, Mapping) else None
        try:
            return cls(**values) if stated is None else cls(**{**values, "features": features_from_list(stated)})
        except (TypeError, ValueError, AttributeError) as error:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else values
            raise UserError(
                f"the input contract has other fields than {', '.join(cls.__dataclass_fields__)}: {found}",
                where="checkpoint",
                fix="use a checkpoint that this program wrote",
            ) from error

    def classifier(self, network: nn.Module) -> nn.Module:
        """The network, with `TwoLogits` behind it where it is one of two classes that gives a single logit.

        Raises:
            UserError: another number of logits than of classes, or a network that fails on inputs of the shape.
        """
        x = torch.linspace(self.lower, self.upper, 2 * math.prod(self.shape)).reshape(2, *self.shape)
        logits = count_logits(network, x, least=1)
        if logits == self.num_classes:
            return network
        if logits == 1 and self.num_classes == 2:
            return nn.Sequential(network, TwoLogits())
        raise UserError(
            f"the network gives {logits} logit{'s' if logits > 1 else ''} for {self.num_classes} classes",
            where="model, data",
            fix=f"a last layer of {self.num_classes} outputs"
            + (", or of one: class 1 where it is above 0" if self.num_classes == 2 else ""),
        )

    def check(self, x: Tensor, y: Tensor | None = None, *, this: str = "the network", that: str = "the batch") -> None:
        """Refuse inputs that the network was not made for.

        Args:
            x: (B, ...) inputs.
            y: (B,) classes, when there are any.
            this: names whose contract this is.
            that: names where the inputs come from.

        Raises:
            UserError: another shape, values outside the range or not finite, or labels outside the classes.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise _mismatch("inputs of shape", this, self.shape, that, tuple(x.shape[1:]))
        if x.numel():
            low, high = (float(value) for value in x.aminmax())
            if not (self.lower <= low and high <= self.upper):
                raise _mismatch("values in", this, (self.lower, self.upper), that, (low, high))
        if y is not None and y.numel():
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= self.num_classes:
                raise _mismatch("classes in", this, (0, self.num_classes - 1), that, (low, high))

    def check_same(self, other: InputContract, *, this: str = "the checkpoint", that: str = "the data") -> None:
        """Refuse data that differ from what the network was trained on.

        Raises:
            UserError: another shape, number of classes, normalisation or range; names both sides.
        """
        for what, mine, theirs in (
            ("inputs of shape", self.shape, other.shape),
            ("classes:", self.num_classes, other.num_classes),
            ("normalisation by mean", self.mean, other.mean),
            ("normalisation by std", self.std, other.std),
            ("values in", (self.lower, self.upper), (other.lower, other.upper)),
        ):
            if mine != theirs:
                raise _mismatch(what, this, mine, that, theirs)
        if self.features and other.features:
            for own, its in zip(self.features, other.features, strict=True):
                mine, theirs = ((f.name, f.minimum, f.maximum) for f in (own, its))
                if mine != theirs:
                    raise _mismatch("a feature scaled from name, minimum, maximum =", this, mine, that, theirs)

    def check_network(self, network: nn.Module, *, this: str = "the checkpoint", that: str = "the network") -> None:
        """Refuse a network whose normalisation is another one than the contract's.

        A normalising layer of another program may stand where the contract states none: then it is part of the network.

        Raises:
            UserError: no normalisation where one is stated, or another mean or std in float32; names both sides.
        """
        layer = normalising_layer(network)
        if not self.normalised and not isinstance(layer, Normalize):
            return
        if layer is None:
            raise UserError(
                f"{that} has no normalisation, {this} states mean {list(self.mean)}, std {list(self.std)}",
                where="model",
                fix="data.mean=[0] data.std=[1], or certtrain.models.Normalize as its first layer",
            )
        found = normalises_by(layer)
        assert found is not None
        for name, theirs in zip(("mean", "std"), found):
            mine = getattr(self, name)
            theirs = theirs * len(mine) if len(theirs) == 1 else theirs
            if torch.tensor(mine).tolist() != torch.tensor(theirs).tolist():
                fix = f"data.mean={found[0]} data.std={found[1]}, if that is how it was trained"
                raise _mismatch(f"normalisation by {name}", this, mine, that, theirs, fix)


def _mismatch(what: str, this: str, mine: object, that: str, theirs: object, fix: str | None = None) -> UserError:
    mine, theirs = (list(side) if isinstance(side, Sequence) else side for side in (mine, theirs))
    return UserError(
        f"{this} has {what} {mine}, but {that} has {theirs}",
        where="data, model",
        fix=fix or "use the data set, model and normalisation that the network was trained with",
    )
