"""Splits of a data set: tensors in memory or files on disk, checked once, cut and pinned reproducibly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from certtrain.errors import UserError
from certtrain.randomness import uniforms


class OnDemand(Protocol):
    """Inputs that are made when they are asked for, such as `ImageFiles`; like a tensor wherever a split is used."""

    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...), of all inputs."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Tensor:
        """(B, ...) float32 inputs in [0, 1] at the positions of a (B,) int64 tensor."""
        ...

    def to(self, device: torch.device | str) -> OnDemand:
        """The same, made on another device."""
        ...

    def take(self, positions: Tensor) -> OnDemand:
        """Those at some positions, still to be made."""
        ...


Inputs = Tensor | OnDemand


@dataclass(frozen=True)
class Split:
    """Examples, held in memory or made when they are asked for.

    Attributes:
        x: (n, C, H, W) or (n, d) float32 inputs in [0, 1]; `x[index]` gives those at int64 positions.
        y: (n,) int64 classes.
        name: `train`, `val` or `test`.
        source: (n,) int64 positions in the published part (training or test file) that the examples were taken from.
    """

    x: Inputs
    y: Tensor
    name: str
    source: Tensor = field(default=None)  # type: ignore[assignment]  # None: the examples are the whole published part

    def __post_init__(self) -> None:
        if self.source is None:
            object.__setattr__(self, "source", torch.arange(len(self.y)))

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> Split:
        """The same examples on a device; no copy when they are there already."""
        return Split(self.x.to(device), self.y.to(device), self.name, self.source)

    def take(self, positions: Tensor, name: str) -> Split:
        """The examples at some positions, as a split of its own."""
        x = self.x[positions] if isinstance(self.x, Tensor) else self.x.take(positions)
        return Split(x, self.y[positions], name, self.source[positions])


def check_examples(
    x: Inputs, y: Tensor, *, input_shape: Sequence[int], num_classes: int, where: str, data: str
) -> None:
    """Refuse examples that would silently spoil training or a certificate.

    Inputs made on demand are not looked at: what makes them answers for their values.

    Raises:
        UserError: another shape or type than declared, NaN or infinite values, values outside [0, 1], or labels that
            are not classes.
    """
    if tuple(x.shape[1:]) != tuple(input_shape) or x.dtype != torch.float32 or len(x) != len(y) or y.dim() != 1:
        raise UserError(
            f"{data} holds {x.dtype} inputs of shape {tuple(x.shape)} with labels of shape {tuple(y.shape)}, "
            f"not float32 inputs of shape (n, {', '.join(map(str, input_shape))}) with n labels",
            where=where,
        )
    if not len(x):
        raise UserError(f"{data} holds no examples", where=where)
    if isinstance(x, Tensor):
        _check_values(x, where, data)
    wrong = ((y < 0) | (y >= num_classes)).nonzero().flatten()
    if len(wrong) or y.dtype != torch.int64:
        first = f", first {int(y[wrong[0]])} at example {int(wrong[0])}" if len(wrong) else ""
        raise UserError(
            f"{data} has {len(wrong)} labels of type {y.dtype} outside the classes 0 .. {num_classes - 1}{first}",
            where=where,
            fix="labels are int64 class numbers from 0; check num_classes",
        )


def _check_values(x: Tensor, where: str, data: str) -> None:
    low, high = (float(value) for value in x.aminmax())  # NaN comes through both
    if not low - low == high - high == 0.0:
        bad = (~x.flatten(1).isfinite()).any(1).nonzero().flatten()
        raise UserError(
            f"{data} has NaN or infinite values in {len(bad)} of {len(x)} examples, first in number {int(bad[0])}",
            where=where,
            fix="remove or repair these examples: no certificate holds for them",
        )
    if low < 0 or high > 1:
        raise UserError(
            f"{data} has values in [{low:.6g}, {high:.6g}], outside the input range [0, 1]",
            where=where,
            fix="scale the inputs to [0, 1]; normalisation belongs to the network (mean, std)",
        )


def validation_count(val_size: float, n: int) -> int:
    """How many of n training examples are held out: a fraction in [0, 1) (rounded) or a count.

    Raises:
        UserError: no number, negative, a split that is empty although one was asked for, or nothing left to train on.
    """
    where = "data.val_size (val_size)"
    fix = "a fraction in [0, 1), or a count smaller than the training part; 0 for none"
    number = isinstance(val_size, (int, float)) and not isinstance(val_size, bool) and 0 <= val_size < float("inf")
    if not number or (val_size >= 1 and isinstance(val_size, float) and (val_size == 1 or not val_size.is_integer())):
        raise UserError(f"val_size = {val_size!r} is neither a fraction nor a count", where=where, fix=fix)
    count = round(val_size * n) if val_size < 1 else int(val_size)
    if val_size > 0 and count == 0:
        raise UserError(f"val_size = {val_size} of {n} examples is an empty validation split", where=where, fix=fix)
    if count >= n:
        raise UserError(f"val_size = {val_size} leaves nothing of {n} examples to train on", where=where, fix=fix)
    return count


def carve_validation(train: Split, count: int, split_seed: int) -> tuple[Split, Split]:
    """The training part cut in two by a seeded draw without replacement; both keep the published order."""
    if count == 0:
        return train, train.take(torch.arange(0), "val")
    held_out = torch.zeros(len(train), dtype=torch.bool)
    held_out[_shuffled(torch.arange(len(train)), split_seed, "validation split")[:count]] = True
    return train.take((~held_out).nonzero().flatten(), "train"), train.take(held_out.nonzero().flatten(), "val")


def stratified_positions(y: Tensor, count: int, seed: int) -> Tensor:
    """(n,) bool mask of `count` seeded examples with the classes in proportion (largest remainders first)."""
    exact = torch.bincount(y).double() * count / len(y)
    quota = exact.floor().long()
    quota[(exact - quota).argsort(descending=True, stable=True)[: count - int(quota.sum())]] += 1
    mask = torch.zeros(len(y), dtype=torch.bool)
    for label, size in enumerate(quota.tolist()):
        mask[_shuffled((y == label).nonzero().flatten(), seed, "test split")[:size]] = True
    return mask


def spread_positions(n: int, count: int) -> Tensor:
    """min(count, n) positions spread evenly over 0 .. n-1, the first one 0."""
    count = min(count, n)
    return torch.arange(count) * n // max(count, 1)


def index_text(index: Tensor) -> str:
    """The canonical text of an index list: one decimal number a line, each ended by a newline."""
    return "".join(f"{value}\n" for value in index.tolist())


def index_sha256(index: Tensor) -> str:
    """SHA-256 of `index_text`: `seq 0 9 | sha256sum` is that of the first ten."""
    return hashlib.sha256(index_text(index).encode()).hexdigest()


def _shuffled(positions: Tensor, seed: int, purpose: str) -> Tensor:
    return positions[uniforms(seed, purpose, 0, positions, 1).flatten().argsort(stable=True)]
