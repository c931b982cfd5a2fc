"""Keyed normal numbers: words of Philox4x32-10 by Box and Muller's transform, in float32, the same bits everywhere.

`torch.log`, `cos`, `sin` and even `sqrt` promise no bits: a processor's vector kernels, its scalar ones and an
accelerator's all round in their own way. Hence logarithm, sine and cosine are polynomials here, in separate
multiplications and additions: each of those is correctly rounded (IEEE 754) on every device. Operations that may fuse
the two (`addcmul`, `add(alpha=...)`, a compiler that contracts them) would break this: do not trace these functions
with torch.compile.

`noise.c` makes the same bits in a sixth of the time, from the moment on when a process has made as much noise as
compiling costs. Should a single bit differ, it is not used.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from certtrain.kernels import loader
from certtrain.randomness import MULTIPLIERS, ROUNDS, WEYL, Key, check_range, uniforms, words
from certtrain.randomness import key as key_of

# Chebyshev fits, lowest degree first: log(1+t)/t on [sqrt(1/2) - 1, sqrt(2) - 1] (relative error 3e-8), and for
# |phi| <= pi/4, in phi^2, sin(phi)/phi (4e-9) and cos(phi) (4e-8).
LOG1P = (
    1.0,
    -0.49999988079071045,
    0.3333418369293213,
    -0.2500215470790863,
    0.19956976175308228,
    -0.16560693085193634,
    0.14949099719524384,
    -0.14377349615097046,
    0.08743957430124283,
)
SIN = (1.0, -0.16666650772094727, 0.008332036435604095, -0.0001950396253960207)
COS = (1.0, -0.4999985694885254, 0.04165502265095711, -0.0013585843844339252)
SQRT_HALF_BITS = 0x3F3504F3  # sqrt(1/2) as float32
EXPONENT_SHIFT = 23
SIGN = -(1 << 31)
MINUS_LOG_2, ANGLE = -math.log(2.0), math.pi / 4 * 2.0**-23  # used in float32
# Counters per pass. On a CPU the temporaries of a pass stay in the cache; an accelerator wants long kernels.
CPU_CHUNK, ACCELERATOR_CHUNK = 1 << 17, 1 << 22
PAYS_AFTER = 1 << 23  # counters, by when tensor operations took as long as the compiler takes: 0.3 s
SEVERAL = 1 << 15  # counters that are worth a thread of their own
_made = 0


def normal_rows(key: Key, index: Tensor, draw: Tensor, blocks: int, sigma: float) -> Tensor:
    """Normal numbers of a key for each (example, draw), by whichever way is quick here.

    Args:
        key: of `certtrain.randomness`.
        index, draw: (R,) int64.
        blocks: counters of a row, four numbers each.
        sigma: standard deviation.

    Returns:
        (R, 4, blocks) float32.
    """
    global _made
    if index.device.type == "cpu":
        _made += len(index) * blocks
        if _made > PAYS_AFTER and (compiled := LOOPS.get()) is not None:
            return compiled.rows(key, index, draw, blocks, sigma)
    return rows_by_tensors(key, index, draw, blocks, sigma)


def keyed_uniforms(seed: int, purpose: str, epoch: int, index: Tensor, count: int) -> Tensor:
    """`randomness.uniforms`, by whichever way is quick here."""
    global _made
    blocks = (count + 3) // 4
    if index.device.type == "cpu":
        _made += len(index) * blocks
        if _made > PAYS_AFTER and (compiled := LOOPS.get()) is not None:
            check_range("epoch", epoch, epoch)
            return compiled.uniforms(key_of(seed, "uniforms", purpose), index, epoch, blocks)[:, :count]
    return uniforms(seed, purpose, epoch, index, count)


def rows_by_tensors(k: Key, index: Tensor, draw: Tensor, blocks: int, sigma: float) -> Tensor:
    """(R, 4, blocks) float32: the noise of a key, by tensor operations; its reference, whatever else makes it."""
    rows, device = len(index), index.device
    block = torch.arange(blocks, device=device)
    out = torch.empty(rows, 4, blocks, dtype=torch.float32, device=device)
    chunk = CPU_CHUNK if device.type == "cpu" else ACCELERATOR_CHUNK
    step = max(1, chunk // max(1, blocks))
    for start in range(0, rows, step):
        part = slice(start, start + step)
        a, b, c, d = words(k, index[part, None], draw[part, None], block)
        normal_pair(a, b, out[part, 0], out[part, 1])
        normal_pair(c, d, out[part, 2], out[part, 3])
    return out.mul_(sigma)


def normal_pair(radial: Tensor, angular: Tensor, first: Tensor, second: Tensor) -> None:
    """Box and Muller's transform of two 32-bit words to two independent N(0, 1) numbers, written into first and second.

    `r = sqrt(-2 log u)`, u = (radial + 1/2) / 2^32, reaches 6.76. The quadrant of the angle is two bits, the signs; its
    place in the quadrant is pi/4 + phi with |phi| < pi/4, so that the pair is `r/sqrt(2) (cos phi -+ sin phi)`.
    """
    half = exact_sqrt(negative_log(radial.to(torch.float64).add_(0.5).to(torch.float32)))  # r / sqrt(2)
    bits = angular.to(torch.int32)
    phi = ((bits << 2) >> 8).to(torch.float32).add_(0.5).mul_(ANGLE)  # 24 bits: exact before the mul
    square = phi * phi
    sine = polynomial(SIN, square).mul_(phi).mul_(half)
    cosine = polynomial(COS, square).mul_(half)
    torch.sub(cosine, sine, out=first)
    torch.add(cosine, sine, out=second)
    first.view(torch.int32).bitwise_xor_(bits & SIGN)
    second.view(torch.int32).bitwise_xor_((bits << 1) & SIGN)


def negative_log(y: Tensor) -> Tensor:
    """`-log(y / 2^32)` for float32 y in (0, 2^32]: >= 0, with a small relative error up to y = 2^32."""
    bits = y.view(torch.int32)
    exponent = (bits - SQRT_HALF_BITS) >> EXPONENT_SHIFT  # y = 2^exponent (1 + t), 1 + t in [sqrt(1/2), sqrt(2))
    t = (bits - (exponent << EXPONENT_SHIFT)).view(torch.float32).sub_(1.0)
    log1p = polynomial(LOG1P, t).mul_(t)
    return exponent.sub_(32).to(torch.float32).mul_(MINUS_LOG_2).sub_(log1p)


def exact_sqrt(x: Tensor) -> Tensor:
    """The correctly rounded float32 square root, by way of float64.

    torch's own float32 root is off by one in 0.6 % of the numbers (in the vector kernels of a processor; an
    accelerator's is right). The root of a float32 number keeps a relative distance of 2^-51 from every midpoint of two
    float32 numbers, so that a float64 root which is wrong by one unit still rounds to the right float32.
    """
    return x.to(torch.float64).sqrt_().to(torch.float32)


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Horner's scheme, one rounding per multiplication and one per addition."""
    out = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        out.add_(coefficient).mul_(x)
    return out.add_(coefficients[0])


class Loops:
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
        self._uniforms = library.uniform_rows
        self._uniforms.argtypes = [
            *(ctypes.c_uint32, ctypes.c_uint32, pointer, ctypes.c_uint32),
            *(ctypes.c_int64, ctypes.c_uint32, pointer),
        ]
        self._rows.restype = self._pairs.restype = self._uniforms.restype = None

    def rows(self, key: Key, index: Tensor, draw: Tensor, blocks: int, sigma: float) -> Tensor:
        """(R, 4, blocks) float32 noise of `index` and `draw`, (R,) int64 on the CPU."""
        index, draw = index.contiguous(), draw.contiguous()
        out = torch.empty(len(index), 4, blocks, dtype=torch.float32, device="cpu")

        def fill(start: int, stop: int) -> None:
            some, numbers, part = index[start:stop], draw[start:stop], out[start:stop]
            self._rows(*key, some.data_ptr(), numbers.data_ptr(), len(some), blocks, sigma, part.data_ptr())

        loader.in_threads(fill, len(index), len(index) * blocks // SEVERAL)
        return out

    def uniforms(self, key: Key, index: Tensor, draw: int, blocks: int) -> Tensor:
        """(R, 4 blocks) float32 numbers in [0, 1) of `index`, (R,) int64 on the CPU."""
        index = index.contiguous()
        out = torch.empty(len(index), 4 * blocks, dtype=torch.float32, device="cpu")

        def fill(start: int, stop: int) -> None:
            some, part = index[start:stop], out[start:stop]
            self._uniforms(*key, some.data_ptr(), draw, len(some), blocks, part.data_ptr())

        loader.in_threads(fill, len(index), len(index) * blocks // SEVERAL)
        return out

    def pairs(self, radial: Tensor, angular: Tensor) -> tuple[Tensor, Tensor]:
        """`normal_pair` of words given as (n,) int64."""
        words = [word.to(torch.int32) for word in (radial, angular)]  # the low 32 bits
        found = torch.empty(2, len(radial), dtype=torch.float32, device="cpu")
        self._pairs(len(radial), *(word.data_ptr() for word in words), *(row.data_ptr() for row in found))
        return found[0], found[1]


def constants() -> str:
    """What `noise.c` and this file share, as C; hexadecimal floats are exact."""
    lines = ["#include <math.h>", "#include <stdint.h>", "#include <string.h>"]
    for name, values in (("LOG1P", LOG1P), ("SIN", SIN), ("COS", COS)):
        lines.append(f"static const float {name}[] = {{{', '.join(map(_float, values))}}};")
    for name, values in (("MULTIPLIERS", MULTIPLIERS), ("WEYL", WEYL)):
        lines.append(f"static const uint32_t {name}[] = {{{', '.join(f'{value}u' for value in values)}}};")
    lines.append(f"#define MINUS_LOG_2 {_float(MINUS_LOG_2)}")
    lines.append(f"#define ANGLE {_float(ANGLE)}")
    lines.append(f"#define SQRT_HALF_BITS {SQRT_HALF_BITS}")
    lines.append(f"#define ROUNDS {ROUNDS}")
    return "\n".join(lines) + "\n"


def agrees(compiled: Loops) -> bool:
    """Whether the loops give the tensors' bits: for the words at which anything changes, and for many others."""
    index = torch.arange(64) ** 7 * 1_000_003  # up to 2^62: both halves of it matter
    draw = (torch.arange(64) * 67_108_859) % (1 << 32)
    key = (0x9E3779B9, 0xFFFFFFFF)
    same = _same(compiled.rows(key, index, draw, 999, 0.3), rows_by_tensors(key, index, draw, 999, 0.3))
    numbers = compiled.uniforms(key_of(3, "uniforms", "check"), index, 77, 999)
    same = same and _same(numbers, uniforms(3, "check", 77, index, 4 * 999))
    edges = torch.cat([torch.arange(-4, 4) + (1 << bit) for bit in range(33)]) % (1 << 32)
    radial, angular = torch.cartesian_prod(edges, edges).unbind(1)
    first, second = torch.empty(2, len(radial))
    normal_pair(radial, angular, first, second)
    found = compiled.pairs(radial, angular)
    return same and _same(found[0], first) and _same(found[1], second)


def _float(value: float) -> str:
    return f"{torch.tensor(value, dtype=torch.float32).item().hex()}f"


def _same(left: Tensor, right: Tensor) -> bool:
    return torch.equal(left.contiguous().view(torch.int32), right.contiguous().view(torch.int32))


LOOPS = loader.Loader(Loops, lambda: constants() + loader.source("noise.c"), agrees, "the compiled noise")
