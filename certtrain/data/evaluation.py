"""The base of data sets to certify on and not to train on, such as corrupted test images."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import NoReturn
from zipfile import BadZipFile

import numpy as np
import torch

from certtrain.data.module import DataModule, Part
from certtrain.data.split import Split, check_examples, index_sha256
from certtrain.errors import UserError, nearest

SEVERITIES = 5


class EvaluationSet(DataModule):
    """Test examples for a network that was trained on other data: `certtrain certify run=NAME data=...`.

    A subclass states what every `DataModule` does, and implements `load_test`. Its configuration leaves `mean` and
    `std` null: the normalisation is the network's, and `certify` fills in that of the run.

    Attributes (after `setup`):
        test: the examples; `train` and `val` hold none.
    """

    @abstractmethod
    def load_test(self) -> Part:
        """(x, y), x float32 in [0, 1] (or inputs made on demand), y int64."""

    def load(self) -> tuple[Part, Part]:
        """No training examples, and the test part."""
        nothing = torch.empty(0, *self.input_shape), torch.empty(0, dtype=torch.int64)
        return nothing, self.load_test()

    def setup(self, stage: str | None = None) -> None:
        """Load and check the test part; does nothing the second time."""
        if hasattr(self, "train"):
            return
        nothing, test = self.load()
        declared = {"input_shape": self.input_shape, "num_classes": self.num_classes}
        check_examples(*test, **declared, where="data", data=f"the test part of {self.name}")
        self.test, self.val = Split(*test, "test"), Split(*nothing, "val")
        self.certify_index = torch.arange(0)
        self.certify_index_sha256 = index_sha256(self.certify_index)
        self.train = Split(*nothing, "train")

    def _training_loader(self, device: str | None = None) -> NoReturn:
        raise UserError(
            f"{self.name} is a test set: there is nothing in it to train on",
            where="configuration key data",
            fix="train on other data; `certtrain certify run=NAME data=...` then certifies on this",
        )


def read_array(path: Path, shape: tuple[int | None, ...], rows: slice = slice(None)) -> np.ndarray:
    """Whole numbers of a `.npy` file, of which only the rows asked for are read. Nothing is unpickled.

    Args:
        path: of the file.
        shape: that the array must have; None for any size.
        rows: of its first axis.

    Raises:
        UserError: no such file, not a whole array of 8-bit or wider whole numbers, or another shape.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu":
            raise ValueError(f"{getattr(found, 'dtype', 'several arrays')} instead of whole numbers")
        if len(found.shape) != len(shape) or any(size not in (None, n) for size, n in zip(shape, found.shape)):
            wanted = ", ".join("n" if size is None else str(size) for size in shape)
            raise ValueError(f"shape {found.shape} instead of ({wanted})")
        return np.array(found[rows])
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path} is not an array as published: {error}",
            where="data_dir",
            fix="copy the file again",
        ) from error


def images_and_labels(images: np.ndarray, labels: np.ndarray, path: Path) -> Part:
    """8-bit images (n, H, W, C) and classes (n,) as inputs (n, C, H, W) in [0, 1] and int64 classes.

    Raises:
        UserError: images of more than 8 bits a value; names the file.
    """
    if images.dtype != np.uint8:
        raise UserError(f"{path} holds {images.dtype} images", where="data_dir", fix="8 bits a value, as published")
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32).div_(255).contiguous()
    return x, torch.from_numpy(labels.astype(np.int64))


def known(corruption: str, names: tuple[str, ...]) -> str:
    """A published corruption.

    Raises:
        UserError: another name; corruptions of certtrain's own are a data set of their own.
    """
    if corruption not in names:
        raise UserError(
            f"unknown corruption {corruption!r}",
            where="data.corruption",
            fix=f"{nearest(str(corruption), names)}; data=corrupted has corruptions that need no files",
        )
    return corruption


def one_to_five(severity: int) -> int:
    """A severity.

    Raises:
        UserError: not a whole number from 1 to 5.
    """
    if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= SEVERITIES:
        raise UserError(f"severity = {severity!r}", where="data.severity", fix="a whole number from 1 to 5")
    return severity
