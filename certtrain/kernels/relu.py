"""ReLUs of bounds with their gradients written out: autograd's own take two to three times the traffic.

Each is once differentiable. `relu.c` passes over memory once where tensor operations pass a dozen times: for float32
and float64 tensors on a CPU, from the first large one on. The interval ReLU has the bits of its tensor form; the others
sum in another order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certtrain.kernels import loader

_CACHED = 2**18


class Loops:
    """The compiled functions, for contiguous tensors of one of `loader.NAMES` on the CPU.

    Args:
        library: of `relu.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        loader.declare(library, {"interval": (1, 8), "interval_back": (1, 11), "boxed": (3, 6), "boxed_back": (3, 9)})

    def interval(self, *tensors: Tensor) -> None:
        """`IntervalRelu.forward` of clean, centre and radius into clean, centre, radius, lower and upper."""
        loader.over_elements(self._library, "interval", tensors)

    def interval_back(self, *tensors: Tensor | None) -> None:
        """`IntervalRelu.backward` of clean, lower and upper and five gradients into those of clean, centre, radius."""
        loader.over_elements(self._library, "interval_back", tensors)

    def boxed(self, a: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """`BoxedRelu.forward`."""
        before, constant = torch.empty_like(a), a.new_empty(a.shape[:2])
        self._examples("boxed", a.shape, [a, lower, upper, before, constant], rooms=4)
        return before, constant

    def boxed_back(
        self, a: Tensor, lower: Tensor, upper: Tensor, grad: Tensor, grad_constant: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`BoxedRelu.backward`."""
        found = torch.empty_like(a), torch.empty_like(lower), torch.empty_like(upper)
        self._examples("boxed_back", a.shape, [a, lower, upper, grad, grad_constant, *found], rooms=6)
        return found

    def _examples(self, name: str, shape: torch.Size, tensors: list[Tensor], rooms: int) -> None:
        function, (rows, functions, size) = getattr(self._library, f"{name}_{loader.NAMES[tensors[0].dtype]}"), shape
        places = [(tensor.data_ptr(), tensor[0].numel() * tensor.element_size()) for tensor in tensors]

        def work(start: int, stop: int) -> None:
            room = tensors[0].new_empty(rooms * size)
            function(stop - start, functions, size, *(place + start * step for place, step in places), room.data_ptr())

        loader.in_threads(work, rows, shape.numel() // loader.SEVERAL)


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
        if (compiled := _same_bits(clean.numel(), radius, *parts)) is not None:
            compiled.interval(clean, centre, radius, out_clean, out_centre, spread, lower, upper)
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
        if (compiled := _same_bits(lower.numel(), *given)) is not None:
            compiled.interval_back(*given, out_clean, out_centre, grad_radius)
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
        if (compiled := LOOPS.loops_for(a.numel(), [a, lower, upper])) is not None:
            return compiled.boxed(a, lower, upper)
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
        if (compiled := LOOPS.loops_for(a.numel(), [a, lower, upper, grad, grad_constant])) is not None:
            return compiled.boxed_back(a, lower, upper, grad, grad_constant)
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


def _same_bits(size: int, *tensors: Tensor | None) -> Loops | None:
    """The loops of the interval ReLU: element by element, with the bits of the tensor form."""
    return LOOPS.loops_for(size, tensors, any_order=True, same_bits=True)


def agrees(compiled: Loops) -> bool:
    """Whether the loops compute what tensor operations do, on numbers of all signs and some that are none."""
    draw = torch.Generator().manual_seed(0)
    for dtype in loader.NAMES:
        values = [torch.randn(9, 3, 40, generator=draw, dtype=dtype) for _ in range(5)]
        values[0][0, 0, :4] = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf], dtype=dtype)
        found = []
        for chosen in (compiled, None):
            parts = [value.clone().requires_grad_() for value in values[:3]]
            a, lower, upper = values[3], *torch.sort(torch.stack([value[:, 0] for value in values[3:]]), 0).values
            boxed = [value.clone().requires_grad_() for value in (a, lower, upper)]
            with LOOPS.instead(chosen):
                interval, outputs = IntervalRelu.apply(*parts), BoxedRelu.apply(*boxed)
                back = torch.autograd.grad(interval, parts, [values[4]] * 5)
                rest = torch.autograd.grad(outputs, boxed, [values[4], values[4][:, :, 0].contiguous()])
            found.append([*interval, *back, *outputs, *rest])
        for place, (ours, theirs) in enumerate(zip(*found, strict=True)):
            tolerance = 0 if place < 8 else 64 * torch.finfo(dtype).eps
            if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True):
                return False
    return True


LOOPS = loader.Loader(Loops, lambda: loader.in_both_types(loader.source("relu.c")), agrees, "the compiled ReLUs")
