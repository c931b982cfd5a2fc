"""Keyed Gaussian noise: noise = f(seed, purpose, split, index, draw), the same bits in any batch, order or chunk."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from certtrain.errors import UserError, nearest
from certtrain.kernels.noise import normal_rows
from certtrain.randomness import check_range, key

Purpose = Literal["train", "val_select", "val_estimate", "select", "estimate", "selftest"]
Split = Literal["train", "val", "test", "predict"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
SPLITS: tuple[str, ...] = get_args(Split)


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
    rows, size = len(index), math.prod(shape)
    blocks = math.ceil(size / 4)
    check_range("blocks of an input", 0, blocks)
    noise = normal_rows(key(seed, "noise", purpose, split), index, draw, blocks, sigma)
    return noise.reshape(rows, 4 * blocks)[:, :size].reshape(rows, *shape)


def check_draws(draws: range) -> None:
    """Refuse draws outside [0, 2^32).

    Raises:
        ValueError: the range reaches outside.
    """
    if len(draws):
        check_range("draws", min(draws[0], draws[-1]), max(draws[0], draws[-1]))
