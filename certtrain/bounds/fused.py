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

from certtrain.bounds.kernel import kernel_for

_CACHED = 2**18


class IntervalRelu(torch.autograd.Function):
    """ReLU of a box: (B, ...) radius, and clean and centre in parts -> the parts after ReLU, radius, input's bounds.

    The parts are two (B, ...) or one (2B, ...), see `interval.Region`. `lower = c - r`, `upper = c + r`; with
    `low, high = relu(lower), relu(upper)` the new centre is `(low + high) / 2`, the new radius `(high - low) / 2`.
    """

    @staticmethod
    def forward(ctx: Any, radius: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        out = [torch.empty_like(part) for part in parts]
        spread, lower, upper = (torch.empty_like(halves(out)[1]) for _ in "rlu")
        clean, centre, out_clean, out_centre = *halves(parts), *halves(out)
        if (kernel := kernel_for(clean.numel(), radius, *parts, same_bits=True)) is not None:
            kernel.interval(clean, centre, radius, out_clean, out_centre, spread, lower, upper)
        else:
            for some in _chunks(centre):
                torch.clamp(clean[some], min=0, out=out_clean[some])
                low = torch.sub(centre[some], radius[some], out=lower[some]).clamp(min=0)
                high = torch.add(centre[some], radius[some], out=upper[some]).clamp(min=0)
                torch.lerp(low, high, 0.5, out=out_centre[some])
                torch.sub(high, out_centre[some], out=spread[some])
        ctx.save_for_backward(out[0], lower, upper)
        return *out, spread, lower, upper

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        after, lower, upper = ctx.saved_tensors
        *parts, spread, of_lower, of_upper = grads
        # What nothing was computed from gets no gradient, so that autograd goes no further back along it.
        unused = len(parts) == 2 and parts[0] is None
        if lower.dim() == 4 and not lower.is_contiguous() and lower.is_contiguous(memory_format=torch.channels_last):
            # What comes back through flattening is laid out otherwise.
            parts, (spread, of_lower, of_upper) = (
                [None if one is None else one.contiguous(memory_format=torch.channels_last) for one in some]
                for some in (parts, (spread, of_lower, of_upper))
            )
        parts = [torch.zeros_like(after) if part is None else part for part in parts[unused:]]
        spread = torch.zeros_like(lower) if spread is None else spread
        out, grad_radius = [torch.empty_like(part) for part in parts], torch.empty_like(spread)
        clean = None if unused else after[: len(lower)]
        grad_clean, grad_centre = (None, *parts) if unused else halves(parts)
        out_clean, out_centre = (None, *out) if unused else halves(out)
        given = (clean, lower, upper, grad_clean, grad_centre, spread, of_lower, of_upper)
        if (kernel := kernel_for(lower.numel(), *given, same_bits=True)) is not None:
            kernel.interval_back(*given, out_clean, out_centre, grad_radius)
            return grad_radius, *([None] * unused), *out
        for some in _chunks(spread):
            if not unused:
                out_clean[some] = _where_positive(clean[some], grad_clean[some])
            to_low = _where_positive(lower[some], grad_centre[some] - spread[some])
            to_high = _where_positive(upper[some], grad_centre[some] + spread[some])
            for grad, to_end in zip((of_lower, of_upper), (to_low, to_high)):
                if grad is not None:
                    to_end.add_(grad[some], alpha=2)
            torch.lerp(to_low, to_high, 0.5, out=out_centre[some])
            torch.sub(to_high, out_centre[some], out=grad_radius[some])
        return grad_radius, *([None] * unused), *out


def halves(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Clean and centre, (B, ...) each, of two parts or of one (2B, ...)."""
    return parts if len(parts) == 2 else parts[0].chunk(2)


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
            above = up * low[some, None]
            torch.add(above, _where_positive(-a[some], below.sub_(above)), out=grad_a[some])
        return grad_a, None, grad_high, grad_offset


class BoxedRelu(torch.autograd.Function):
    """`RelaxedRelu` straight from the bounds [l, u] of the ReLU's inputs, (N, d): no line is kept in memory.

    With `l < 0 < u`, `w = u - l` and `h = u / w` the chord has slope h and offset `-l h = (1 - h) u`, so that

        d h = h / w dl + (1 - h) / w du,   d offset = -h^2 dl + (1 - h)^2 du.

    The lines of active and inactive neurons do not depend on their bounds.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(a, lower, upper)
        if (kernel := kernel_for(a.numel(), a, lower, upper)) is not None:
            return kernel.boxed(a, lower, upper)
        before, constant = torch.empty_like(a), a.new_empty(a.shape[:2])
        for some in _chunks(a):
            sign, high, offset, _ = relu_lines(lower[some], upper[some])
            negative = a[some].clamp(max=0)
            torch.mul(negative, high[:, None], out=before[some])
            before[some] += _where_positive(sign[:, None], a[some] - negative)
            torch.sum(negative.mul_(offset[:, None]), 2, out=constant[some])
        return before, constant

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_constant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, lower, upper = ctx.saved_tensors
        if (kernel := kernel_for(a.numel(), a, lower, upper, grad, grad_constant)) is not None:
            return kernel.boxed_back(a, lower, upper, grad, grad_constant)
        grad_a, grad_lower, grad_upper = torch.empty_like(a), torch.empty_like(lower), torch.empty_like(upper)
        for some in _chunks(a):
            up, to_constant = grad[some], grad_constant[some]
            sign, high, offset, width = relu_lines(lower[some], upper[some])
            rest = 1 - high
            unstable = high * rest
            negative = a[some].clamp(max=0)
            to_offset = _where_positive(unstable, (to_constant[:, None] @ negative).squeeze(1))
            to_high = (negative * up).squeeze(1) if a.shape[1] == 1 else (negative * up).sum(1)
            to_high = _where_positive(unstable, to_high.div_(width))  # by w, as both terms of d h are
            torch.addcmul(to_high, to_offset, high, value=-1, out=grad_lower[some]).mul_(high)
            torch.addcmul(to_high, to_offset, rest, out=grad_upper[some]).mul_(rest)
            above = _where_positive(sign[:, None], up)
            below = torch.mul(to_constant[:, :, None], offset[:, None]).addcmul_(up, high[:, None]).sub_(above)
            torch.add(above, _where_positive(negative.neg_(), below), out=grad_a[some])
        return grad_a, grad_lower, grad_upper


def _where_positive(condition: Tensor, values: Tensor) -> Tensor:
    """values where the condition is > 0, or NaN, else 0: on CPU 30 times as fast as `torch.where`."""
    return torch.ops.aten.threshold_backward(values, condition, 0)


def relu_lines(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the adaptive lower line has slope 1 for if it is > 0, else 0; slope, offset and width of the chord.

    Where `u - l` is tiny the chord is drawn up to `l + 1e-8`, over a larger interval (sound).
    """
    left = lower.clamp(max=0)
    right = torch.maximum(upper.clamp(min=0), left + 1e-8)
    width = right - left
    high = right.div_(width)
    return lower + upper, high, left.neg_().mul_(high), width


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
    # Not `contiguous()` where it is that: of a Function that returns its result under a second name, torch.compile of
    # torch 2.11 takes the gradient wrongly.
    return out if out.is_contiguous() else out.contiguous()
