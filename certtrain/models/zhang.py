"""The small family of Zhang et al. (2020), "Towards stable and efficient training of verifiably robust networks".

The models that CROWN-IBP was compared on: 4 * width channels in the first layers, 8 * width in the later ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from certtrain.errors import UserError
from certtrain.models.layers import Conv, conv_stack, dense_stack, positive
from certtrain.models.normalize import Normalize


def zhang_2layer(
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: int = 1,
    linear: int = 128,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Conv 4w 4x4/2, 8w 4x4/2, padding 1; fully connected `linear`.

    The paper's: width 1 with linear 128, and width 2 with linear 256; on MNIST 52,182 and 205,730 parameters.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.
        width: multiplies the channels.
        linear: size of the hidden fully connected layer.
        batch_norm: before each ReLU; not the paper's, but what Shi et al. (2021) found IBP training to need.

    Raises:
        UserError: no images, too small ones, or a size that is not a whole number >= 1.
    """
    first, later = _channels("zhang_2layer", width)
    specification = [Conv(first, 4, 2, 1), Conv(later, 4, 2, 1)]
    convs, features = conv_stack("zhang_2layer", input_shape, specification, batch_norm=batch_norm)
    hidden = [positive("zhang_2layer", "linear", linear)]
    dense = dense_stack(features, hidden, num_classes, batch_norm=batch_norm)
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense)


def zhang_3layer(
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    kernel: int = 3,
    width: int = 1,
    linear: int | None = None,
) -> nn.Sequential:
    """Conv 4w kxk/1, 8w kxk/1, both padding 1, 8w 4x4/4 without; fully connected `linear`.

    The paper's (`model_cnn_3layer_fixed` in the authors' code; without "fixed" a ReLU was missing): kernel 3 or 5,
    width 1 or 2, linear 64 * width; on MNIST with kernel 3 27,170 (width 1) and 107,130 (width 2) parameters.

    Args:
        input_shape: (C, H, W) of one image.
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.
        kernel: of the first two convolutions, 3 or 5.
        width: multiplies the channels.
        linear: size of the hidden fully connected layer; None for 64 * width.

    Raises:
        UserError: no images, too small ones, or an option that is none.
    """
    if kernel not in (3, 5):
        raise UserError(f"kernel = {kernel!r} of the model zhang_3layer", where="model.kernel", fix="3 or 5")
    first, later = _channels("zhang_3layer", width)
    linear = 64 * width if linear is None else positive("zhang_3layer", "linear", linear)
    specification = [Conv(first, kernel, 1, 1), Conv(later, kernel, 1, 1), Conv(later, 4, 4, 0)]
    convs, features = conv_stack("zhang_3layer", input_shape, specification)
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense_stack(features, [linear], num_classes))


def zhang_4layer(
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: int = 1,
    linear: int = 256,
) -> nn.Sequential:
    """Conv 4w 3x3/1, 4w 4x4/2, 8w 3x3/1, 8w 4x4/2, padding 1; fully connected `linear` twice.

    The paper's: width 1 or 2 with linear 256 or 512 ("small"), width 2, 4, 8 or 16 with linear 512 ("medium"); on
    MNIST with width 1 and linear 256 170,598 parameters. Arguments and errors as `zhang_2layer`.
    """
    first, later = _channels("zhang_4layer", width)
    linear = positive("zhang_4layer", "linear", linear)
    specification = [Conv(first, 3, 1, 1), Conv(first, 4, 2, 1), Conv(later, 3, 1, 1), Conv(later, 4, 2, 1)]
    convs, features = conv_stack("zhang_4layer", input_shape, specification)
    dense = dense_stack(features, [linear, linear], num_classes)
    return nn.Sequential(Normalize(mean, std, input_shape), *convs, *dense)


def _channels(model: str, width: int) -> tuple[int, int]:
    return 4 * positive(model, "width", width), 8 * width
