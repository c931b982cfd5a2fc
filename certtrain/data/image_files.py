"""Images on disk, indexed like a tensor and decoded when they are asked for: ImageNet does not fit into memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from certtrain.data.augment import Augment
from certtrain.data.read_image import read_image
from certtrain.errors import UserError, nearest
from certtrain.randomness import uniforms

CROPS: tuple[str, ...] = ("center", "random", "resized")
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of a resized crop, as in torchvision
THREADS = min(16, os.cpu_count() or 1)

Change = Callable[[Image.Image], Image.Image]


class ImageFiles:
    """(n, 3, size, size) float32 inputs in [0, 1] that lie in image files.

    `files[index]` decodes the images at the positions of an int64 tensor, in several threads: the shorter side is
    resized to `resize` pixels (bilinear with antialiasing; None: left alone), the centre cut out, and the 8-bit values
    divided by 255. Memory holds the file names and what was asked for, nothing else.

    Args:
        root: folder that the names are relative to.
        names: n file names.
        size: pixels on each side.
        resize: length of the shorter side before the crop; None to take the file as it is.
        device: where the decoded tensors are wanted.

    Raises (when an image is asked for):
        UserError: a file that is no readable 8-bit image, or too small; named.
    """

    dtype = torch.float32

    def __init__(
        self, root: Path, names: Sequence[str], size: int, resize: int | None, device: torch.device | str = "cpu"
    ) -> None:
        self.root, self.names, self.size, self.resize = root, np.asarray(names, dtype=object), size, resize
        self.device = torch.device(device)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, 3, size, size)."""
        return len(self.names), 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self.views(index, [self.centre] * len(index))

    def to(self, device: torch.device | str) -> ImageFiles:
        """The same files, decoded to another device."""
        return ImageFiles(self.root, self.names, self.size, self.resize, device)

    def take(self, positions: Tensor) -> ImageFiles:
        """The files at some positions; nothing is decoded."""
        return ImageFiles(self.root, self.names[positions.cpu().numpy()], self.size, self.resize, self.device)

    def views(self, index: Tensor, changes: Sequence[Change]) -> Tensor:
        """(B, 3, size, size): each decoded image after its own change."""
        if not len(index):
            return torch.empty(0, *self.shape[1:], device=self.device)
        names = self.names[index.cpu().numpy()]
        pixels = list(_pool().map(self._pixels, names, changes))
        return torch.from_numpy(np.stack(pixels)).to(self.device).permute(0, 3, 1, 2).float().div_(255)

    def centre(self, image: Image.Image) -> Image.Image:
        """What is evaluated: the shorter side resized, the centre cut out."""
        image = shorter_side(image, self.resize)
        left, top = (round((side - self.size) / 2) for side in image.size)
        return cut(image, left, top, self.size)

    def _pixels(self, name: str, change: Change) -> np.ndarray:
        return read_image(self.root / name, where="data_dir", change=change)


@dataclass(frozen=True)
class FileAugment(Augment):
    """Random crop of the image in a file, then horizontal flip with probability 1/2; keyed by (seed, epoch, index).

    Args:
        crop: `center` cuts out what is evaluated; `random` cuts anywhere out of the image, its shorter side resized
            and each side padded as asked for (Shi et al. 2021 on TinyImageNet); `resized` stretches a part of 8 to 100
            percent of the area and an aspect of 3/4 to 4/3 to the whole, as torchvision's RandomResizedCrop (ImageNet).
        crop_padding: of `random`: pixels added on each side.
        fill: of `random`: `zero` or `edge`.
        flip: whether to mirror.

    Raises:
        UserError: an unknown crop, or a padding that the crop would not use.
    """

    crop: Literal["center", "random", "resized"] = "center"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop not in CROPS:
            raise UserError(
                f"unknown crop {self.crop!r}", where="data.augment.crop", fix=nearest(str(self.crop), CROPS)
            )
        if self.crop_padding and self.crop != "random":
            raise UserError(
                f"crop_padding = {self.crop_padding} means nothing to a {self.crop} crop",
                where="data.augment.crop_padding",
                fix="crop_padding: 0, or crop: random",
            )

    def __bool__(self) -> bool:
        return self.crop != "center" or bool(self.flip)

    def of_epoch(self, x: Tensor | ImageFiles, seed: int, epoch: int) -> Callable[[Tensor], Tensor]:
        """The augmented images (B, 3, size, size) of an epoch, by positions (B,) in the split."""
        assert isinstance(x, ImageFiles)

        def examples(index: Tensor) -> Tensor:
            rows = uniforms(seed, "augment", epoch, index.cpu(), 4 * TRIES + 1).tolist()
            return x.views(index, [self._change(x, row) for row in rows])

        return examples

    def _change(self, files: ImageFiles, u: Sequence[float]) -> Change:
        def change(image: Image.Image) -> Image.Image:
            if self.crop == "resized":
                image = image.crop(resized_box(*image.size, u)).resize((files.size,) * 2, Image.Resampling.BILINEAR)
            elif self.crop == "random":
                image = padded(shorter_side(image, files.resize), self.crop_padding, self.fill)
                left, top = (int(v * (side - files.size + 1)) for v, side in zip(u, image.size))
                image = cut(image, left, top, files.size)
            else:
                image = files.centre(image)
            mirror = self.flip and u[-1] < 0.5
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else image

        return change


def resized_box(width: int, height: int, u: Sequence[float]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a resized crop: the first of ten draws that fits, else the largest centred one.

    Args:
        width, height: of the image.
        u: 40 numbers in [0, 1): area, aspect, left and top of each draw.
    """
    low, high = (math.log(ratio) for ratio in RATIO)
    for at in range(0, 4 * TRIES, 4):
        area = width * height * (AREA[0] + u[at] * (AREA[1] - AREA[0]))
        aspect = math.exp(low + u[at + 1] * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(u[at + 2] * (width - w + 1)), int(u[at + 3] * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def shorter_side(image: Image.Image, length: int | None) -> Image.Image:
    """The image resized so that its shorter side has a length; None leaves it alone."""
    width, height = image.size
    if length is None or min(width, height) == length:
        return image
    size = (length, int(length * height / width)) if width <= height else (int(length * width / height), length)
    return image.resize(size, Image.Resampling.BILINEAR)


def padded(image: Image.Image, padding: int, fill: str) -> Image.Image:
    """The image with a border on each side, black or of its nearest pixels."""
    if not padding:
        return image
    border = ((padding, padding), (padding, padding), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), border, mode="edge" if fill == "edge" else "constant"))


def cut(image: Image.Image, left: int, top: int, size: int) -> Image.Image:
    """A square of an image.

    Raises:
        UserError: the image is smaller.
    """
    if min(image.size) < size:
        raise UserError(
            f"an image of {image.size[0]} x {image.size[1]} pixels is smaller than {size} x {size}",
            where="data.image_size",
            fix=f"data.resize={size} or more, or a smaller data.image_size",
        )
    return image.crop((left, top, left + size, top + size))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="decode")  # Pillow decodes without Python's lock
