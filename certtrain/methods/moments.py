"""Means over one layer's bounds, with their gradient written out: what Shi's regularisers are functions of.

With l, u the bounds, c = (l + u) / 2 their centres and p a number near the mean of all c, the pivot, the means of

    (u-l)/2,  c - p,  [l > 0],  (c-p) [l > 0],  (c-p)^2 [l > 0],  [u < 0],  (c-p) [u < 0],  (c-p)^2 [u < 0].

Those about any other number follow from them, also after an average over several processes. Compiled (`moments_kernel`)
they pass over the bounds once forward and once back, where autograd's own take a dozen passes each way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certtrain.methods.moments_kernel import kernel_for


class Moments(torch.autograd.Function):
    """(...) lower and upper bounds, and () the pivot -> (8,) the means, in the pivot's dtype.

    The pivot is a choice, not a function, and gets no gradient. A centre that is not finite gets none from the means of
    squares: it makes them what its layer is dropped for.
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor, pivot: Tensor) -> Tensor:
        ctx.save_for_backward(lower, upper, pivot)
        if (kernel := kernel_for(lower, upper)) is not None:
            return kernel.moments(lower, upper, pivot)
        return moments_by_tensors(lower, upper, pivot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        lower, upper, pivot = ctx.saved_tensors
        if (kernel := kernel_for(lower, upper)) is not None:
            return *kernel.gradients(lower, upper, pivot, grad), None
        return *gradients_by_tensors(lower, upper, pivot, grad), None


def mean_centre(lower: Tensor, upper: Tensor) -> Tensor:
    """() the mean of the centres, without a gradient; in float32 at the least."""
    lower, upper = lower.detach(), upper.detach()
    if (kernel := kernel_for(lower, upper)) is not None:
        return kernel.mean_centre(lower, upper)
    return mean_centre_by_tensors(lower, upper)


def mean_centre_by_tensors(lower: Tensor, upper: Tensor) -> Tensor:
    """`mean_centre`; of no elements 0."""
    dtype = torch.promote_types(lower.dtype, torch.float32)
    return ((lower.to(dtype) + upper.to(dtype)) / 2).sum() / max(1, lower.numel())


def moments_by_tensors(lower: Tensor, upper: Tensor, pivot: Tensor) -> Tensor:
    """`Moments.forward`; of no elements 0."""
    lower, upper = lower.to(pivot.dtype), upper.to(pivot.dtype)
    away = (lower + upper) / 2 - pivot
    sums = [(upper - lower).sum() / 2, away.sum()]
    for mask in ((lower > 0).to(away.dtype), (upper < 0).to(away.dtype)):
        some = away * mask
        sums += [mask.sum(), some.sum(), some.square().sum()]
    return torch.stack(sums) / max(1, lower.numel())


def gradients_by_tensors(lower: Tensor, upper: Tensor, pivot: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """`Moments.backward` without the pivot's.

    With g the (8,) gradient of the means, each divided by 2 n, and d = c - p, that of a lower bound is

        g_1 + [l > 0] (g_3 + 2 g_4 d) + [u < 0] (g_6 + 2 g_7 d) - g_0,

    and that of an upper bound the same with + g_0.
    """
    low, high = lower.to(pivot.dtype), upper.to(pivot.dtype)
    radius, every, _, above, above_square, _, below, below_square = (grad / max(1, 2 * lower.numel())).unbind()
    away = torch.nan_to_num((low + high) / 2 - pivot, 0.0, 0.0, 0.0)
    centre = (above + 2 * above_square * away) * (low > 0) + (below + 2 * below_square * away) * (high < 0) + every
    return (centre - radius).to(lower.dtype), (centre + radius).to(upper.dtype)
