"""MNIST-C: the 10,000 test images of MNIST under one of 15 corruptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from certtrain.data.evaluation import EvaluationSet, images_and_labels, known, read_array
from certtrain.data.files import require_files
from certtrain.data.module import Part

FILES: tuple[str, ...] = ("test_images.npy", "test_labels.npy")
CORRUPTIONS: tuple[str, ...] = (
    "identity",
    "brightness",
    "canny_edges",
    "dotted_line",
    "fog",
    "glass_blur",
    "impulse_noise",
    "motion_blur",
    "rotate",
    "scale",
    "shear",
    "shot_noise",
    "spatter",
    "stripe",
    "translate",
    "zigzag",
)


class MNISTC(EvaluationSet):
    """MNIST-C (Mu and Gilmer 2019), read from `data_dir/mnist_c/<corruption>/test_images.npy` and `test_labels.npy`.

    Each corruption has one severity, the published one; `identity` is MNIST itself. Example i is test image i of
    MNIST. The files are those of `mnist_c.zip`, record 3239543 of Zenodo; they are not downloaded.

    Args:
        data_dir: folder that holds `mnist_c`.
        corruption: one of `CORRUPTIONS`.
        options: those of `DataModule`.

    Raises:
        UserError: an unknown corruption; in use, files that are missing or damaged.
    """

    input_shape = (1, 28, 28)
    num_classes = 10

    def __init__(self, data_dir: str | Path = "data", *, corruption: str, **options: Any) -> None:
        self.corruption = known(corruption, CORRUPTIONS)
        self.name = f"mnist_c_{corruption}"
        super().__init__(data_dir, **options)

    def load_test(self) -> Part:
        """The corrupted images and their classes."""
        folder = self.data_dir / "mnist_c" / self.corruption
        published = f"unpack mnist_c.zip (zenodo.org/records/3239543) into {self.data_dir}"
        require_files(folder, FILES, data=self.name, download=None, published=published)
        images, labels = (folder / name for name in FILES)
        y = read_array(labels, (None,))
        return images_and_labels(read_array(images, (len(y), 28, 28, 1)), y, images)
