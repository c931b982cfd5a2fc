"""Loops in C, compiled by this machine's own compiler for this process alone, and when they are used.

A processor keeps intermediate values in its registers where tensor operations write each of them to memory. A library
is made anew in each process, in about half a second (another node's processor may differ), and its file is gone as soon
as it is loaded. It is used only when it agrees with the tensor form of the same computation; where there is no
compiler, or on an accelerator, the tensor form computes. `CERTTRAIN_COMPILER` names another compiler than `cc`; empty,
none is used.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

VARIABLE = "CERTTRAIN_COMPILER"
# Products and sums stay apart, as IEEE 754 rounds them. Square roots need set no errno, and no operation traps: their
# loops become vectors.
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
TIMEOUT = 60  # seconds
LARGE = 1 << 16  # elements, from which loops are used: to compile costs half a second
LANES = 32  # sums that are added up side by side
SEVERAL = 1 << 15  # elements that are worth a thread of their own
NAMES = {torch.float32: "float", torch.float64: "double"}
T = TypeVar("T")
_pool: list[ThreadPoolExecutor] = []


class Loader(Generic[T]):
    """The loops of one C file: compiled when they are first needed, and used only where they agree with tensors.

    Args:
        loops: makes their Python side of the loaded library.
        program: gives the C text.
        agrees: whether the loops compute what the tensor form does.
        what: names them in the warning when they do not, `the compiled ReLUs`.
    """

    def __init__(
        self,
        loops: Callable[[ctypes.CDLL], T],
        program: Callable[[], str],
        agrees: Callable[[T], bool],
        what: str,
    ) -> None:
        self._loops, self._program, self._agrees, self._what = loops, program, agrees, what
        self._found: list[T | None] = []
        self._instead: list[T | None] = []

    def build(self, environment: Mapping[str, str] = os.environ) -> T | None:
        """Compile for this machine; None where that cannot be done."""
        library = compiled(self._program(), environment)
        return None if library is None else self._loops(library)

    def checked(self) -> T | None:
        """Compile and compare; None where there is nothing to compile with, or, with a warning, nothing right."""
        loops = self.build()
        with torch.inference_mode(False), torch.enable_grad():  # whatever the first call is in
            if loops is None or self._agrees(loops):
                return loops
        warnings.warn(f"{self._what} differ from the tensors' and are not used: report your compiler", stacklevel=3)
        return None

    def get(self) -> T | None:
        """The loops of this process, compiled at the first call; None where they cannot be had or are not right."""
        if not self._found:
            self._found.append(self.checked())
        return self._found[0]

    def loops_for(
        self, size: int, tensors: Sequence[Tensor | None], *, any_order: bool = False, same_bits: bool = False
    ) -> T | None:
        """The loops, where they are to be used for these tensors; else None.

        A resumed run must compute as one that never stopped: where the loops round otherwise than the tensor form does,
        the size alone decides.

        Args:
            size: elements of all that is done.
            tensors: all that is read.
            any_order: the same is done with every element: all tensors may be channels_last instead.
            same_bits: the outcome does not depend on who computes it: small tensors may be given to loops that exist.
        """
        if self._instead:
            return self._instead[-1]
        if torch.compiler.is_compiling() or (size < LARGE and not (same_bits and self._found)):
            return None
        return self.get() if suitable(tensors, any_order=any_order) else None

    @contextmanager
    def instead(self, loops: T | None) -> Iterator[None]:
        """These loops, or the tensor form, for everything: to compare them."""
        self._instead.append(loops)
        try:
            yield
        finally:
            self._instead.pop()


def compiled(text: str, environment: Mapping[str, str] = os.environ) -> ctypes.CDLL | None:
    """The library of a C program, for this machine's processor; None without a compiler that works."""
    compiler = shutil.which(environment.get(VARIABLE, "cc") or "no compiler")
    if compiler is None:
        return None
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return _loaded(compiler, text, Path(folder) / "certtrain.so")
    except OSError:  # no folder for it that may be written
        return None


def _loaded(compiler: str, text: str, library: Path) -> ctypes.CDLL | None:
    for more in (["-march=native"], []):
        command = [compiler, *FLAGS, *more, "-x", "c", "-", "-o", str(library), "-lm"]
        try:
            subprocess.run(command, input=text, text=True, capture_output=True, check=True, timeout=TIMEOUT)
            return ctypes.CDLL(str(library))  # loaded, it needs its file no more
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def source(name: str) -> str:
    """The text of a C file of this folder."""
    return resources.files("certtrain.kernels").joinpath(name).read_text()


def in_both_types(text: str) -> str:
    """A C text twice, with REAL `float` and `double`, and `NAME(x)` a name of its own for each."""
    lines = ["#include <stddef.h>", "#include <stdint.h>", "#include <string.h>", f"#define LANES {LANES}"]
    for real in NAMES.values():
        lines += [f"#define REAL {real}", f"#define NAME(x) x##_{real}", text, "#undef REAL", "#undef NAME"]
    return "\n".join(lines) + "\n"


def suitable(tensors: Sequence[Tensor | None], *, any_order: bool = False) -> bool:
    """Whether loops can read these tensors, not all None: contiguous, on the CPU, of one dtype of `NAMES`."""
    given = [tensor for tensor in tensors if tensor is not None]
    dtype = given[0].dtype
    if dtype not in NAMES:
        return False
    if not all(tensor.is_cpu and tensor.dtype == dtype for tensor in given):
        return False
    if all(tensor.is_contiguous() for tensor in given):
        return True
    return any_order and all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in given)


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


def in_threads(work: Callable[[int, int], None], count: int, threads: int) -> None:
    """`work(start, stop)` over [0, count), in so many threads at most and never more than torch has.

    The interpreter is free while a library's function runs.
    """
    threads = max(1, min(torch.get_num_threads(), threads, count))
    if threads == 1:
        work(0, count)
        return
    size = -(-count // threads)
    if not _pool:
        _pool.append(ThreadPoolExecutor(os.cpu_count()))
    starts = range(0, count, size)
    list(_pool[0].map(work, starts, [min(start + size, count) for start in starts]))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.clear)  # threads stay with the parent
