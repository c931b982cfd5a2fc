"""An attack in boxes and its gradient link: what TAPS does with many points for each example.

Points are places in [0, 1] of their box. `latent.c` passes once over memory where tensor operations pass a dozen times.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from certtrain.kernels import loader


class Loops:
    """The compiled functions, for contiguous tensors of one of `loader.NAMES` on the CPU.

    Args:
        library: of `latent.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        loader.declare(library, {"advance": (4, 8), "link_back": (4, 7)})

    def advance(
        self, place: Tensor, best: Tensor, better: Tensor, gradient: Tensor, lower: Tensor, width: Tensor, size: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`advance`, which overwrites `place` and `best`."""
        function = getattr(self._library, f"advance_{loader.NAMES[place.dtype]}")
        point = torch.empty_like(place)
        better, length = better.to(place.dtype), place.new_full((), size)
        places = [one.data_ptr() for one in (place, best, better, gradient, lower, width, length, point)]
        several, numbers = place.shape[1], lower[0].numel()

        def work(start: int, stop: int) -> None:
            function(start, stop, several, numbers, *places)

        loader.in_threads(work, len(place) * several, place.numel() // loader.SEVERAL)
        return place, best, point

    def link_back(
        self, point: Tensor, lower: Tensor, upper: Tensor, grad: Tensor, link: float, least: float
    ) -> tuple[Tensor, Tensor]:
        """`link_back_by_tensors`."""
        function = getattr(self._library, f"link_back_{loader.NAMES[point.dtype]}")
        settings, found = point.new_tensor([link, least]), (torch.empty_like(lower), torch.empty_like(upper))
        places = [one.data_ptr() for one in (point, lower, upper, grad, settings, *found)]
        several, numbers = point.shape[1], lower[0].numel()

        def work(start: int, stop: int) -> None:
            function(start, stop, several, numbers, *places)

        loader.in_threads(work, len(point), point.numel() // loader.SEVERAL)
        return found


def advance(
    place: Tensor, best: Tensor, better: Tensor, gradient: Tensor, lower: Tensor, width: Tensor, size: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The next places, the best ones so far, and the next points `lower + place width`; may overwrite the first two.

    Args:
        place: (B, S, ...) in [0, 1], S points of each example.
        best: (B, S, ...) the best places before these.
        better: (B, S) whether these are better.
        gradient: (B, S, ...) along whose signs the places go down.
        lower: (B, ...) of the boxes; width: likewise.
        size: of the step.
    """
    tensors = (place, best, gradient, lower, width)
    if (compiled := LOOPS.loops_for(place.numel(), tensors, same_bits=True)) is not None:
        return compiled.advance(place, best, better, gradient, lower, width, size)
    return advance_by_tensors(place, best, better, gradient, lower, width, size)


def advance_by_tensors(
    place: Tensor, best: Tensor, better: Tensor, gradient: Tensor, lower: Tensor, width: Tensor, size: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`advance`, by tensor operations."""
    best = torch.where(better.reshape(*better.shape, *[1] * (place.dim() - 2)), place, best)
    place = (place - size * gradient.sign()).clamp_(0, 1)
    return place, best, (place * width[:, None]).add_(lower[:, None])


class Linked(torch.autograd.Function):
    """(B, S, ...) the points of boxes at places in [0, 1], with a gradient of the bounds that is not their derivative.

    See `methods.taps.linked`, which has the formula.
    """

    @staticmethod
    def forward(ctx: Any, place: Tensor, lower: Tensor, upper: Tensor, link: float, least: float) -> Tensor:
        low, high = lower[:, None], upper[:, None]
        point = (place * (high - low)).add_(low)
        point = torch.minimum(torch.maximum(point, low, out=point), high, out=point)
        ctx.save_for_backward(point, lower, upper)
        ctx.settings = link, least
        return point

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        given = *ctx.saved_tensors, grad.contiguous()
        compiled = LOOPS.loops_for(grad.numel(), given)
        back = link_back_by_tensors if compiled is None else compiled.link_back
        return None, *back(*given, *ctx.settings), None, None


def link_back_by_tensors(
    point: Tensor, lower: Tensor, upper: Tensor, grad: Tensor, link: float, least: float
) -> tuple[Tensor, Tensor]:
    """`Linked.backward`: the gradients of lower and upper, by tensor operations."""
    low, high = lower[:, None], upper[:, None]
    reach = link * (high - low)
    above, below = point - (high - reach), (low + reach) - point
    to_upper, to_lower = (
        torch.where(inside >= 0, inside.clamp_min(least / 2) / reach.clamp_min(least), 0) for inside in (above, below)
    )
    return (grad * to_lower).sum(1), (grad * to_upper).sum(1)


def agrees(compiled: Loops) -> bool:
    """Whether the loops have the bits of tensor operations."""
    draw = torch.Generator().manual_seed(0)
    for dtype in loader.NAMES:
        place, best = torch.rand(2, 3, 4, 5, 7, generator=draw, dtype=dtype)
        gradient = torch.randn(3, 4, 5, 7, generator=draw, dtype=dtype)
        lower, width = torch.randn(2, 3, 5, 7, generator=draw, dtype=dtype)
        gradient[0, 0, 0, :3], width[1] = torch.tensor([0.0, torch.inf, -torch.inf], dtype=dtype), 0
        better = torch.rand(3, 4, generator=draw) < 0.5
        given = better, gradient, lower, width, 0.2
        expected = advance_by_tensors(place, best, *given)
        if not all(map(torch.equal, compiled.advance(place.clone(), best.clone(), *given), expected)):
            return False
        point, grad = lower[:, None] + place * width.abs()[:, None], gradient.nan_to_num(0, 1, 1)
        given = point, lower, lower + width.abs(), grad, 0.5, 1e-5
        tolerance = 64 * torch.finfo(dtype).eps
        for pair in zip(compiled.link_back(*given), link_back_by_tensors(*given), strict=True):
            if not torch.allclose(*pair, rtol=tolerance, atol=tolerance):
                return False
    return True


LOOPS = loader.Loader(Loops, lambda: loader.in_both_types(loader.source("latent.c")), agrees, "the compiled attack")
