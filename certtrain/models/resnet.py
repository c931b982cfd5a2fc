"""Residual networks: He et al. (2016) for CIFAR as in Cohen et al. (2019), and a small one for bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from certtrain.models.layers import Conv, check_size, conv_size, image_shape, positive
from certtrain.models.normalize import Normalize


class BasicBlock(nn.Module):
    """`relu(conv(relu(conv(x))) + shortcut(x))` with 3x3 convolutions, each followed by BatchNorm when asked for.

    The shortcut is the identity, or a 1x1 convolution (with BatchNorm likewise) where shape or stride changes.
    """

    def __init__(self, channels: int, out_channels: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(channels, out_channels, 3, stride, batch_norm),
            nn.ReLU(),
            *_conv(out_channels, out_channels, 3, 1, batch_norm),
        )
        changes = stride != 1 or channels != out_channels
        self.shortcut = nn.Sequential(*(_conv(channels, out_channels, 1, stride, batch_norm) if changes else ()))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, out_channels, H / stride, W / stride)."""
        return self.relu(self.body(x) + self.shortcut(x))


def cifar_resnet20(
    input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """ResNet-20: `cifar_resnet110` with three blocks a stage. CIFAR-10: 272,474 parameters."""
    return _cifar_resnet("cifar_resnet20", 20, input_shape, num_classes, mean, std)


def cifar_resnet110(
    input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """ResNet-110, the CIFAR-10 network of the smoothing literature (Cohen et al. 2019 and after).

    Depth 6n + 2, n = 18: a 3x3 convolution, three stages of n basic blocks with 16, 32 and 64 channels (stride 2 from
    stage to stage), mean pooling, one linear layer; BatchNorm throughout. Where a stage begins the shortcut is a 1x1
    convolution with BatchNorm, as in the code that smoothing uses (He et al. pad with zeros there). Weights start from
    N(0, 2 / (k^2 out)). CIFAR-10: 1,730,714 parameters (1.7 million in He et al.).

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.

    Raises:
        UserError: no images.
    """
    return _cifar_resnet("cifar_resnet110", 110, input_shape, num_classes, mean, std)


def resnet_small(
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: int = 16,
    linear: int = 100,
    batch_norm: bool = False,
) -> nn.Sequential:
    """A small residual network for bound propagation; of no paper.

    A 3x3 convolution with `width` channels, two basic blocks with 2 and 4 times as many and stride 2, fully connected
    `linear`. CIFAR-10: 483,126 parameters, with BatchNorm 483,430; MNIST 386,838 and 387,142.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.
        width: channels of the first convolution.
        linear: size of the hidden fully connected layer.
        batch_norm: BatchNorm after every convolution.

    Raises:
        UserError: no images, or a size that is not a whole number >= 1.
    """
    channels, height, image_width = image_shape("resnet_small", input_shape)
    width, linear = positive("resnet_small", "width", width), positive("resnet_small", "linear", linear)
    for _ in range(2):
        height, image_width = (conv_size(size, Conv(0, 3, 2, 1)) for size in (height, image_width))
    check_size("resnet_small", input_shape, height, image_width, "the second block")
    return nn.Sequential(
        Normalize(mean, std, input_shape),
        *_conv(channels, width, 3, 1, batch_norm),
        nn.ReLU(),
        BasicBlock(width, 2 * width, 2, batch_norm),
        BasicBlock(2 * width, 4 * width, 2, batch_norm),
        nn.Flatten(),
        nn.Linear(4 * width * height * image_width, linear),
        nn.ReLU(),
        nn.Linear(linear, num_classes),
    )


def _cifar_resnet(
    model: str, depth: int, input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    channels, height, width = image_shape(model, input_shape)
    check_size(model, input_shape, height, width, "the input")
    blocks, previous = [], 16
    for stage, planes in enumerate((16, 32, 64)):
        for number in range((depth - 2) // 6):
            stride = 2 if stage and not number else 1
            blocks.append(BasicBlock(previous, planes, stride, batch_norm=True))
            previous = planes
    network = nn.Sequential(
        Normalize(mean, std, input_shape),
        *_conv(channels, 16, 3, 1, batch_norm=True),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] ** 2 * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
    return network


def _conv(channels: int, out_channels: int, kernel: int, stride: int, batch_norm: bool) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2, bias=not batch_norm)
    return [conv, nn.BatchNorm2d(out_channels)] if batch_norm else [conv]
