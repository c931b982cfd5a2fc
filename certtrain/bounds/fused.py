"""Inner steps of the bounds with their gradients written out: autograd's own take two to three times the traffic.

Each is once differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_CACHED = 2**18


class IntervalRelu(torch.autograd.Function):
    """ReLU of a box: (2B, ...) clean and centre, (B, ...) radius -> the same after ReLU.

    `low = relu(c - r)`, `high = relu(c + r)`; new centre `(low + high) / 2`, new radius `(high - low) / 2`.
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        out, spread, low, high = torch.empty_like(both), *(torch.empty_like(radius) for _ in range(3))
        (clean, centre), (out_clean, out_centre) = both.chunk(2), out.chunk(2)
        for some in _chunks(radius):
            torch.clamp(clean[some], min=0, out=out_clean[some])
            torch.sub(centre[some], radius[some], out=low[some]).relu_()
            torch.add(centre[some], radius[some], out=high[some]).relu_()
            torch.add(low[some], high[some], out=out_centre[some]).mul_(0.5)
            torch.sub(high[some], low[some], out=spread[some]).mul_(0.5)
        ctx.save_for_backward(out, low, high)
        return out, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_both: Tensor, grad_spread: Tensor) -> tuple[Tensor, Tensor]:
        after, low, high = ctx.saved_tensors
        out, grad_radius = torch.empty_like(grad_both), torch.empty_like(grad_spread)
        halves = (tensor.chunk(2) for tensor in (after, grad_both, out))
        (clean, _), (grad_clean, grad_centre), (out_clean, out_centre) = halves
        for some in _chunks(grad_spread):
            passed = torch.ops.aten.threshold_backward
            out_clean[some] = passed(grad_clean[some], clean[some], 0)
            to_low = passed(grad_centre[some] - grad_spread[some], low[some], 0)
            to_high = passed(grad_centre[some] + grad_spread[some], high[some], 0)
            torch.add(to_low, to_high, out=out_centre[some]).mul_(0.5)
            torch.sub(to_high, to_low, out=grad_radius[some]).mul_(0.5)
        return out, grad_radius


class RelaxedRelu(torch.autograd.Function):
    """Coefficients (N, S, d) taken back through lines around a ReLU, each (N, d): -> (N, S, d) and constants (N, S).

    `before = max(a, 0) low + min(a, 0) high`, `constant = <min(a, 0), offset>`. `low` is a choice, not a function, and
    gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, low: Tensor, high: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a, low, high, offset)
        before, constant = torch.empty_like(a), a.new_empty(a.shape[:2])
        for some in _chunks(a):
            negative, rise = a[some].clamp(max=0), (high[some] - low[some])[:, None]
            torch.mul(a[some], low[some, None], out=before[some]).addcmul_(negative, rise)
            constant[some] = (negative @ offset[some, :, None]).squeeze(2)
        return before, constant

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_constant: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        a, low, high, offset = ctx.saved_tensors
        grad_a, grad_high, grad_offset = torch.empty_like(a), torch.empty_like(high), torch.empty_like(offset)
        for some in _chunks(a):
            up, to_constant = grad[some], grad_constant[some]
            negative = a[some].clamp(max=0)
            grad_offset[some] = (to_constant[:, None] @ negative).squeeze(1)
            torch.sum(negative * up, 1, out=grad_high[some])
            below = torch.mul(to_constant[:, :, None], offset[some, None], out=negative).addcmul_(up, high[some, None])
            torch.where(a[some] < 0, below, up * low[some, None], out=grad_a[some])
        return grad_a, None, grad_high, grad_offset


def _chunks(a: Tensor) -> list[slice]:
    """Examples to treat together: on CPU few enough that what lies between two operations stays in the cache."""
    size = max(1, _CACHED // max(1, a[0].numel())) if a.is_cpu and len(a) else max(1, len(a))
    return [slice(start, start + size) for start in range(0, len(a), size)]


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
        return _transposed(a, weight, stride, padding, output_padding, groups, dilation)

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


def _transposed(
    a: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Tensor:
    """The transposed convolution by whichever kernel is quick: on CPU the strided one is two to four times too slow."""
    if a.is_cpu and max(stride) > 1:
        if groups == 1 and weight.shape[1] <= 4:
            kernel, places = list(weight.shape[2:]), zip(a.shape[2:], stride, padding, dilation, output_padding)
            size = [(n - 1) * s - 2 * p + d * (k - 1) + 1 + o for (n, s, p, d, o), k in zip(places, kernel)]
            columns = torch.bmm(weight.flatten(1).t().expand(len(a), -1, -1), a.flatten(2))  # matmul would copy a
            return F.fold(columns, size, kernel, list(dilation), list(padding), list(stride))
        if a.dtype == torch.float32:
            a = a.contiguous(memory_format=torch.channels_last)
    out = F.conv_transpose2d(a, weight, None, stride, padding, output_padding, groups, dilation)
    return out.contiguous()
