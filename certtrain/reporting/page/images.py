"""Inputs as pictures inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 96  # pixels a side that a picture keeps: a page of large ones would be large


@dataclass(frozen=True)
class Picture:
    """An image of the page: the base64 text of a PNG, what to say in place of it, its size in pixels, a caption."""

    png: str
    alternative: str
    width: int
    height: int
    caption: str = ""


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape can be drawn: (1 or 3, H, W)."""
    return len(shape) == 3 and shape[0] in (1, 3)


def picture(x: NDArray[Any], alternative: str, caption: str = "") -> Picture:
    """An input (1 or 3, H, W) in [0, 1] as an image; values outside are clipped."""
    return Picture(png(x), alternative, x.shape[2], x.shape[1], caption)


def difference(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """b - a around mid-grey, scaled so that the largest change is black or white."""
    change = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    largest = float(np.abs(change).max())
    return 0.5 + change / (2 * largest) if largest > 0 else np.full_like(change, 0.5)


def png(x: NDArray[Any]) -> str:
    """The base64 text of a PNG, shrunk where a side is longer than MOST."""
    from PIL import Image

    levels = np.round(255 * np.clip(np.nan_to_num(np.asarray(x, dtype=np.float64)), 0, 1)).astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1))
    if max(image.size) > MOST:
        image.thumbnail((MOST, MOST), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
