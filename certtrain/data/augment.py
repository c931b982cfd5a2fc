"""Random crop and horizontal flip for a whole batch at once, as a pure function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from certtrain.errors import UserError, nearest
from certtrain.randomness import uniforms

FILLS: tuple[str, ...] = ("zero", "edge")


@dataclass(frozen=True)
class Augment:
    """Random crop of a padded image, then horizontal flip with probability 1/2.

    Args:
        crop_padding: pixels added on each side before an image of the original size is cut out; 0 for no crop.
        fill: what the border is filled with: `zero` (Cohen et al. 2019) or `edge`, its nearest pixel (Shi et al. 2021).
        flip: whether to mirror.

    Every output pixel is a pixel of the image or 0: values stay in [0, 1].

    Raises:
        UserError: negative padding or an unknown fill.
    """

    crop_padding: int = 0
    fill: Literal["zero", "edge"] = "zero"
    flip: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.crop_padding, bool) or not isinstance(self.crop_padding, int) or self.crop_padding < 0:
            raise UserError(
                f"crop_padding = {self.crop_padding!r} is not a number of pixels",
                where="data.augment.crop_padding",
                fix="a whole number >= 0; 0 for no crop",
            )
        if self.fill not in FILLS:
            raise UserError(f"unknown fill {self.fill!r}", where="data.augment.fill", fix=f"one of {', '.join(FILLS)}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Augment:
        """From a mapping of options.

        Raises:
            UserError: an unknown option.
        """
        known = [item.name for item in fields(cls)]
        for option in options:
            if option not in known:
                raise UserError(
                    f"unknown augmentation {option!r}", where="data.augment", fix=nearest(str(option), known)
                )
        return cls(**options)

    def __bool__(self) -> bool:
        return self.crop_padding > 0 or bool(self.flip)

    def of_epoch(self, x: Tensor, seed: int, epoch: int) -> Callable[[Tensor], Tensor]:
        """The augmented images of an epoch, by positions (B,) in the split; x is all of its images.

        Random numbers for all of them are made at once: for each batch by itself they take longer to start than to run.
        """
        choices = self._choices(seed, epoch, torch.arange(len(x), device=x.device)) if self else None
        return lambda index: x[index] if choices is None else self._changed(x[index], choices[index])

    def __call__(self, x: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
        """Augmented images.

        Args:
            x: (B, C, H, W) images.
            seed: the run's seed.
            epoch: number of the pass over the data.
            index: (B,) int64 positions in the split; an image's augmentation depends on no other image of the batch.
        """
        return self._changed(x, self._choices(seed, epoch, index)) if self else x

    def _choices(self, seed: int, epoch: int, index: Tensor) -> Tensor:
        """(B, 3) uniform numbers: where the crop begins, whether it is mirrored."""
        return uniforms(seed, "augment", epoch, index, 3)

    def _changed(self, x: Tensor, choices: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padding = self.crop_padding
        top, left, mirror = choices.unbind(1)
        rows = torch.arange(height, device=x.device).expand(len(x), -1)
        columns = torch.arange(width, device=x.device).expand(len(x), -1)
        if self.flip:
            columns = torch.where(mirror[:, None] < 0.5, width - 1 - columns, columns)
        # u < 1 does not keep u * (2p + 1) below 2p + 1 in float32 for huge p only; p is a handful of pixels.
        rows = rows + (top * (2 * padding + 1)).long()[:, None] - padding
        columns = columns + (left * (2 * padding + 1)).long()[:, None] - padding
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        # One gather per batch: flat pixel positions, shared by the channels.
        flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        flat = flat.flatten(1)[:, None, :].expand(-1, x.shape[1], -1)
        out = x.flatten(2).gather(2, flat).view_as(x)
        return out * inside[:, None] if self.fill == "zero" and padding else out
