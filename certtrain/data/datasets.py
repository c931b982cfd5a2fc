"""Map-style datasets, loaders and tensors of other programs: their examples as ours, a position and a class each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certtrain.data.module import DataModule, Part
from certtrain.errors import UserError

TWICE = 16  # examples that are read twice: a random flip of each would go unnoticed once in 2^16
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # of images, and what they are read as


class FromDatasets(DataModule):
    """Two map-style datasets, `dataset[i]` an input and its class, read once into memory.

    Inputs are tensors, arrays or images: 8-bit ones are divided by 255 (arrays (H, W, C), images of torchvision's
    datasets without a transform), floating ones must lie in [0, 1]. A certificate is about one input, so a dataset that
    answers the same position differently, by random transforms, is refused; `augment` has ours.

    Args:
        data_dir: not read here; the datasets have arguments of their own.
        train: the training part.
        test: the test part.
        name: of the data set, in certificates; None: the name of the training part's class.
        num_classes: K; None: one more than the largest class of the training part.
        options: those of `DataModule`.

    Raises:
        UserError: examples that are none, of several shapes, random, outside [0, 1], or a class of the test part that
            the training part lacks.
    """

    def __init__(
        self,
        data_dir: str | Path = "data",
        *,
        train: Any,
        test: Any,
        name: str | None = None,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        for key, part in (("data.train", train), ("data.test", test)):
            if not hasattr(part, "__getitem__") or not hasattr(part, "__len__") or not len(part):
                raise UserError(
                    f"a {type(part).__name__} has no examples to ask for by position",
                    where=key,
                    fix="a map-style dataset: __len__, and __getitem__ that gives an input and its class",
                )
        self.name = name or type(train).__name__
        self._train, self._test = read_dataset(train, "data.train"), test
        self.input_shape = tuple(self._train[0].shape[1:])
        self.num_classes = int(self._train[1].max()) + 1 if num_classes is None else num_classes
        super().__init__(data_dir, **options)

    def load(self) -> tuple[Part, Part]:
        """Both parts as tensors."""
        return self._train, read_dataset(self._test, "data.test")


def read_dataset(dataset: Any, where: str) -> Part:
    """All examples of a map-style dataset.

    Args:
        dataset: `dataset[i]` is an input and its class.
        where: names it.

    Raises:
        UserError: an example that is none, shapes that differ, another answer to the same question.
    """
    found = [example(dataset[i], f"{where}, example {i}") for i in range(len(dataset))]
    for i in range(min(TWICE, len(found))):
        again = example(dataset[i], where)
        if not torch.equal(again[0], found[i][0]) or again[1] != found[i][1]:
            raise UserError(
                f"example {i} is another one each time it is asked for",
                where=where,
                fix="a dataset without random transforms; data.augment={crop_padding: 2, flip: true} has ours",
            )
    shape = found[0][0].shape
    if other := next((i for i, (x, _) in enumerate(found) if x.shape != shape), None):
        raise UserError(
            f"example 0 has shape {tuple(shape)}, example {other} {tuple(found[other][0].shape)}",
            where=where,
            fix="a transform that crops or resizes",
        )
    return torch.stack([x for x, _ in found]), torch.tensor([y for _, y in found])


def example(item: Any, where: str) -> tuple[Tensor, int]:
    """Input and class of what a dataset gives for a position; what comes after them is left.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) < 2:
        raise UserError(f"a {type(item).__name__}, not an input and its class", where=where, fix="(input, class)")
    return as_input(item[0], where), _class(item[1], where)


def as_input(value: Any, where: str) -> Tensor:
    """A tensor, array or image as float32: 8-bit numbers over 255, others as they are.

    Raises:
        UserError: whole numbers of other kinds, complex ones, images of other modes, or nothing of these.
    """
    mode = getattr(value, "mode", None)
    if isinstance(mode, str) and hasattr(value, "convert"):  # a PIL image
        if mode not in MODES:
            raise UserError(f"an image of mode {mode}", where=where, fix="a transform that gives 8 bits, grey or RGB")
        value = np.asarray(value.convert(MODES[mode]))
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8 and value.ndim in (2, 3):
            value = value[..., None] if value.ndim == 2 else value
            value = np.ascontiguousarray(value.transpose(2, 0, 1))
        value = torch.tensor(value) if value.dtype.kind in "fu" else value
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.dtype == torch.uint8):
        kind = getattr(value, "dtype", type(value).__name__)
        raise UserError(f"an input of type {kind}", where=where, fix="floating numbers in [0, 1], or 8-bit ones")
    return value.float() / 255 if value.dtype == torch.uint8 else value.float()


def _class(value: Any, where: str) -> int:
    try:
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, int) and not isinstance(number, bool):
            return number
    except (ValueError, RuntimeError):  # of several elements
        pass
    raise UserError(f"a class {value!r}", where=where, fix="a whole number from 0; of one-hot rows their argmax")
