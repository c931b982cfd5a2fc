"""CIFAR-10 and CIFAR-100: 32x32 colour images in 10 or 100 classes, 50,000 for training and 10,000 for test."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from certtrain.data.files import missing_files, require_files
from certtrain.data.module import DataModule, Part
from certtrain.errors import UserError

TRAIN_FILES: tuple[str, ...] = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILES: tuple[str, ...] = ("test_batch",)


class CIFAR10(DataModule):
    """CIFAR-10 (Krizhevsky 2009), read from `data_dir/cifar-10-batches-py`, torchvision's layout.

    Normalisation by mean .4914/.4822/.4465 and std .2023/.1994/.2010, as in Cohen et al. (2019), Zhang et al. (2020)
    and Shi et al. (2021). Training images are padded with four zero pixels, cropped and mirrored, as in smoothing and
    CROWN-IBP; Shi et al. and their successors pad two pixels by the edge (`crop_padding: 2, fill: edge`).

    Args:
        download: fetch through torchvision what is missing.
        options: those of `DataModule`.
    """

    name = "cifar10"
    input_shape = (3, 32, 32)
    num_classes = 10
    default_mean = (0.4914, 0.4822, 0.4465)
    default_std = (0.2023, 0.1994, 0.2010)
    default_augment = {"crop_padding": 4, "fill": "zero", "flip": True}  # noqa: RUF012  # a constant of the class
    folder: ClassVar[str] = "cifar-10-batches-py"
    files: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (TRAIN_FILES, TEST_FILES)
    labels: ClassVar[str] = "labels"
    published: ClassVar[str] = "CIFAR10"

    def __init__(self, data_dir: str | Path = "data", *, download: bool = True, **options: Any) -> None:
        super().__init__(data_dir, **options)
        self.download = download

    @property
    def raw(self) -> Path:
        """The folder of the batch files."""
        return self.data_dir / self.folder

    def prepare_data(self) -> None:
        """Download when files are missing.

        Raises:
            UserError: they are missing and cannot be fetched.
        """
        names = [*self.files[0], *self.files[1]]
        require_files(self.raw, names, data=self.name, download=self._fetch if self.download else None)

    def load(self) -> tuple[Part, Part]:
        """Both parts from their batch files."""
        train, test = self.files
        if missing_files(self.raw, [*train, *test]):
            self.prepare_data()
        return self._part(train), self._part(test)

    def _part(self, names: tuple[str, ...]) -> Part:
        images, labels = zip(*(read_batch(self.raw / name, self.labels) for name in names))
        x = torch.from_numpy(np.concatenate(images)).to(torch.float32).div_(255)
        return x.view(-1, *self.input_shape), torch.from_numpy(np.concatenate(labels))

    def _fetch(self) -> None:
        from torchvision import datasets

        getattr(datasets, self.published)(str(self.data_dir), download=True)


class CIFAR100(CIFAR10):
    """CIFAR-100 (Krizhevsky 2009), its 100 fine classes, read from `data_dir/cifar-100-python`, torchvision's layout.

    Normalised by mean and standard deviation of the training images; augmented as CIFAR-10 is by default.
    """

    name = "cifar100"
    num_classes = 100
    default_mean = (0.5071, 0.4865, 0.4409)
    default_std = (0.2673, 0.2564, 0.2762)
    folder = "cifar-100-python"
    files = (("train",), ("test",))
    labels = "fine_labels"
    published = "CIFAR100"


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds NumPy arrays and nothing else: a data file must not be able to run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,
        }
        found = allowed.get((module.rpartition(".")[2], name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into a file of images")
        return found


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


def read_batch(path: Path, key: str = "labels") -> tuple[np.ndarray, np.ndarray]:
    """One batch file: (n, 3072) uint8 images, channel by channel, and (n,) int64 labels, which lie under a key.

    Raises:
        UserError: not such a file.
    """
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="latin1").load()
        images, labels = np.asarray(batch["data"]), np.asarray(batch[key], dtype=np.int64)
        if images.dtype != np.uint8 or images.shape != (len(labels), 3072):
            raise ValueError(f"{images.dtype} images of shape {images.shape} for {len(labels)} labels")
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is not a complete batch of CIFAR: {type(error).__name__}: {error}",
            where="data_dir",
            fix="remove it, so that it is fetched again, or copy it again (the python version of the data set)",
        ) from error
    return images, labels
