"""Inner steps of the bounds with their gradients written out: autograd's own take two to three times the traffic.

Each is once differentiable.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class IntervalRelu(torch.autograd.Function):
    """ReLU of a box: (2B, ...) clean and centre, (B, ...) radius -> the same after ReLU.

    `low = relu(c - r)`, `high = relu(c + r)`; new centre `(low + high) / 2`, new radius `(high - low) / 2`.
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        clean, centre = both.chunk(2)
        low, high = (centre - radius).relu_(), (centre + radius).relu_()
        out = torch.empty_like(both)
        out_clean, out_centre = out.chunk(2)
        torch.clamp(clean, min=0, out=out_clean)
        torch.add(low, high, out=out_centre).mul_(0.5)
        ctx.save_for_backward(out, low, high)
        return out, (high - low).mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_both: Tensor, grad_radius: Tensor) -> tuple[Tensor, Tensor]:
        after, low, high = ctx.saved_tensors
        clean = after[: len(after) // 2]
        grad_clean, grad_centre = grad_both.chunk(2)
        grad_low = (grad_centre - grad_radius).mul_(0.5).mul_(low > 0)
        grad_high = (grad_centre + grad_radius).mul_(0.5).mul_(high > 0)
        out = torch.empty_like(grad_both)
        out_clean, out_centre = out.chunk(2)
        torch.mul(grad_clean, clean > 0, out=out_clean)
        torch.add(grad_low, grad_high, out=out_centre)
        return out, grad_high.sub_(grad_low)


class RelaxedRelu(torch.autograd.Function):
    """Coefficients (N, S, d) taken back through lines around a ReLU, each (N, d): -> (N, S, d) and constants (N, S).

    `before = max(a, 0) low + min(a, 0) high`, `constant = <min(a, 0), offset>`. `low` is a choice, not a function, and
    gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, low: Tensor, high: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a, low, high, offset)
        negative = a.clamp(max=0)
        before = torch.addcmul(a * low[:, None], negative, (high - low)[:, None])
        return before, (negative @ offset[:, :, None]).squeeze(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_constant: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        a, low, high, offset = ctx.saved_tensors
        below = torch.addcmul(grad_constant[:, :, None] * offset[:, None], grad, high[:, None])
        grad_a = torch.where(a < 0, below, grad * low[:, None])
        negative = a.clamp(max=0)
        grad_offset = (grad_constant[:, None] @ negative).squeeze(1)
        return grad_a, None, negative.mul_(grad).sum(1), grad_offset


class TransposedConv(torch.autograd.Function):
    """`F.conv_transpose2d` without bias, whose gradients are plain convolutions.

    They are the quick kernels on CPU, where autograd's own take the slow deconvolution path.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        weight: Tensor,
        stride: list[int],
        padding: list[int],
        output_padding: list[int],
        groups: int,
        dilation: list[int],
    ) -> Tensor:
        ctx.save_for_backward(a, weight)
        ctx.geometry = (stride, padding, dilation, groups)
        return F.conv_transpose2d(a, weight, None, stride, padding, output_padding, groups, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        grad_a = F.conv2d(grad, weight, None, stride, padding, dilation, groups) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            mask = [False, True, False]
            grad_weight = torch.ops.aten.convolution_backward(
                a, grad, weight, None, stride, padding, dilation, False, [0, 0], groups, mask
            )[1]
        return grad_a, grad_weight, None, None, None, None, None
