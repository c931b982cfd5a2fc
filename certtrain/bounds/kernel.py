"""The ReLUs of `fused` compiled: `relu.c` passes over memory once where tensor operations pass a dozen times.

Used for float32 and float64 tensors on a CPU, from the first large one on, where a compiler is at hand
(`certtrain.compiled`). A resumed run computes as one that never stopped: the interval ReLU has the bits of the tensors'
way, and of the others, which sum in another order, the size alone decides.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from certtrain import loops
from certtrain.compiled import in_threads
from certtrain.loops import NAMES, declare, if_it_agrees, over_elements, suitable

_chosen: list[Kernel | None] = []


class Kernel:
    """The compiled functions, for contiguous tensors of one of `NAMES` on the CPU.

    Args:
        library: of `relu.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        declare(library, {"interval": (1, 8), "interval_back": (1, 11), "boxed": (3, 6), "boxed_back": (3, 9)})

    def interval(self, *tensors: Tensor) -> None:
        """`IntervalRelu.forward` of clean, centre and radius into clean, centre, radius, lower and upper."""
        over_elements(self._library, "interval", tensors)

    def interval_back(self, *tensors: Tensor | None) -> None:
        """`IntervalRelu.backward` of clean, lower and upper and five gradients into those of clean, centre, radius."""
        over_elements(self._library, "interval_back", tensors)

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
        function, (rows, functions, size) = getattr(self._library, f"{name}_{NAMES[tensors[0].dtype]}"), shape
        places = [(tensor.data_ptr(), tensor[0].numel() * tensor.element_size()) for tensor in tensors]

        def work(start: int, stop: int) -> None:
            room = tensors[0].new_empty(rooms * size)
            function(stop - start, functions, size, *(place + start * step for place, step in places), room.data_ptr())

        in_threads(work, rows, shape.numel() // loops.SEVERAL)


def kernel_for(size: int, *tensors: Tensor | None, same_bits: bool = False) -> Kernel | None:
    """The kernel, where it is to be used for these tensors; else None.

    Args:
        size: elements of all that is done.
        tensors: all that is read.
        same_bits: the outcome does not depend on whether it is used: small tensors may, once there is one.
    """
    if _chosen:
        return _chosen[-1]
    if torch.compiler.is_compiling() or (size < loops.LARGE and not (same_bits and made.cache_info().currsize)):
        return None
    return made() if suitable(tensors, any_order=same_bits) else None


@functools.cache
def made() -> Kernel | None:
    """The kernel of this process, compiled at the first call; None where it cannot be had or is not right."""
    return if_it_agrees(build(), agrees, "the compiled ReLUs")


def agrees(kernel: Kernel) -> bool:
    """Whether the kernel computes what tensor operations do, on numbers of all signs and some that are none."""
    from certtrain.bounds import fused

    draw = torch.Generator().manual_seed(0)
    for dtype in NAMES:
        values = [torch.randn(9, 3, 40, generator=draw, dtype=dtype) for _ in range(5)]
        values[0][0, 0, :4] = torch.tensor([0.0, torch.nan, torch.inf, -torch.inf], dtype=dtype)
        found = []
        for chosen in (kernel, None):
            parts = [value.clone().requires_grad_() for value in values[:3]]
            a, lower, upper = values[3], *torch.sort(torch.stack([value[:, 0] for value in values[3:]]), 0).values
            boxed = [value.clone().requires_grad_() for value in (a, lower, upper)]
            with _instead(chosen):
                interval, outputs = fused.IntervalRelu.apply(*parts), fused.BoxedRelu.apply(*boxed)
                back = torch.autograd.grad(interval, parts, [values[4]] * 5)
                rest = torch.autograd.grad(outputs, boxed, [values[4], values[4][:, :, 0].contiguous()])
            found.append([*interval, *back, *outputs, *rest])
        for place, (ours, theirs) in enumerate(zip(*found, strict=True)):
            tolerance = 0 if place < 8 else 64 * torch.finfo(dtype).eps
            if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True):
                return False
    return True


@contextmanager
def _instead(kernel: Kernel | None) -> Iterator[None]:
    """The kernel, or none, for everything."""
    _chosen.append(kernel)
    try:
        yield
    finally:
        _chosen.pop()


def build(environment: Mapping[str, str] = os.environ) -> Kernel | None:
    """Compile `relu.c` for this machine; None where that cannot be done."""
    library = loops.library("certtrain.bounds", "relu.c", environment)
    return None if library is None else Kernel(library)
