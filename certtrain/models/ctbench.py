"""CNN3 and CNN5, the smaller networks that Mao et al. (2025), CTBench, compare with CNN7 (`gowal.cnn7`)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from certtrain.models.layers import Conv, conv_stack, dense_stack, positive
from certtrain.models.normalize import Normalize


def cnn3(
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: int = 16,
    batch_norm: bool = True,
) -> nn.Sequential:
    """Conv w 5x5/2 padding 2, 2w 4x4/2 padding 1, each with BatchNorm; no hidden fully connected layer.

    `cnn_3layer_bn` and, without BatchNorm, `cnn_3layer` of CTBench, width 16 unless their name says another one;
    CTRAIN's CNN3 has width 64. Parameters with BatchNorm: MNIST 24,426, CIFAR-10 30,026, with width 64 there 218,378
    (counted from both codes).

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.
        width: channels of the first convolution; the second has twice as many.
        batch_norm: before each ReLU.

    Raises:
        UserError: no images, too small ones, or a width that is not a whole number >= 1.
    """
    width = positive("cnn3", "width", width)
    specification = [Conv(width, 5, 2, 2), Conv(2 * width, 4, 2, 1)]
    convs, features = conv_stack("cnn3", input_shape, specification, batch_norm=batch_norm)
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense_stack(features, [], num_classes))


def cnn5(
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: int = 16,
    linear: int = 512,
    batch_norm: bool = True,
) -> nn.Sequential:
    """Conv w 3x3/1, w 4x4/2, 2w 4x4/2, padding 1; fully connected `linear`; each with BatchNorm.

    `cnn_5layer_bn` and, without BatchNorm, `cnn_5layer` of CTBench, width 16 unless their name says another one
    (`cnn_5layer_w64_bn`); CTRAIN's CNN5 has width 64. Parameters with BatchNorm: MNIST 822,106, CIFAR-10 1,068,154,
    with width 64 there 4,400,074 (counted from both codes). `linear`: size of the hidden fully connected layer; other
    arguments and errors as `cnn3`.
    """
    width, linear = positive("cnn5", "width", width), positive("cnn5", "linear", linear)
    specification = [Conv(width, 3, 1, 1), Conv(width, 4, 2, 1), Conv(2 * width, 4, 2, 1)]
    convs, features = conv_stack("cnn5", input_shape, specification, batch_norm=batch_norm)
    dense = dense_stack(features, [linear], num_classes, batch_norm=batch_norm)
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense)
