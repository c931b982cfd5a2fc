"""Networks that torchvision builds, behind a normalisation of ours; untrained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from certtrain.models.layers import check_size, image_shape
from certtrain.models.normalize import Normalize


def resnet18(
    input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """ResNet-18 (He et al. 2016): torchvision's, random weights. ImageNet: 11,689,512 parameters.

    Arguments, errors and what `resnet50` says of max pooling and ReLU: as there.
    """
    return _resnet("resnet18", input_shape, num_classes, mean, std)


def resnet50(
    input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """ResNet-50 (He et al. 2016), the ImageNet network of the smoothing literature (Cohen et al. 2019 and after).

    torchvision's, with the stride in the 3x3 convolution of a block; random weights. ImageNet: 25,557,032 parameters.
    Its max pooling is bounded by `bounds=native` only. ReLUs work out of place, as everywhere here.

    Args:
        input_shape: (C, H, W) of one image; (3, 224, 224) on ImageNet. For another C the first convolution is replaced.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.

    Raises:
        UserError: no images.
    """
    return _resnet("resnet50", input_shape, num_classes, mean, std)


def _resnet(
    name: str, input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    from torchvision import models as published

    channels, height, width = image_shape(name, input_shape)
    check_size(name, input_shape, height, width, "the input")
    network = getattr(published, name)(weights=None, num_classes=num_classes)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return nn.Sequential(Normalize(mean, std, input_shape), network)
