"""The MNIST network of the smoothing literature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from certtrain.errors import UserError
from certtrain.models.layers import check_size, dense_stack, image_shape
from certtrain.models.normalize import Normalize

POOLS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


def lenet(
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    pool: Literal["max", "avg"] = "max",
) -> nn.Sequential:
    """Conv 20 5x5, ReLU, pool 2, conv 50 5x5, ReLU, pool 2, fully connected 500 (Jeong and Shin 2020 and after).

    Parameters: MNIST 431,080 (counted from the authors' code).

    Args:
        input_shape: (C, H, W) of one image, at least 16x16.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.
        pool: `max` is the original; only `bounds=native` bounds it. `avg` is for bounds from either engine.

    Raises:
        UserError: no images, too small ones, or another pooling.
    """
    if pool not in POOLS:
        raise UserError(f"unknown pool {pool!r} of the model lenet", where="model.pool", fix="max or avg")
    channels, height, width = image_shape("lenet", input_shape)
    height, width = (((size - 4) // 2 - 4) // 2 for size in (height, width))
    check_size("lenet", input_shape, height, width, "the second pooling")
    return nn.Sequential(
        Normalize(mean, std, input_shape),
        nn.Conv2d(channels, 20, 5),
        nn.ReLU(),
        POOLS[pool](2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        POOLS[pool](2),
        nn.Flatten(),
        *dense_stack(50 * height * width, [500], num_classes),
    )
