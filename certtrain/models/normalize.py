"""The first layer of every network: noise and perturbations live in [0, 1], before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from certtrain.errors import UserError

# Under which names the normalising layers of other programs keep their numbers: torchvision's; Cohen et al.'s.
NUMBERS = (("mean", "std"), ("means", "sds"))


class Normalize(nn.Module):
    """`(x - mean) / std`, per channel of an image or per feature of a vector.

    Both are persistent float32 buffers, of shape (C, 1, 1) for images and (d,) for vectors: what is certified is what
    is deployed, so the normalisation travels with the weights.

    Args:
        mean: one number per channel or feature, or a single one for all.
        std: likewise, each > 0.
        input_shape: the shape of one example without the batch, (C, H, W) or (d,); None stands for an image with as
            many channels as there are numbers.

    Raises:
        UserError: a standard deviation that is not > 0, a number that is not finite, or a wrong count of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor, input_shape: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        mean, std = (torch.as_tensor(values, dtype=torch.float32).flatten() for values in (mean, std))
        channels = input_shape[0] if input_shape is not None else len(mean)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels) or not len(values):
                raise UserError(
                    f"the normalisation has {len(values)} values of {name} for {channels} channels or features",
                    where=f"data.{name}",
                    fix=f"give {channels}, or one for all",
                )
            if not values.isfinite().all():
                raise UserError(f"the normalisation's {name} is not finite: {values.tolist()}", where=f"data.{name}")
        if not (std > 0).all():
            raise UserError(
                f"the normalisation divides by std = {std.tolist()}", where="data.std", fix="every std must be > 0"
            )
        shape = (channels,) if input_shape is not None and len(input_shape) == 1 else (channels, 1, 1)
        self.register_buffer("mean", mean.expand(channels).reshape(shape).clone())
        self.register_buffer("std", std.expand(channels).reshape(shape).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Normalised inputs, shaped like x, (B, C, H, W) or (B, d)."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """The numbers as they are applied."""
        return f"mean={_short(self.mean)}, std={_short(self.std)}"


def normalising_layer(network: nn.Module) -> nn.Module | None:
    """The first layer that normalises inputs: our `Normalize`, or one that is named so and holds mean and std."""
    for module in network.modules():
        if isinstance(module, Normalize) or ("norm" in type(module).__name__.lower() and normalises_by(module)):
            return module
    return None


def normalises_by(layer: nn.Module) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of a normalising layer, per channel; None where it does not keep them."""
    for names in NUMBERS:
        found = [getattr(layer, name, None) for name in names]
        if all(isinstance(value, (Tensor, list, tuple, float)) for value in found):
            mean, std = (_flat(value) for value in found)
            return mean, std
    return None


def _flat(value: Any) -> list[float]:
    if isinstance(value, Tensor):
        return [float(number) for number in value.flatten().tolist()]
    return [float(number) for number in ([value] if isinstance(value, float) else value)]


def _short(values: Tensor) -> str:
    numbers = [f"{value:.6g}" for value in values.flatten().tolist()]
    return f"[{', '.join(numbers if len(numbers) <= 4 else [*numbers[:3], '...'])}]"
