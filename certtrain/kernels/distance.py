"""Weighted l1 distances of some points from others, with their gradient written out.

    found_bj = sum_i w_bi |own_bi - points_ji|

The tensor of all differences, (B, K, n), is only ever there in chunks, or with `distance.c` not at all.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certtrain.kernels import loader

CACHED, CHUNK = 2**18, 2**24  # differences at a time: on a processor few enough for its cache, elsewhere for its memory


class Loops:
    """The compiled functions, for contiguous tensors of one of `loader.NAMES` on the CPU.

    Args:
        library: of `distance.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        loader.declare(library, {"weighted": (3, 4), "weighted_back": (5, 7)})

    def weighted(self, own: Tensor, points: Tensor, weight: Tensor) -> Tensor:
        """`WeightedDistance.forward`."""
        (rows, size), count = own.shape, len(points)
        found, step = own.new_empty(rows, count), own.element_size()
        function = getattr(self._library, f"weighted_{loader.NAMES[own.dtype]}")
        places = own.data_ptr(), points.data_ptr(), weight.data_ptr(), found.data_ptr()

        def work(start: int, stop: int) -> None:
            first, into = start * size * step, start * count * step
            given = places[0] + first, places[1], places[2] + first, places[3] + into
            function(stop - start, count, size, *given)

        loader.in_threads(work, rows, rows * count * size // loader.SEVERAL)
        return found

    def weighted_back(self, own: Tensor, points: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`WeightedDistance.backward`."""
        (rows, size), count = own.shape, len(points)
        found = torch.empty_like(own), torch.zeros_like(points), torch.empty_like(weight)
        function = getattr(self._library, f"weighted_back_{loader.NAMES[own.dtype]}")
        places = [tensor.data_ptr() for tensor in (own, points, weight, grad, *found)]

        def work(start: int, stop: int) -> None:
            function(rows, count, size, start, stop, *places)

        loader.in_threads(work, size, rows * count * size // loader.SEVERAL)
        return found


class WeightedDistance(torch.autograd.Function):
    """(B, n) own points, (K, n) points and (B, n) weights -> (B, K) distances; where two are equal the slope is 0."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, points: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(own, points, weight)
        if (compiled := _loops_for(own, points, weight)) is not None:
            return compiled.weighted(own, points, weight)
        found = own.new_empty(len(own), len(points))
        for some in _chunks(own, points):
            gaps = (own[some, None] - points).abs_()
            found[some] = (gaps @ weight[some, :, None]).squeeze(2)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own, points, weight = ctx.saved_tensors
        if (compiled := _loops_for(own, points, weight, grad := grad.contiguous())) is not None:
            return compiled.weighted_back(own, points, weight, grad)
        grad_own, grad_points, grad_weight = (torch.zeros_like(one) for one in (own, points, weight))
        for some in _chunks(own, points):
            gaps, up = own[some, None] - points, grad[some, None]
            grad_weight[some] = (up @ gaps.abs()).squeeze(1)
            signs = gaps.sign_().mul_(weight[some, None])
            grad_own[some] = (up @ signs).squeeze(1)
            grad_points -= (up.transpose(0, 2) @ signs.transpose(0, 1)).squeeze(1)
        return grad_own, grad_points, grad_weight


def _chunks(own: Tensor, points: Tensor) -> list[slice]:
    """Rows to treat together."""
    size = max(1, (CACHED if own.is_cpu else CHUNK) // max(1, points.numel()))
    return [slice(start, start + size) for start in range(0, len(own), size)]


def _loops_for(*tensors: Tensor) -> Loops | None:
    own, points = tensors[:2]
    return LOOPS.loops_for(len(own) * points.numel(), tensors)


def agrees(compiled: Loops) -> bool:
    """Whether the loops compute what tensor operations do, also of what is no number."""
    draw = torch.Generator().manual_seed(0)
    for dtype in loader.NAMES:
        own, weight = torch.randn(2, 5, 71, generator=draw, dtype=dtype)
        points, grad = (torch.randn(*shape, generator=draw, dtype=dtype) for shape in ((7, 71), (5, 7)))
        points[3] = own[2]
        own[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=dtype)
        found = []
        for chosen in (compiled, None):
            given = [one.clone().requires_grad_() for one in (own, points, weight)]
            with LOOPS.instead(chosen):
                distances = WeightedDistance.apply(*given)
                found.append([distances, *torch.autograd.grad(distances, given, grad)])
        tolerance = 256 * torch.finfo(dtype).eps
        for ours, theirs in zip(*found, strict=True):
            if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True):
                return False
    return True


LOOPS = loader.Loader(
    Loops, lambda: loader.in_both_types(loader.source("distance.c")), agrees, "the compiled distances"
)
