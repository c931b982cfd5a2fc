"""TinyImageNet: 64x64 colour images in 200 classes, 100,000 for training and 10,000 for test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from certtrain.data.image_folder import ImageFolder, image_names
from certtrain.data.module import Part
from certtrain.errors import UserError

FOLDER = "tiny-imagenet-200"
ANNOTATIONS = "val_annotations.txt"


class TinyImageNet(ImageFolder):
    """TinyImageNet (Le and Yang 2015), read from `data_dir/tiny-imagenet-200` as `tiny-imagenet-200.zip` unpacks.

    The test part is the published validation part, as in every paper: the published test images have no labels. Its
    classes come from `val/val_annotations.txt`; a `val` that scripts of others have sorted into class folders is read,
    too, with the examples in the same order: by class, then by name, as torchvision's `ImageFolder` has them there.

    Preprocessing as in CTBench (Mao et al. 2025), CTRAIN, Shi et al. (2021) and De Palma et al. (2024): images as they
    are, in training crops of 64 after padding four pixels by the edge, mirrored. Xu et al. (2020) and Müller et al.
    (2023) crop 56 pixels: `image_size: 56` with `augment: {crop: random, crop_padding: 0, flip: true}`. Normalised by
    mean .4802/.4481/.3975 and std .2302/.2265/.2262 in all of them.

    There is no download: no checksum of the file is published.

    Args:
        data_dir: folder that holds `tiny-imagenet-200`.
        image_size: 64, or what is cut out.
        num_classes: K, checked.
        options: those of `DataModule`; `augment` takes those of `FileAugment`.

    Attributes (after `setup`):
        class_names: in words, from `words.txt`; the WordNet identifiers, whose order is that of the classes, without.

    Raises:
        UserError: files that are missing, or annotations that do not fit them.
    """

    default_mean = (0.4802, 0.4481, 0.3975)
    default_std = (0.2302, 0.2265, 0.2262)
    default_augment = {"crop": "random", "crop_padding": 4, "fill": "edge", "flip": True}  # noqa: RUF012  # a constant

    def __init__(
        self, data_dir: str | Path = "data", *, image_size: int = 64, num_classes: int = 200, **options: Any
    ) -> None:
        fixed = {"name": "tiny_imagenet", "folder": FOLDER, "test_folder": "val"}
        super().__init__(data_dir, image_size=image_size, num_classes=num_classes, **fixed, **options)

    def load(self) -> tuple[Part, Part]:
        """Both parts: file names and labels; nothing is decoded."""
        for part in ("train", "val"):
            if not (self.root / part).is_dir():
                raise UserError(
                    f"tiny_imagenet is not in {self.root.absolute()}: there is no folder {part}",
                    where="data_dir",
                    fix=f"unpack tiny-imagenet-200.zip (cs231n.stanford.edu/tiny-imagenet-200.zip) into "
                    f"{self.data_dir}, or set data_dir to the folder that has {FOLDER}",
                )
        parts = super().load()
        words = _table(self.root / "words.txt")
        self.class_names = [words.get(name, name).split(",")[0] for name in self.class_names]
        return parts

    def files(self, folder: Path) -> dict[str, list[str]]:
        """The image files of each class, relative to the folder: by the annotations where there are any."""
        classes = _table(folder / ANNOTATIONS)
        if not classes:
            return super().files(folder)
        places = {Path(name).name: name for name in image_names(folder, ".")}
        if missing := sorted(classes.keys() - places.keys()):
            raise UserError(
                f"{folder / ANNOTATIONS} names {len(missing)} images that are not below {folder}, such as {missing[0]}",
                where="data_dir",
                fix="unpack the file again",
            )
        found: dict[str, list[str]] = {class_name: [] for class_name in sorted(set(classes.values()))}
        for name in sorted(classes):
            found[classes[name]].append(places[name])
        return found


def _table(path: Path) -> dict[str, str]:
    """The first two columns of a file of the data set; empty where there is no such file.

    Raises:
        UserError: a line without two columns.
    """
    if not path.is_file():
        return {}
    try:
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {line[0]: line[1] for line in lines}
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{path} is not a table of two columns or more, separated by tabs",
            where="data_dir",
            fix="unpack the file again",
        ) from error
