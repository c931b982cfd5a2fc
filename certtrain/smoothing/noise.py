"""Keyed Gaussian noise: noise = f(seed, purpose, split, index, draw), the same bits in any batch, order or chunk.

Philox4x32-10 words become normal numbers by Box and Muller's transform, in float32. `torch.log`, `cos`, `sin` and even
`sqrt` promise no bits: a processor's vector kernels, its scalar ones and an accelerator's all round in their own way.
Hence logarithm, sine and cosine are polynomials here, in separate multiplications and additions: each of those is
correctly rounded (IEEE 754) on every device. Operations that may fuse the two (`addcmul`, `add(alpha=...)`, a compiler
that contracts them) would break this: do not trace these functions with torch.compile.

Where it pays the same operations are compiled C (`kernel`), held to these bits.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from certtrain.errors import UserError, nearest
from certtrain.randomness import Key, check_range, key, words
from certtrain.smoothing import kernel

Purpose = Literal["train", "val_select", "val_estimate", "select", "estimate", "selftest"]
Split = Literal["train", "val", "test", "predict"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
SPLITS: tuple[str, ...] = get_args(Split)

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


@torch.no_grad()
def gaussian_noise(
    seed: int,
    purpose: Purpose,
    split: Split,
    index: Tensor,
    draws: range,
    shape: tuple[int, ...],
    sigma: float,
    device: torch.device | str | None = None,
) -> Tensor:
    """Noise N(0, sigma^2 I) for each example and each draw.

    Args:
        seed: the run's seed.
        purpose: what the noise is for. Selection and estimation have streams of their own, and validation and test too.
        split: the split that `index` counts in.
        index: (B,) int64 positions in the split.
        draws: numbers of the draws, in [0, 2^32).
        shape: shape of one input; the stream of an example depends on its number of elements.
        sigma: standard deviation, in the units of the input range [0, 1].
        device: where the noise is made; the index's device by default.

    Returns:
        (B, len(draws), *shape) float32.

    Raises:
        UserError: unknown purpose or split, sigma not finite or negative.
        ValueError: a draw outside [0, 2^32), an index that is not int64.
    """
    batch, count = len(index), len(draws)
    check_draws(draws)
    device = torch.device(device) if device is not None else index.device
    draw = torch.arange(draws.start, draws.stop, draws.step, device=device).repeat(batch)
    index = index.to(device).repeat_interleave(count)
    return noise_rows(seed, purpose, split, index, draw, shape, sigma).reshape(batch, count, *shape)


@torch.no_grad()
def noise_rows(
    seed: int, purpose: Purpose, split: Split, index: Tensor, draw: Tensor, shape: tuple[int, ...], sigma: float
) -> Tensor:
    """The noise of any list of (example, draw): `index` and `draw` (R,) int64 to (R, *shape) float32.

    The rows of `gaussian_noise`, for batches that are filled across examples. Whoever makes the draws checks
    their range with `check_draws`.
    """
    for name, value, options in (("purpose", purpose, PURPOSES), ("split", split, SPLITS)):
        if value not in options:
            raise UserError(f"unknown {name} {value!r}", where="noise", fix=nearest(str(value), options))
    if not (math.isfinite(sigma) and sigma >= 0):
        raise UserError(f"sigma = {sigma} is not a standard deviation", where="sigma", fix="sigma > 0, such as 0.25")
    rows, size, device = len(index), math.prod(shape), index.device
    blocks = math.ceil(size / 4)
    check_range("blocks of an input", 0, blocks)
    compiled = kernel.when_it_pays(rows * blocks) if device.type == "cpu" else None
    make = rows_by_tensors if compiled is None else compiled.rows
    noise = make(key(seed, "noise", purpose, split), index, draw, blocks, sigma)
    return noise.reshape(rows, 4 * blocks)[:, :size].reshape(rows, *shape)


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


def check_draws(draws: range) -> None:
    """Refuse draws outside [0, 2^32).

    Raises:
        ValueError: the range reaches outside.
    """
    if len(draws):
        check_range("draws", min(draws[0], draws[-1]), max(draws[0], draws[-1]))


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
