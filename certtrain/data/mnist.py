"""MNIST and Fashion-MNIST: 28x28 grey images in ten classes, 60,000 for training and 10,000 for test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from certtrain.data.files import missing_files, require_files
from certtrain.data.module import DataModule, Part
from certtrain.errors import UserError

FILES: tuple[str, ...] = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class MNIST(DataModule):
    """MNIST (LeCun et al. 1998), read from `data_dir/MNIST/raw`, torchvision's layout.

    No normalisation by default: so do smoothing (Cohen et al. 2019 and after) and CROWN-IBP (Zhang et al. 2020, Shi et
    al. 2021). Gaussian-noise training, IBP and CROWN-IBP use no augmentation here.

    Args:
        download: fetch through torchvision what is missing.
        options: those of `DataModule`.
    """

    name = "mnist"
    input_shape = (1, 28, 28)
    num_classes = 10
    folder: ClassVar[str] = "MNIST"

    def __init__(self, data_dir: str | Path = "data", *, download: bool = True, **options: Any) -> None:
        super().__init__(data_dir, **options)
        self.download = download

    @property
    def raw(self) -> Path:
        """The folder of the four files."""
        return self.data_dir / self.folder / "raw"

    def prepare_data(self) -> None:
        """Download when files are missing.

        Raises:
            UserError: they are missing and cannot be fetched.
        """
        require_files(self.raw, FILES, data=self.name, download=self._fetch if self.download else None)

    def load(self) -> tuple[Part, Part]:
        """Both parts from their IDX files."""
        if missing_files(self.raw, FILES):
            self.prepare_data()
        images, labels, test_images, test_labels = (read_idx(self.raw / name) for name in FILES)
        return _part(images, labels), _part(test_images, test_labels)

    def _fetch(self) -> None:
        from torchvision import datasets

        getattr(datasets, self.folder)(str(self.data_dir), download=True)


class FashionMNIST(MNIST):
    """Fashion-MNIST (Xiao et al. 2017), read from `data_dir/FashionMNIST/raw`; otherwise as `MNIST`."""

    name = "fashion_mnist"
    folder = "FashionMNIST"


def read_idx(path: Path) -> Tensor:
    """An IDX file of unsigned bytes: uint8 tensor of the shape that its header states.

    The header is big-endian: two zero bytes, the type (8: unsigned byte), the number of dimensions, then each one's
    size in four bytes.

    Raises:
        UserError: not such a file, or one cut short.
    """
    data = np.fromfile(path, dtype=np.uint8)
    dims = int(data[3]) if len(data) >= 4 and tuple(data[:3]) == (0, 0, 8) else 0
    shape = tuple(data[4 : 4 + 4 * dims].view(">u4").tolist()) if len(data) >= 4 + 4 * dims else ()
    if not shape or len(data) != 4 + 4 * dims + int(np.prod(shape)):
        raise UserError(
            f"{path} is not a complete IDX file of unsigned bytes ({len(data)} bytes)",
            where="data_dir",
            fix="remove it, so that it is fetched again, or copy it again; it must be unpacked (no .gz)",
        )
    return torch.from_numpy(data[4 + 4 * dims :].reshape(shape))


def _part(images: Tensor, labels: Tensor) -> Part:
    return images[:, None].to(torch.float32).div_(255), labels.to(torch.int64)
