"""The keyed noise compiled: `noise.c` makes the bits of `noise.py` in a sixth of the time of tensor operations.

It takes over once a process has made as much noise as compiling costs. Where there is no compiler
(`certtrain.compiled`), on accelerators, and should a single bit differ, tensor operations make the noise.
"""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from certtrain.compiled import compiled, in_threads, source
from certtrain.randomness import MULTIPLIERS, ROUNDS, WEYL, Key

PAYS_AFTER = 1 << 23  # counters, by when tensor operations took as long as the compiler takes: 0.3 s
SEVERAL = 1 << 15  # counters that are worth a thread of their own
_made = 0


class Kernel:
    """The compiled functions.

    Args:
        library: of `noise.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer = ctypes.c_void_p
        self._rows, self._pairs = library.noise_rows, library.normal_pairs
        self._rows.argtypes = [
            *(ctypes.c_uint32, ctypes.c_uint32, pointer, pointer),
            *(ctypes.c_int64, ctypes.c_uint32, ctypes.c_float, pointer),
        ]
        self._pairs.argtypes = [ctypes.c_int64, pointer, pointer, pointer, pointer]
        self._rows.restype = self._pairs.restype = None

    def rows(self, key: Key, index: Tensor, draw: Tensor, blocks: int, sigma: float) -> Tensor:
        """(R, 4, blocks) float32 noise of `index` and `draw`, (R,) int64 on the CPU."""
        index, draw = index.contiguous(), draw.contiguous()
        out = torch.empty(len(index), 4, blocks, dtype=torch.float32, device="cpu")

        def fill(start: int, stop: int) -> None:
            some, numbers, part = index[start:stop], draw[start:stop], out[start:stop]
            self._rows(*key, some.data_ptr(), numbers.data_ptr(), len(some), blocks, sigma, part.data_ptr())

        in_threads(fill, len(index), len(index) * blocks // SEVERAL)
        return out

    def pairs(self, radial: Tensor, angular: Tensor) -> tuple[Tensor, Tensor]:
        """`noise.normal_pair` of words given as (n,) int64."""
        words = [word.to(torch.int32) for word in (radial, angular)]  # the low 32 bits
        found = torch.empty(2, len(radial), dtype=torch.float32, device="cpu")
        self._pairs(len(radial), *(word.data_ptr() for word in words), *(row.data_ptr() for row in found))
        return found[0], found[1]


def when_it_pays(counters: int) -> Kernel | None:
    """The kernel, once this process has made enough noise for one; None before, and where there is none.

    Args:
        counters: how many are asked for now.
    """
    global _made
    _made += counters
    return made() if _made > PAYS_AFTER else None


@functools.cache
def made() -> Kernel | None:
    """The kernel of this process, compiled at the first call; None where it cannot be had or errs in a bit."""
    found = build()
    if found is not None and not agrees(found):
        warnings.warn(
            "the compiled noise differs from the tensors' and is not used: report your compiler", stacklevel=2
        )
        return None
    return found


def build(environment: Mapping[str, str] = os.environ) -> Kernel | None:
    """Compile `noise.c` for this machine; None where that cannot be done."""
    library = compiled(constants() + source("certtrain.smoothing", "noise.c"), environment)
    return None if library is None else Kernel(library)


def constants() -> str:
    """What `noise.c` and `noise.py` share, as C; hexadecimal floats are exact."""
    from certtrain.smoothing import noise

    lines = ["#include <math.h>", "#include <stdint.h>", "#include <string.h>"]
    for name in ("LOG1P", "SIN", "COS"):
        lines.append(f"static const float {name}[] = {{{', '.join(map(_float, getattr(noise, name)))}}};")
    for name, values in (("MULTIPLIERS", MULTIPLIERS), ("WEYL", WEYL)):
        lines.append(f"static const uint32_t {name}[] = {{{', '.join(f'{value}u' for value in values)}}};")
    lines.append(f"#define MINUS_LOG_2 {_float(noise.MINUS_LOG_2)}")
    lines.append(f"#define ANGLE {_float(noise.ANGLE)}")
    lines.append(f"#define SQRT_HALF_BITS {noise.SQRT_HALF_BITS}")
    lines.append(f"#define ROUNDS {ROUNDS}")
    return "\n".join(lines) + "\n"


def agrees(kernel: Kernel) -> bool:
    """Whether the kernel gives the tensors' bits: for the words at which anything changes, and for many others."""
    from certtrain.smoothing.noise import normal_pair, rows_by_tensors

    index = torch.arange(64) ** 7 * 1_000_003  # up to 2^62: both halves of it matter
    draw = (torch.arange(64) * 67_108_859) % (1 << 32)
    key = (0x9E3779B9, 0xFFFFFFFF)
    same = _same(kernel.rows(key, index, draw, 999, 0.3), rows_by_tensors(key, index, draw, 999, 0.3))
    edges = torch.cat([torch.arange(-4, 4) + (1 << bit) for bit in range(33)]) % (1 << 32)
    radial, angular = torch.cartesian_prod(edges, edges).unbind(1)
    first, second = torch.empty(2, len(radial))
    normal_pair(radial, angular, first, second)
    found = kernel.pairs(radial, angular)
    return same and _same(found[0], first) and _same(found[1], second)


def _float(value: float) -> str:
    return f"{torch.tensor(value, dtype=torch.float32).item().hex()}f"


def _same(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.int32), right.contiguous().view(torch.int32))
