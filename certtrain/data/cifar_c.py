"""CIFAR-10-C: the 10,000 test images of CIFAR-10 under one of 19 corruptions at one of five severities."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from certtrain.data.evaluation import (
    SEVERITIES,
    EvaluationSet,
    images_and_labels,
    known,
    one_to_five,
    read_array,
)
from certtrain.data.files import require_files
from certtrain.data.module import Part

CORRUPTIONS: tuple[str, ...] = (
    "brightness",
    "contrast",
    "defocus_blur",
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_blur",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "jpeg_compression",
    "motion_blur",
    "pixelate",
    "saturate",
    "shot_noise",
    "snow",
    "spatter",
    "speckle_noise",
    "zoom_blur",
)


class CIFAR10C(EvaluationSet):
    """CIFAR-10-C (Hendrycks and Dietterich 2019), read from `data_dir/CIFAR-10-C/<corruption>.npy` and `labels.npy`.

    A file holds the 10,000 test images at severity 1, then at severity 2, up to 5; only those of one severity are
    read. Example i is test image i of CIFAR-10. The files are those of `CIFAR-10-C.tar`, record 2535967 of Zenodo;
    they are not downloaded.

    Args:
        data_dir: folder that holds `CIFAR-10-C`.
        corruption: one of `CORRUPTIONS`; the benchmark's 15 and the four extra ones.
        severity: 1 to 5.
        options: those of `DataModule`.

    Raises:
        UserError: an unknown corruption or severity; in use, files that are missing or damaged.
    """

    input_shape = (3, 32, 32)
    num_classes = 10
    images: ClassVar[int] = 10_000  # at each severity

    def __init__(self, data_dir: str | Path = "data", *, corruption: str, severity: int = 1, **options: Any) -> None:
        self.corruption, self.severity = known(corruption, CORRUPTIONS), one_to_five(severity)
        self.name = f"cifar10_c_{corruption}_{severity}"
        super().__init__(data_dir, **options)

    def load_test(self) -> Part:
        """The corrupted images and their classes."""
        folder, names = self.data_dir / "CIFAR-10-C", (f"{self.corruption}.npy", "labels.npy")
        published = f"unpack CIFAR-10-C.tar (zenodo.org/records/2535967) into {self.data_dir}"
        require_files(folder, names, data=self.name, download=None, published=published)
        images, labels = (folder / name for name in names)
        rows = slice((self.severity - 1) * self.images, self.severity * self.images)
        n = SEVERITIES * self.images
        return images_and_labels(read_array(images, (n, 32, 32, 3), rows), read_array(labels, (n,), rows), images)
