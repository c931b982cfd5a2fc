"""The one reader of image files: what a training refuses or changes, `predict` refuses or changes likewise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from certtrain.errors import UserError

# Pillow would also open formats whose reading runs programs (EPS by Ghostscript).
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
MOST_PIXELS = 2**26  # of a file of some kilobytes that decodes to gigabytes; a photograph of 8,192 x 8,192


def read_image(
    path: str | Path,
    *,
    where: str,
    mode: Literal["RGB", "L"] = "RGB",
    size: tuple[int, int] | None = None,
    change: Callable[[Image.Image], Image.Image] = lambda image: image,
) -> np.ndarray:
    """The 8-bit pixels of an image file, (H, W, 3), or (H, W) grey.

    Converted by Pillow, as torchvision does it: an alpha channel is dropped, a palette and CMYK become colours, the
    orientation in EXIF is not applied, and of several frames the first is taken. All that the header says is looked at
    before anything is decoded.

    Args:
        path: of the file.
        where: names the setting that it comes from.
        mode: `RGB`, or `L` for grey.
        size: (width, height) that it must have.
        change: applied before the pixels are taken, such as a resize.

    Raises:
        UserError: not a readable image of 8 bits a value, too many pixels, or another size; names the file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_header(image, path, where, size)
            return np.asarray(change(image.convert(mode)))
    except UserError as error:
        raise UserError(f"{path}: {error.what}", where=error.where, fix=error.fix) from None
    except Exception as error:  # a decoder raises whatever a broken file leads it to
        raise UserError(
            f"{path} cannot be read as an image: {error}",
            where=where,
            fix="remove the file, or put a good copy into its place",
        ) from error


def _check_header(image: Image.Image, path: str | Path, where: str, size: tuple[int, int] | None) -> None:
    width, height = image.size
    if size is not None and image.size != size:
        raise UserError(
            f"an image of {width} x {height} pixels, and the network takes {size[0]} x {size[1]}",
            where=where,
            fix="resize the image first: the certificate would not hold for what a resize did to it",
        )
    if width * height > MOST_PIXELS:
        raise UserError(
            f"an image of {width} x {height} pixels, more than {MOST_PIXELS:,}", where=where, fix="make it smaller"
        )
    if _is_wide(image):
        raise UserError(
            f"{image.format} of mode {image.mode} has more than 8 bits a value",
            where=where,
            fix="an image of 8 bits a value: which of more bits count is not for a reader to choose",
        )


def _is_wide(image: Image.Image) -> bool:
    if image.mode == "F" or image.mode.startswith("I"):
        return True
    # Pillow halves 16-bit colours without a word: only how the data are laid out in the file tells.
    layout = [one for tile in image.tile for one in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    return any(";16" in one if isinstance(one, str) else image.format == "PPM" and one > 255 for one in layout)
