"""Inner loops in C, compiled by this machine's own compiler for this process alone.

A processor keeps intermediate values in its registers where tensor operations write each of them to memory. The library
is made anew in each process, in about half a second (another node's processor may differ), and its file is gone as soon
as it is loaded. Where there is no compiler, tensor operations do the same. `CERTTRAIN_COMPILER` names another compiler
than `cc`; empty, none is used.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import torch

VARIABLE = "CERTTRAIN_COMPILER"
# Products and sums stay apart, as IEEE 754 rounds them. Square roots need set no errno, and no operation traps: their
# loops become vectors.
FLAGS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
TIMEOUT = 60  # seconds
_pool: list[ThreadPoolExecutor] = []


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


def source(package: str, name: str) -> str:
    """A C file beside the modules of a package."""
    return resources.files(package).joinpath(name).read_text()


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
