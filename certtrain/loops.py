"""Compiled loops over float32 and float64 tensors on a CPU: when they are used, and how they are made.

What `certtrain.compiled` makes of a C file that says REAL where a number stands: its functions once for each dtype, and
used only where they compute what tensor operations do.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from certtrain.compiled import compiled, in_threads, source

LARGE = 1 << 16  # elements, from which loops are used: to compile costs half a second
LANES = 32  # sums that are added up side by side
SEVERAL = 1 << 15  # elements that are worth a thread of their own
NAMES = {torch.float32: "float", torch.float64: "double"}
T = TypeVar("T")


def suitable(tensors: Sequence[Tensor | None], *, any_order: bool = False) -> bool:
    """Whether loops can read these tensors, not all None: contiguous, on the CPU, of one dtype of `NAMES`.

    Args:
        any_order: loops that do the same with every element: all tensors may be channels_last instead.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    dtype = given[0].dtype
    if dtype not in NAMES:
        return False
    if not all(tensor.is_cpu and tensor.dtype == dtype for tensor in given):
        return False
    if all(tensor.is_contiguous() for tensor in given):
        return True
    return any_order and all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in given)


def library(package: str, name: str, environment: Mapping[str, str] = os.environ) -> ctypes.CDLL | None:
    """The C file `name` of a package, compiled for this machine; None where that cannot be done.

    Its text comes twice, with REAL `float` and `double`, and `NAME(x)` a name of its own for each.
    """
    text = source(package, name)
    lines = ["#include <stddef.h>", "#include <stdint.h>", "#include <string.h>", f"#define LANES {LANES}"]
    for real in NAMES.values():
        lines += [f"#define REAL {real}", f"#define NAME(x) x##_{real}", text, "#undef REAL", "#undef NAME"]
    return compiled("\n".join(lines) + "\n", environment)


def declare(library: ctypes.CDLL, functions: Mapping[str, tuple[int, int]]) -> None:
    """Tell the arguments of functions without a result: how many int64 numbers, then how many pointers."""
    for name, (numbers, pointers) in functions.items():
        for real in NAMES.values():
            function = getattr(library, f"{name}_{real}")
            function.argtypes = [ctypes.c_int64] * numbers + [ctypes.c_void_p] * pointers
            function.restype = None


def over_elements(
    library: ctypes.CDLL, name: str, tensors: Sequence[Tensor | None], whole: Sequence[Tensor] = ()
) -> None:
    """Call a function with (count, tensors, whole), the elements shared among threads.

    Args:
        library: has it for each dtype.
        name: without the dtype.
        tensors: of as many elements each, not all None; a thread gets a piece of each.
        whole: every thread gets all of each.
    """
    first = next(tensor for tensor in tensors if tensor is not None)
    function, size, count = getattr(library, f"{name}_{NAMES[first.dtype]}"), first.element_size(), first.numel()
    places = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    rest = [tensor.data_ptr() for tensor in whole]

    def work(start: int, stop: int) -> None:
        function(stop - start, *(None if place is None else place + start * size for place in places), *rest)

    in_threads(work, count, count // SEVERAL)


def if_it_agrees(kernel: T | None, agrees: Callable[[T], bool], what: str) -> T | None:
    """The kernel; None, with a warning, when it does not compute what tensor operations do.

    Args:
        kernel: the compiled functions, or None.
        agrees: compares.
        what: names them in the warning, `the compiled ReLUs`.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the first call is in
        if kernel is None or agrees(kernel):
            return kernel
    warnings.warn(f"{what} differ from the tensors' and are not used", stacklevel=3)
    return None
