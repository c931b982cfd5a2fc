"""The means of `moments` compiled: `moments.c` reads the bounds once and keeps everything else in registers.

Used as the compiled ReLUs are (`certtrain.bounds.kernel`), by size alone. Sums are over pieces of fixed size, in
float64 from piece to piece, so that the number of threads changes no bit.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from certtrain import loops
from certtrain.compiled import in_threads
from certtrain.loops import NAMES, declare, if_it_agrees, over_elements, suitable

MEANS = 8


class Kernel:
    """The compiled functions, for contiguous tensors of one of `NAMES` on the CPU.

    Args:
        library: of `moments.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        declare(library, {"centres": (1, 3), "moments": (1, 4), "gradients": (1, 6)})

    def mean_centre(self, lower: Tensor, upper: Tensor) -> Tensor:
        """`moments.mean_centre`."""
        return self._means("centres", lower, upper, [], 1)[0]

    def moments(self, lower: Tensor, upper: Tensor, pivot: Tensor) -> Tensor:
        """`Moments.forward`."""
        return self._means("moments", lower, upper, [pivot], MEANS)

    def gradients(self, lower: Tensor, upper: Tensor, pivot: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """`Moments.backward`, without the pivot's."""
        found, of_sums = (torch.empty_like(lower), torch.empty_like(upper)), (grad / lower.numel()).contiguous()
        over_elements(self._library, "gradients", [lower, upper, *found], [of_sums, pivot])
        return found

    def _means(self, name: str, lower: Tensor, upper: Tensor, more: list[Tensor], columns: int) -> Tensor:
        count, size = lower.numel(), lower.element_size()
        function = getattr(self._library, f"{name}_{NAMES[lower.dtype]}")
        sums = torch.empty(-(-count // loops.SEVERAL), columns, dtype=torch.float64, device="cpu")
        places = lower.data_ptr(), upper.data_ptr()
        given, into = [tensor.data_ptr() for tensor in more], sums.data_ptr()

        def work(start: int, stop: int) -> None:
            for piece in range(start, stop):
                first = piece * loops.SEVERAL
                ends = [place + first * size for place in places]
                function(min(loops.SEVERAL, count - first), *ends, *given, into + piece * columns * 8)

        in_threads(work, len(sums), len(sums))
        return (sums.sum(0) / count).to(lower.dtype)


def kernel_for(lower: Tensor, upper: Tensor) -> Kernel | None:
    """The kernel, where it is to be used for these bounds; else None."""
    if torch.compiler.is_compiling() or lower.numel() < loops.LARGE or not suitable([lower, upper], any_order=True):
        return None
    return made()


@functools.cache
def made() -> Kernel | None:
    """The kernel of this process, compiled at the first call; None where it cannot be had or is not right."""
    return if_it_agrees(build(), agrees, "the compiled means of bounds")


def build(environment: Mapping[str, str] = os.environ) -> Kernel | None:
    """Compile `moments.c` for this machine; None where that cannot be done."""
    library = loops.library("certtrain.methods", "moments.c", environment)
    return None if library is None else Kernel(library)


def agrees(kernel: Kernel) -> bool:
    """Whether the kernel computes what tensor operations do, also of what is no number."""
    from certtrain.methods.moments import gradients_by_tensors, mean_centre_by_tensors, moments_by_tensors

    draw = torch.Generator().manual_seed(0)
    for dtype in NAMES:
        bounds, grad = torch.randn(2, 5, 31, 37, generator=draw, dtype=dtype), torch.randn(MEANS, generator=draw)
        for value in (0.0, torch.inf, torch.nan):
            bounds[:, 0, 0, 0] = value
            lower, upper = bounds.sort(0).values.unbind()
            pivot, grad = torch.full((), 0.25, dtype=dtype), grad.to(dtype)
            given = lower, upper, pivot
            pairs = [
                (kernel.mean_centre(lower, upper), mean_centre_by_tensors(lower, upper)),
                (kernel.moments(*given), moments_by_tensors(*given)),
                *zip(kernel.gradients(*given, grad), gradients_by_tensors(*given, grad)),
            ]
            tolerance = 256 * torch.finfo(dtype).eps
            if not all(torch.allclose(*pair, rtol=tolerance, atol=tolerance, equal_nan=True) for pair in pairs):
                return False
    return True
