"""The transposed convolution with its gradients written out, and the convolution's own input gradient by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

FEW_CHANNELS = 4  # up to which a product and a fold are quicker than a processor's own strided kernel


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
        if groups == 1 and weight.shape[1] <= FEW_CHANNELS:
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


class InputGradients(TorchFunctionMode):
    """Inside, the input gradient of strided convolutions of few channels takes a fifth of its time on a processor.

    For attacks: it is the first layer of most networks, and costs them more than all others together. Convolutions
    whose weights take a gradient are left alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = _attacked(*args, **kwargs) if func is torch.conv2d else None
        return func(*args, **kwargs) if found is None else found


def _attacked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    **named: Any,
) -> Tensor | None:
    """The convolution, where its input gradient is quicker otherwise than by torch's own; else None."""
    if named or not x.is_cpu or x.dim() != 4 or not x.requires_grad or isinstance(padding, str):
        return None
    if groups != 1 or weight.shape[1] > FEW_CHANNELS or weight.requires_grad:
        return None
    if bias is not None and bias.requires_grad:
        return None
    shape = [[one, one] if isinstance(one, int) else list(one) for one in (stride, padding, dilation)]
    return _Attacked.apply(x, weight, bias, *shape) if max(shape[0]) > 1 else None


class _Attacked(torch.autograd.Function):
    """`F.conv2d` with the gradient of its input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *shape: list[int]) -> Tensor:
        stride, padding, dilation = shape
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
        spare = [(n + 2 * p - r - 1) % s for n, p, r, s in zip(x.shape[2:], padding, reach, stride)]
        ctx.save_for_backward(weight)
        ctx.geometry = (stride, padding, spare, 1, dilation)
        return F.conv2d(x, weight, bias, *shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _transposed(grad, *ctx.saved_tensors, *ctx.geometry), None, None, None, None, None
