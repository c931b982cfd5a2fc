"""What the builders share: checked input shapes, stacks of convolutions, fully connected ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from certtrain.errors import UserError


class Conv(NamedTuple):
    """One square convolution."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0


def image_shape(model: str, input_shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W) of the data.

    Raises:
        UserError: the data are no images.
    """
    if len(input_shape) != 3:
        raise UserError(
            f"the model {model} takes images (C, H, W), the data have inputs of shape {_text(input_shape)}",
            where="model, data",
            fix="model=mlp for vectors, or data with images",
        )
    channels, height, width = (int(size) for size in input_shape)
    return channels, height, width


def conv_stack(
    model: str, input_shape: Sequence[int], convs: Sequence[Conv], *, batch_norm: bool = False
) -> tuple[list[nn.Module], int]:
    """Convolutions, each followed by BatchNorm (on demand) and ReLU, then Flatten.

    Returns:
        The modules and the number of features after Flatten.

    Raises:
        UserError: the data are no images, or so small that a layer would have no output.
    """
    channels, height, width = image_shape(model, input_shape)
    modules: list[nn.Module] = []
    for number, conv in enumerate(convs, 1):
        height, width = (conv_size(size, conv) for size in (height, width))
        check_size(model, input_shape, height, width, f"convolution {number}")
        modules.append(nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, conv.padding))
        if batch_norm:
            modules.append(nn.BatchNorm2d(conv.channels))
        modules.append(nn.ReLU())
        channels = conv.channels
    return [*modules, nn.Flatten()], channels * height * width


def dense_stack(features: int, hidden: Sequence[int], num_classes: int, *, batch_norm: bool = False) -> list[nn.Module]:
    """Linear layers, each but the last followed by BatchNorm (on demand) and ReLU."""
    modules: list[nn.Module] = []
    for size in hidden:
        modules.append(nn.Linear(features, size))
        if batch_norm:
            modules.append(nn.BatchNorm1d(size))
        modules.append(nn.ReLU())
        features = size
    return [*modules, nn.Linear(features, num_classes)]


def conv_size(size: int, conv: Conv) -> int:
    """Height or width after a convolution: floor((size + 2 padding - kernel) / stride) + 1."""
    return (size + 2 * conv.padding - conv.kernel) // conv.stride + 1


def check_size(model: str, input_shape: Sequence[int], height: int, width: int, place: str) -> None:
    """Refuse images of which nothing is left at some place.

    Raises:
        UserError: height or width below one.
    """
    if height < 1 or width < 1:
        raise UserError(
            f"the data's images of shape {_text(input_shape)} are too small for the model {model}: nothing is left "
            f"after {place}",
            where="model, data",
            fix="a smaller model, such as model=wong_small or model=mlp, or data with larger images",
        )


def positive(model: str, option: str, value: object) -> int:
    """A whole number >= 1.

    Raises:
        UserError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(
            f"{option} = {value!r} of the model {model} is not a whole number >= 1", where=f"model.{option}"
        )
    return value


def _text(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
