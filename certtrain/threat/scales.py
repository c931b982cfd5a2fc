"""Per-feature sizes of an l-inf ball: the box `|x'_i - x_i| <= r w_i` of a table's features, w_i >= 0 exact.

The radius r stays one number: at r = 1 every feature may change by what was asked for, at r = 1/2 by half of that, all
of them at once. w_i = 0 is an immutable feature, whose coordinate is exact in every box: its value, and so the float32
number that the network sees, is the same for every admissible input, and no rounding has to be covered.

Features whose changes are whole numbers keep a real box for proofs, which holds every whole number of it (sound);
attacks move them by whole numbers only, so that a counterexample is one.

Columns of words, coded as one 1 among zeros, may be let take any of their categories, whatever the radius: the set is
then the union of a box for each combination (`ThreatModel.parts`), each to be proved.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from certtrain.radii import float_up, parse_radius, radius_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# A radius that is too small by this share still reaches the whole number that it reaches exactly.
WHOLE_SLACK = 2.0**-44
# How far the float32 image of a value in [0, 1] may lie from it: what is further from a whole number is none. With the
# image of the next whole number that is `threat.OUTWARD` at most: an attack never leaves the box that proofs cover.
IMAGE = 2.0**-25 * (1 + 2.0**-20)


@dataclass(frozen=True)
class Scales:
    """The sizes w_i of a ball of radius 1, in shares of the input range [0, 1].

    Attributes:
        names: (d) of the features, in the order of the inputs.
        values: (d) w_i.
        whole: (d) of a feature that changes by whole numbers only, how many of them its range holds; else 0.
        name: of the threat model, for cards and tables.
        groups: columns that may take any category: the column, and where its values stand among the inputs.
    """

    names: tuple[str, ...]
    values: tuple[Fraction, ...]
    whole: tuple[int, ...]
    name: str = "scaled"
    groups: tuple[tuple[str, tuple[int, ...]], ...] = ()
    # The sizes to nearest, and rounded up; and these scales without categories.
    _rounded: tuple[tuple[float, ...], tuple[float, ...]] = field(init=False, repr=False, compare=False)
    _fixed: Scales | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.values) == len(self.whole) == len(set(self.names)):
            raise ValueError("one value and one count for each feature, each named once")
        if any(value < 0 for value in self.values) or not any(self.values):
            raise ValueError("scales are >= 0, and not all are 0")
        if any(self.values[place] for _, places in self.groups for place in places):
            raise ValueError("what takes any category has no size")
        # Asked for at every step of a training. Not functools.cached_property, whose lock in Python 3.11 torch.compile
        # cannot follow.
        object.__setattr__(self, "_rounded", (tuple(map(float, self.values)), tuple(map(float_up, self.values))))
        object.__setattr__(self, "_fixed", replace(self, groups=()) if self.groups else None)

    @cached_property
    def sha256(self) -> str:
        """Hash of names, sizes, whole numbers and categories; not of the threat model's name."""
        rows = [[*row] for row in zip(self.names, map(radius_text, self.values), self.whole)]
        text = json.dumps([*rows, *([[column, *places] for column, places in self.groups])])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def immutable(self) -> tuple[str, ...]:
        """The features that do not change."""
        free = {place for _, places in self.groups for place in places}
        return tuple(n for i, (n, value) in enumerate(zip(self.names, self.values)) if not value and i not in free)

    def fixed(self) -> Scales:
        """The same sizes, with every category as it is: those of one box."""
        return self._fixed or self

    def categories(self, x: Tensor) -> Iterator[Tensor]:
        """(B, ...) the inputs with every combination of the categories that they may take: first each row's own, then
        those that follow it in its columns. A row that holds none of a column's categories begins with the first."""
        import torch

        values = [x.flatten(1)[:, list(places)] for _, places in self.groups]
        own = [torch.where(_is_category(one)[:, None], one, _first(one)) for one in values]
        for turns in itertools.product(*(range(len(places)) for _, places in self.groups)):
            other = x.clone(memory_format=torch.contiguous_format)
            for (_, places), codes, turn in zip(self.groups, own, turns):
                other.view(len(x), -1)[:, list(places)] = codes.roll(turn, 1)
            yield other

    def holds_categories(self, x: Tensor) -> Tensor:
        """(B,) whether each column that may take any of its categories has one of them."""
        import torch

        columns = [_is_category(x.flatten(1)[:, list(places)]) for _, places in self.groups]
        return torch.stack(columns).all(0)

    @property
    def label(self) -> str:
        """Name and hash, short enough for a table: `measurement (1f0c9a2b)`."""
        return f"{self.name} ({self.sha256[:8]})"

    def to_dict(self) -> dict[str, Any]:
        """What stands in a certificate's settings."""
        whole = {name: count for name, count in zip(self.names, self.whole) if count}
        sizes = {name: radius_text(value) for name, value in zip(self.names, self.values)}
        groups = {column: [self.names[place] for place in places] for column, places in self.groups}
        stated = {"name": self.name, "sha256": self.sha256, "features": sizes, "whole": whole}
        return {**stated, "categories": groups} if groups else stated

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> Scales:
        """The inverse of `to_dict`; the hash is computed anew.

        Raises:
            KeyError, TypeError, ValueError, UserError: it states no scales.
        """
        features, whole = stated["features"], stated["whole"]
        values = tuple(parse_radius(value, where="scales") for value in features.values())
        counts = tuple(int(whole.get(name, 0)) for name in features)
        at = {name: place for place, name in enumerate(features)}
        free = dict(stated.get("categories", {}))
        groups = tuple((str(column), tuple(at[name] for name in names)) for column, names in free.items())
        return cls(tuple(features), values, counts, str(stated.get("name", "scaled")), groups)

    def tensor(self, x: Tensor, factor: Fraction | None = None, *, up: bool = False) -> Tensor:
        """(1, ...) w_i, or exactly `factor w_i`, shaped like one of the inputs x; rounded up or to nearest.

        Raises:
            ValueError: inputs of another size.
        """
        import torch

        if x[0].numel() != len(self.values):
            raise ValueError(f"{len(self.values)} scales for inputs of shape {tuple(x.shape[1:])}")
        if factor is None:
            numbers = self._rounded[up]
        else:
            numbers = tuple((float_up if up else float)(factor * value) for value in self.values)
        if torch.compiler.is_compiling():  # then it is a constant of what is compiled
            placed = _placed.__wrapped__(numbers, x.dtype, x.device, False)
        else:
            placed = _placed(numbers, x.dtype, x.device, torch.is_inference_mode_enabled())
        return placed.reshape(1, *x.shape[1:])

    def distance(self, offset: Tensor) -> Tensor:
        """(B,) the least radius whose set holds `x + offset`; infinite where an immutable feature changed.

        Whole numbers are counted as such: a value's rounding to float32 is no distance. Nor is another category.
        """
        import torch

        scale, counts = self.tensor(offset), self._counts(offset)
        size = torch.where(counts > 0, (offset.abs() * counts).round() / counts.clamp_min(1), offset.abs())
        changed = torch.where(size > 0, torch.inf, 0.0).to(size)
        for _, places in self.groups:
            changed.view(len(changed), -1)[:, list(places)] = 0
        return torch.where(scale > 0, size / scale.clamp_min(torch.finfo(size.dtype).tiny), changed).flatten(1).amax(1)

    def admissible(self, point: Tensor, x: Tensor, radius: Tensor) -> Tensor:
        """Points of the box with their whole-numbered features moved onto whole numbers, at most `radius` from x.

        Such a value is the float32 image of a whole number, as data modules scale it.

        Args:
            point: (B, ...) inside the box.
            x: (B, ...) its centre, whose values of these features are whole numbers.
            radius: (B or 1, ...) of the box.
        """
        import torch

        if not any(self.whole):
            return point
        counts, start = self._counts(x).double(), x.double()
        safe = counts.clamp_min(1)
        here, most = (start * safe).round(), (radius.double() * safe * (1 + WHOLE_SLACK)).floor()
        moved = ((point.double() - start) * safe).round().clamp(-most, most)
        number = (here + moved).clamp_min(0).minimum(safe)
        image = (number / safe).float().to(x.dtype)
        # What is no whole number itself, as a row that the training part knew nothing of may be, is left where it is.
        stays = (number == here) | ((start * safe - here).abs() > safe * IMAGE)
        return torch.where(counts > 0, torch.where(stays, x, image), point)

    def _counts(self, x: Tensor) -> Tensor:
        import torch

        return torch.tensor(self.whole, dtype=x.dtype, device=x.device).reshape(1, *x.shape[1:])


def _is_category(codes: Tensor) -> Tensor:
    """(B,) whether a row of (B, k) is one 1 among zeros."""
    return ((codes == 0) | (codes == 1)).all(1) & (codes.sum(1) == 1)


def _first(codes: Tensor) -> Tensor:
    """Shaped as (B, k) codes, the first category in each row."""
    first = codes.new_zeros(codes.shape)
    first[:, 0] = 1
    return first


@functools.lru_cache(maxsize=16)
def _placed(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device, inference: bool) -> Tensor:
    """On the device, where a training step would otherwise wait for them to arrive each time.

    Args:
        numbers, dtype, device: of the tensor.
        inference: whether this is inference mode, whose tensors autograd does not take.
    """
    import torch

    return torch.tensor(numbers, dtype=torch.float64, device=device).to(dtype)
