"""A folder of image files with one folder per class, for data that do not fit into memory."""

from __future__ import annotations

import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import torch

from certtrain.data.augment import Augment
from certtrain.data.batch import Batch
from certtrain.data.image_files import FileAugment, ImageFiles
from certtrain.data.loader import TensorLoader
from certtrain.data.module import DataModule, Part, whole
from certtrain.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TEST_FOLDERS = ("test", "val")


class ImageLoader(TensorLoader):
    """A `TensorLoader` that decodes the next batch while this one is used; which batches come is the same."""

    _ahead: tuple[tuple[int, int], Future[Batch]] | None = None
    _thread: ThreadPoolExecutor | None = None

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        if self._ahead is not None and not self._ahead[1].cancel():
            self._ahead[1].exception()  # it reads the place that changes now: wait for its end
        self._ahead = None
        super().set_epoch(epoch)

    def batch(self, position: int) -> Batch:
        """The batch at a position of the epoch; the one after it is begun."""
        assemble, ahead = super().batch, self._ahead
        found = ahead[1].result() if ahead and ahead[0] == (self.epoch, position) else assemble(position)
        self._ahead = None
        if position + 1 < self._end:
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="batch")
            self._ahead = (self.epoch, position + 1), self._thread.submit(assemble, position + 1)
        return found


class ImageFolder(DataModule):
    """Images under `data_dir/folder/train/<class>/` and `.../test/<class>/` (or `val`), read from disk batch by batch.

    Classes are numbered in the order of their folders' sorted names, and images in the order of classes, then of names
    within subfolders: torchvision's `ImageFolder` gives the same numbers, so `indices=every_100th` of ImageNet's `val`
    are the 500 images of Cohen et al. (2019). A file is decoded to 8-bit RGB, resized and cut (`ImageFiles`), and
    divided by 255; grey images get three equal channels.

    Args:
        name: of the data set, in certificates and messages.
        folder: below `data_dir`; None for `data_dir` itself.
        num_classes: K, checked; None to count the folders.
        image_size: pixels on each side of what the network sees.
        resize: length of the shorter side before the crop; None: files are large enough and taken as they are.
        test_folder: name of the test part's folder; None for `test`, and `val` where there is no `test`.
        options: those of `DataModule`; `augment` takes those of `FileAugment`.

    Attributes (after `setup`):
        class_names: the K folder names.

    Raises:
        UserError: no such folder, no classes, a class without training images, other classes in the test part or
            another number of them than stated; in use, an image that cannot be read.
    """

    default_augment = {"crop": "random", "crop_padding": 0, "fill": "zero", "flip": True}  # noqa: RUF012  # a constant
    augment_type: ClassVar[type[Augment]] = FileAugment
    loader_type: ClassVar[type[TensorLoader]] = ImageLoader
    class_names: list[str]

    def __init__(
        self,
        data_dir: str | Path = "data",
        *,
        name: str = "image_folder",
        folder: str | None = "images",
        num_classes: int | None = None,
        image_size: int = 64,
        resize: int | None = None,
        test_folder: str | None = None,
        **options: Any,
    ) -> None:
        self.name, self.image_size, self.resize = name, whole("image_size", image_size, 1), resize
        self.input_shape = (3, image_size, image_size)
        if resize is not None and whole("resize", resize, 1) < image_size:
            raise UserError(
                f"a shorter side of resize = {resize} pixels holds no crop of image_size = {image_size}",
                where="data.resize",
                fix=f"data.resize={image_size} or more",
            )
        super().__init__(data_dir, **options)
        self.folder, self.test_folder = folder, test_folder
        self.root = self.data_dir / folder if folder else self.data_dir
        self._stated = None if num_classes is None else whole("num_classes", num_classes, 2)

    @property
    def num_classes(self) -> int:  # type: ignore[override]  # known only by looking, unless stated
        """K."""
        return self._stated or len(class_folders(self.root / "train"))

    def load(self) -> tuple[Part, Part]:
        """Both parts: file names and labels; nothing is decoded."""
        folders = self.root / "train", self._test_root()
        train, test = (self.files(folder) for folder in folders)
        self.class_names, others = list(train), list(test)
        if self._stated not in (None, len(self.class_names)):
            raise UserError(
                f"{folders[0]} holds {len(self.class_names)} classes, not {self._stated}",
                where="data.num_classes",
                fix=f"data.num_classes={len(self.class_names)}, or null to count them",
            )
        if others != self.class_names:
            lacking, extra = sorted({*self.class_names} - {*others}), sorted({*others} - {*self.class_names})
            raise UserError(
                f"{folders[1]} has other classes than {folders[0]}: {len(lacking)} missing{_some(lacking)}, "
                f"{len(extra)} of its own{_some(extra)}",
                where="data_dir",
                fix="sort the images of both parts into folders of the same names",
            )
        for class_name, found in train.items():
            if not found:
                raise UserError(
                    f"the class folder {folders[0] / class_name} holds no images",
                    where="data_dir",
                    fix=f"put images there ({', '.join(SUFFIXES)}), or remove the folder in both parts",
                )
        return self._part(folders[0], train), self._part(folders[1], test)

    def files(self, folder: Path) -> dict[str, list[str]]:
        """The image files of each class of a part, relative to its folder; classes in the order of their numbers."""
        return {class_name: image_names(folder, class_name) for class_name in class_folders(folder)}

    def _test_root(self) -> Path:
        names = TEST_FOLDERS if self.test_folder is None else (self.test_folder,)
        found = [self.root / name for name in names if (self.root / name).is_dir()]
        if not found:
            raise UserError(
                f"{self.name} has no test part: there is no {' and no '.join(str(self.root / n) for n in names)}",
                where="data_dir, data.folder, data.test_folder",
                fix=f"put test images into {self.root / names[0]}/<class>/",
            )
        if len(found) > 1:
            log.info("%s: %s is the test part; %s is not used (see val_size)", self.name, found[0], found[1])
        return found[0]

    def _part(self, folder: Path, files: dict[str, list[str]]) -> Part:
        names = [name for found in files.values() for name in found]
        labels = [label for label, found in enumerate(files.values()) for _ in found]
        return ImageFiles(folder, names, self.image_size, self.resize), torch.tensor(labels, dtype=torch.int64)


def class_folders(folder: Path) -> list[str]:
    """The sorted names of the class folders.

    Raises:
        UserError: no such folder, or fewer than two classes in it.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder.absolute()}",
            where="data_dir, data.folder",
            fix="data_dir=FOLDER data.folder=NAME, with FOLDER/NAME/train/<class>/ and FOLDER/NAME/test/<class>/",
        )
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise UserError(
            f"{folder} holds {len(names)} class folders",
            where="data_dir, data.folder",
            fix=f"one folder per class, two or more: {folder}/<class>/*.png",
        )
    return names


def image_names(folder: Path, class_name: str) -> list[str]:
    """The image files of a class, relative to `folder`: subfolder by subfolder, each in the order of the names."""
    names = []
    for place, _, files in sorted(os.walk(folder / class_name, followlinks=True)):
        below = os.path.relpath(place, folder)
        names += [
            os.path.join(below, name)
            for name in sorted(files)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return names


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
