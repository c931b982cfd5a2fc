"""Means over one layer's bounds, with their gradient written out: what Shi's regularisers are functions of.

With l, u the bounds, c = (l + u) / 2 their centres and p a number near the mean of all c, the pivot, the means of

    (u-l)/2,  c - p,  [l > 0],  (c-p) [l > 0],  (c-p)^2 [l > 0],  [u < 0],  (c-p) [u < 0],  (c-p)^2 [u < 0].

Those about any other number follow from them, also after an average over several processes. `moments.c` reads the
bounds once forward and once back, where autograd's own take a dozen passes each way. Its sums are over pieces of fixed
size, in float64 from piece to piece, so that the number of threads changes no bit.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certtrain.kernels import loader

MEANS = 8


class Loops:
    """The compiled functions, for contiguous tensors of one of `loader.NAMES` on the CPU.

    Args:
        library: of `moments.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        loader.declare(library, {"centres": (1, 3), "moments": (1, 4), "gradients": (1, 6)})

    def mean_centre(self, lower: Tensor, upper: Tensor) -> Tensor:
        """`mean_centre`."""
        return self._means("centres", lower, upper, [], 1)[0]

    def moments(self, lower: Tensor, upper: Tensor, pivot: Tensor) -> Tensor:
        """`Moments.forward`."""
        return self._means("moments", lower, upper, [pivot], MEANS)

    def gradients(self, lower: Tensor, upper: Tensor, pivot: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """`Moments.backward`, without the pivot's."""
        found, of_sums = (torch.empty_like(lower), torch.empty_like(upper)), (grad / lower.numel()).contiguous()
        loader.over_elements(self._library, "gradients", [lower, upper, *found], [of_sums, pivot])
        return found

    def _means(self, name: str, lower: Tensor, upper: Tensor, more: list[Tensor], columns: int) -> Tensor:
        count, size = lower.numel(), lower.element_size()
        function = getattr(self._library, f"{name}_{loader.NAMES[lower.dtype]}")
        sums = torch.empty(-(-count // loader.SEVERAL), columns, dtype=torch.float64, device="cpu")
        places = lower.data_ptr(), upper.data_ptr()
        given, into = [tensor.data_ptr() for tensor in more], sums.data_ptr()

        def work(start: int, stop: int) -> None:
            for piece in range(start, stop):
                first = piece * loader.SEVERAL
                ends = [place + first * size for place in places]
                function(min(loader.SEVERAL, count - first), *ends, *given, into + piece * columns * 8)

        loader.in_threads(work, len(sums), len(sums))
        return (sums.sum(0) / count).to(lower.dtype)


class Moments(torch.autograd.Function):
    """(...) lower and upper bounds, and () the pivot -> (8,) the means, in the pivot's dtype.

    The pivot is a choice, not a function, and gets no gradient. A centre that is not finite gets none from the means of
    squares: it makes them what its layer is dropped for.
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor, pivot: Tensor) -> Tensor:
        ctx.save_for_backward(lower, upper, pivot)
        if (compiled := _loops_for(lower, upper)) is not None:
            return compiled.moments(lower, upper, pivot)
        return moments_by_tensors(lower, upper, pivot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        lower, upper, pivot = ctx.saved_tensors
        if (compiled := _loops_for(lower, upper)) is not None:
            return *compiled.gradients(lower, upper, pivot, grad), None
        return *gradients_by_tensors(lower, upper, pivot, grad), None


def mean_centre(lower: Tensor, upper: Tensor) -> Tensor:
    """() the mean of the centres, without a gradient; in float32 at the least."""
    lower, upper = lower.detach(), upper.detach()
    if (compiled := _loops_for(lower, upper)) is not None:
        return compiled.mean_centre(lower, upper)
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


def _loops_for(lower: Tensor, upper: Tensor) -> Loops | None:
    return LOOPS.loops_for(lower.numel(), [lower, upper], any_order=True)


def agrees(compiled: Loops) -> bool:
    """Whether the loops compute what tensor operations do, also of what is no number."""
    draw = torch.Generator().manual_seed(0)
    for dtype in loader.NAMES:
        bounds, grad = torch.randn(2, 5, 31, 37, generator=draw, dtype=dtype), torch.randn(MEANS, generator=draw)
        for value in (0.0, torch.inf, torch.nan):
            bounds[:, 0, 0, 0] = value
            lower, upper = bounds.sort(0).values.unbind()
            pivot, grad = torch.full((), 0.25, dtype=dtype), grad.to(dtype)
            given = lower, upper, pivot
            pairs = [
                (compiled.mean_centre(lower, upper), mean_centre_by_tensors(lower, upper)),
                (compiled.moments(*given), moments_by_tensors(*given)),
                *zip(compiled.gradients(*given, grad), gradients_by_tensors(*given, grad)),
            ]
            tolerance = 256 * torch.finfo(dtype).eps
            if not all(torch.allclose(*pair, rtol=tolerance, atol=tolerance, equal_nan=True) for pair in pairs):
                return False
    return True


LOOPS = loader.Loader(
    Loops, lambda: loader.in_both_types(loader.source("moments.c")), agrees, "the compiled means of bounds"
)
