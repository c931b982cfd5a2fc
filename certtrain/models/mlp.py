"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from certtrain.errors import UserError
from certtrain.models.layers import dense_stack, positive
from certtrain.models.normalize import Normalize


def mlp(
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    hidden: Sequence[int] = (100, 100),
) -> nn.Sequential:
    """Linear layers with ReLU between them; images are flattened.

    On MNIST with `hidden=[100, 100]` 89,610 parameters, on 30 features and two classes 13,402.

    Args:
        input_shape: of one example, (C, H, W) or (d,).
        num_classes: K.
        mean: of the first layer, `Normalize`.
        std: likewise.
        hidden: sizes of the hidden layers; [] for a linear classifier.

    Raises:
        UserError: a size that is not a whole number >= 1.
    """
    if isinstance(hidden, (str, int)):
        raise UserError(f"hidden = {hidden!r} is not a list of sizes", where="model.hidden", fix="such as [100,100]")
    sizes = [positive("mlp", "hidden", size) for size in hidden]
    layers = dense_stack(math.prod(input_shape), sizes, num_classes)
    return nn.Sequential(Normalize(mean, std, input_shape), nn.Flatten(), *layers)
