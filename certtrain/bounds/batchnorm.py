"""BatchNorm as an affine operation: running statistics in eval mode, those of the clean path in training mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from certtrain.bounds.affine import ScaleShift
from certtrain.bounds.graph import unsupported
from certtrain.errors import UserError


def batch_norm(name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, clean: Tensor) -> ScaleShift:
    """`(z - mean) / sqrt(var + eps) * weight + bias` as scale and shift.

    In training mode mean and var are the clean activations', part of the computation graph, and the running
    statistics are updated, once per use of the layer, as the layer's own forward does.

    Args:
        name: path of the layer, for messages.
        layer: the layer.
        clean: (B, C, ...) unperturbed activations.

    Raises:
        UserError: eval mode without running statistics (a certificate would depend on the other examples), or
            training mode with one value per channel.
    """
    if (
        clean.dim() not in ((2, 3) if isinstance(layer, nn.BatchNorm1d) else (4,))
        or clean.shape[1] != layer.num_features
    ):
        raise unsupported(
            f"{name} ({type(layer).__name__} of {layer.num_features} channels) is given {tuple(clean.shape)}",
            "inputs of the layer's own shape",
        )
    if layer.training:
        mean, var = _clean_statistics(name, layer, clean)
    elif layer.running_mean is None or layer.running_var is None:
        raise unsupported(
            f"{name} ({type(layer).__name__}) has no running statistics in eval mode",
            "track_running_stats=True, so that an example's logits do not depend on the others in its batch",
        )
    else:
        mean, var = layer.running_mean, layer.running_var
    scale = (var + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight
    shift = -mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias
    shape = (-1, *([1] * (clean.dim() - 2)))
    return ScaleShift(clean.shape[1:], scale.reshape(shape), shift.reshape(shape))


def _clean_statistics(name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, clean: Tensor) -> tuple[Tensor, Tensor]:
    count = clean.numel() // clean.shape[1]
    if count < 2:
        raise UserError(
            f"{name} is in training mode and sees one value per channel",
            where="batch size",
            fix="use batches of at least two examples, or eval mode",
        )
    var, mean = torch.var_mean(clean, [dim for dim in range(clean.dim()) if dim != 1], correction=0)
    if layer.track_running_stats and layer.running_mean is not None and layer.running_var is not None:
        with torch.no_grad():
            layer.num_batches_tracked.add_(1)
            if layer.momentum is None:  # cumulative average
                weight = 1 / layer.num_batches_tracked.to(mean.dtype)
            else:
                weight = torch.tensor(layer.momentum, dtype=mean.dtype, device=mean.device)
            layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), weight)
            layer.running_var.lerp_((var * (count / (count - 1))).to(layer.running_var.dtype), weight)
    return mean, var
