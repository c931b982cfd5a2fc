"""torch's fused optimisers, one pass over the weights, where they are sure to take the steps of the plain ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer


def fused_form(plain: Optimizer, make: Callable[..., Optimizer], parameters: list[nn.Parameter]) -> Optimizer:
    """The fused form of an optimiser; the optimiser itself where there is none, or it would take other steps.

    Args:
        plain: of the parameters, and without a step yet.
        make: what made it of the parameters, and takes `fused=True` where torch's optimiser does.
        parameters: of the network, on the device that they are trained on.
    """
    if not _fusable(plain, parameters):
        return plain
    try:
        fused = make(parameters, fused=True)
    except RuntimeError:  # this device or kind of number has none
        return plain
    if fused.param_groups[0].get("momentum"):
        # torch makes them at the first step, and fails on a weight whose first gradient comes later. From 0 the
        # first step is the same.
        for parameter in parameters:
            fused.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return fused


def _fusable(plain: Optimizer, parameters: list[nn.Parameter]) -> bool:
    """Whether torch's fused form is sure to do what this optimiser does."""
    group = plain.param_groups[0]
    ours = type(plain).__module__.startswith("torch.optim.")  # a user's class may have a constructor or step of its own
    asked = group.get("fused", False) is None and group.get("foreach") is None and not group.get("differentiable")
    # It goes through memory without a look at strides: of a slice of a larger tensor it would change the neighbours.
    dense = all(torch.empty_like(p, device="meta").stride() == p.stride() for p in parameters)
    return ours and asked and dense and not group.get("dampening")
