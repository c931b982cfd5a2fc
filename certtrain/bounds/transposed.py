"""The transposed convolution with its gradients written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


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
    # Not `contiguous()` where it is that: of a Function that returns its result under a second name, torch.compile of
    # torch 2.11 takes the gradient wrongly.
    return out if out.is_contiguous() else out.contiguous()
