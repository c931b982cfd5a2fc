"""The three networks of Gowal et al. (2018), "On the effectiveness of interval bound propagation", and CNN7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from certtrain.errors import UserError, nearest
from certtrain.models.layers import Conv, conv_stack, dense_stack, positive
from certtrain.models.normalize import Normalize

BATCH_NORMS: tuple[str, ...] = ("none", "conv", "conv_fc")


def dm_small(
    input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """Conv 16 4x4/2, conv 32 4x4/1, no padding; fully connected 100.

    Parameters: MNIST 329,606, CIFAR-10 470,918 (counted from table 1 of the paper).

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.

    Raises:
        UserError: no images, or too small ones.
    """
    convs, features = conv_stack("dm_small", input_shape, [Conv(16, 4, 2), Conv(32, 4, 1)])
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense_stack(features, [100], num_classes))


def dm_medium(
    input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """Conv 32 3x3/1, 32 4x4/2, 64 3x3/1, 64 4x4/2, no padding; fully connected 512, 512.

    Parameters: MNIST 893,418, CIFAR-10 1,188,906 (counted from table 1 of the paper). Arguments and errors as
    `dm_small`.
    """
    specification = [Conv(32, 3, 1), Conv(32, 4, 2), Conv(64, 3, 1), Conv(64, 4, 2)]
    convs, features = conv_stack("dm_medium", input_shape, specification)
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense_stack(features, [512, 512], num_classes))


def dm_large(
    input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """Conv 64, 64, 128/2, 128, 128, all 3x3; fully connected 512.

    Padding is one pixel on each side, as in CROWN-IBP (Zhang et al. 2020) and every PyTorch code after; the original
    pads "SAME", which puts the stride-2 layer's padding to the right and the bottom only. The parameters are the same:
    MNIST 13,257,290, CIFAR-10 17,190,602. `cnn7` without BatchNorm is this network. Arguments and errors as `dm_small`.
    """
    return _large("dm_large", input_shape, num_classes, mean, std, 64, 512, "none", 1)


def cnn7(
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    batch_norm: Literal["none", "conv", "conv_fc"] = "conv_fc",
    width: int = 64,
    linear: int = 512,
    last_stride: int = 1,
) -> nn.Sequential:
    """CNN7, the field's standard network since Shi et al. (2021): `dm_large` with BatchNorm before each ReLU.

    Three networks go by this name:

    - `conv_fc`: BatchNorm after every convolution and after the hidden fully connected layer. `cnn` and
      `cnn_7layer_bn2` of Shi et al., the one of their tables; `cnn_7layer_bn` of CTBench (Mao et al. 2025).
    - `conv`: after every convolution only. `cnn_7layer_bn` of auto_LiRPA and of Shi et al.
    - `none`: no BatchNorm, `cnn_7layer`: the same as `dm_large`.

    Parameters with `conv_fc`: MNIST 13,259,338, CIFAR-10 17,192,650 (17.2 million in Shi et al.), TinyImageNet with
    `last_stride=2` 17,290,120; of the wide one, `width=128`, 35,189,642 on CIFAR-10.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.
        batch_norm: which of the three.
        width: channels of the first two convolutions; the other three have twice as many.
        linear: size of the hidden fully connected layer.
        last_stride: of the fifth convolution; 2 on TinyImageNet (`cnn_7layer_bn_imagenet` of Shi et al.,
            `cnn_7layer_bn_tinyimagenet` of CTBench); Müller et al. (2023) keep 1, on crops of 56 pixels.

    Raises:
        UserError: no images, too small ones, or an option that is none.
    """
    if batch_norm not in BATCH_NORMS:
        raise UserError(
            f"unknown batch_norm {batch_norm!r} of the model cnn7",
            where="model.batch_norm",
            fix=nearest(str(batch_norm), BATCH_NORMS),
        )
    width, linear = positive("cnn7", "width", width), positive("cnn7", "linear", linear)
    last_stride = positive("cnn7", "last_stride", last_stride)
    return _large("cnn7", input_shape, num_classes, mean, std, width, linear, batch_norm, last_stride)


def _large(
    model: str,
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    width: int,
    linear: int,
    batch_norm: str,
    last_stride: int,
) -> nn.Sequential:
    first, later = [Conv(width, 3, 1, 1)] * 2, [Conv(2 * width, 3, stride, 1) for stride in (2, 1, last_stride)]
    convs, features = conv_stack(
        model,
        input_shape,
        [*first, *later],
        batch_norm=batch_norm != "none",
    )
    dense = dense_stack(features, [linear], num_classes, batch_norm=batch_norm == "conv_fc")
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense)
