"""The networks of Wong and Kolter (2018) and Wong et al. (2018), "Scaling provable adversarial defenses"."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from certtrain.models.layers import Conv, conv_stack, dense_stack
from certtrain.models.normalize import Normalize


def wong_small(
    input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """Conv 16 4x4/2, conv 32 4x4/2, padding 1; fully connected 100. ConvSmall in the verification literature.

    Parameters: MNIST 166,406, CIFAR-10 214,918 (counted from the authors' code, `mnist_model`, `cifar_model`).

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.

    Raises:
        UserError: no images, or too small ones.
    """
    convs, features = conv_stack("wong_small", input_shape, [Conv(16, 4, 2, 1), Conv(32, 4, 2, 1)])
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense_stack(features, [100], num_classes))


def wong_large(
    input_shape: Sequence[int], num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> nn.Sequential:
    """Conv 32 3x3/1, 32 4x4/2, 64 3x3/1, 64 4x4/2, padding 1; fully connected 512, 512.

    Parameters: MNIST 1,974,762 (counted from the authors' code, `mnist_model_vgg`), CIFAR-10 2,466,858. Arguments and
    errors as `wong_small`.
    """
    specification = [Conv(32, 3, 1, 1), Conv(32, 4, 2, 1), Conv(64, 3, 1, 1), Conv(64, 4, 2, 1)]
    convs, features = conv_stack("wong_large", input_shape, specification)
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense_stack(features, [512, 512], num_classes))
