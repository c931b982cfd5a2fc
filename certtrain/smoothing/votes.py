"""Counting votes: how often a network answers each class under keyed noise."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from certtrain.errors import UserError, nearest
from certtrain.models.evaluation import frozen
from certtrain.models.invariance import check_repeated, some_of
from certtrain.smoothing.noise import Purpose, Split, check_draws, noise_rows
from certtrain.system.work import tell

# (seed, purpose, split, index, draw, shape) to noise: `distribution.Noise.rows`.
Rows = Callable[[int, Purpose, Split, Tensor, Tensor, tuple[int, ...]], Tensor]
Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
# A vote is a near-tie when its two largest logits lie within this share of the largest absolute one: what another order
# of summation (another batch size, another device) may move them by.
NEAR_TIE = {"float32": 1e-5, "bfloat16": 2.0**-7, "float16": 2.0**-10}

COMPARED = 32  # rows that are evaluated once more in the end: 0.2 % of 1,000 draws for each of 16 examples


class Votes(NamedTuple):
    """Votes of a batch.

    Attributes:
        counts: (B, K) int64; a row's sum is the number of draws, less those that were not finite.
        invalid: (B,) bool, whether some draw gave a logit that is NaN or infinite. Such a draw is no vote, and such an
            example has no certificate.
        near_ties: (B,) int64, draws whose vote another batch size might have changed.
    """

    counts: Tensor
    invalid: Tensor
    near_ties: Tensor


@torch.no_grad()
def count_votes(
    network: nn.Module,
    x: Tensor,
    index: Tensor,
    draws: range,
    *,
    sigma: float | Rows,
    num_classes: int,
    seed: int,
    purpose: Purpose,
    split: Split,
    batch_size: int,
    precision: Precision = "float32",
) -> Votes:
    """Votes `argmax_k network(x + noise)_k` (the first of equal ones) for each example over the draws.

    Batches are filled across examples and draws. The noise does not depend on them, its bits are keyed; the logits may,
    in their last bits, so that a vote at a near-tie can depend on `batch_size`: such votes are counted.

    Args:
        network: maps (R, ...) inputs to (R, K) logits; evaluated `frozen`.
        x: (B, ...) inputs in [0, 1]; the noise is added to them unclipped.
        index: (B,) int64 positions in the split.
        draws: numbers of the draws.
        sigma: standard deviation of Gaussian noise, or what draws another one (`distribution.Noise.rows`).
        num_classes: K.
        seed, purpose, split: the noise's key.
        batch_size: rows per evaluation of the network.
        precision: `float32`, or `bfloat16` or `float16` by autocast: what is smoothed is then the network in that
            arithmetic. The noise is float32 in any case, and added in the inputs' precision: drawn in half precision
            it would lose its tails.

    Raises:
        UserError: the network's output is not (R, K), or is another one for some of the same inputs in another batch
            once all is counted; unknown purpose, split or precision.
    """
    check_precision(precision)
    check_draws(draws)
    drawn = sigma if callable(sigma) else functools.partial(noise_rows, sigma=sigma)
    batch, count = len(x), len(draws)
    counts = torch.zeros(batch * num_classes, dtype=torch.int64, device=x.device)
    broken = torch.zeros(batch, dtype=torch.int64, device=x.device)
    close = torch.zeros(batch, dtype=torch.int64, device=x.device)
    index = index.to(x.device)
    draw = torch.arange(draws.start, draws.stop, draws.step, device=x.device)
    compared: tuple[Tensor, Tensor] | None = None  # some inputs of the first batch, and their logits
    with frozen(network), _arithmetic(x.device, precision):
        for start in range(0, batch * count, batch_size):
            tell(start / (batch * count))
            rows = torch.arange(start, min(start + batch_size, batch * count), device=x.device)
            example = rows // count
            noise = drawn(seed, purpose, split, index[example], draw[rows % count], x.shape[1:])
            noisy = noise.to(x.dtype).add_(x[example])
            logits = network(noisy)
            if logits.shape != (len(rows), num_classes):
                raise UserError(
                    f"the network maps {len(rows)} inputs to {tuple(logits.shape)}, not to {num_classes} logits each",
                    where="smoothed classifier",
                    fix="give the network's number of classes",
                )
            if compared is None:
                compared = some_of(noisy, COMPARED), some_of(logits, COMPARED)
            finite = torch.isfinite(logits).all(dim=1).to(torch.int64)
            close.scatter_add_(0, example, near_tie(logits, NEAR_TIE[precision]).to(torch.int64))
            counts.scatter_add_(0, example * num_classes + logits.argmax(dim=1), finite)
            broken.scatter_add_(0, example, 1 - finite)
        if compared is not None:
            check_repeated(network, *compared, getattr(torch, precision))
    invalid = broken > 0
    if bool(invalid.any()):
        named = ", ".join(map(str, index[invalid][:10].tolist()))
        warnings.warn(
            f"the network's logits are NaN or infinite under noise for {int(invalid.sum())} examples of {split}: "
            f"{named}; they get no certificate",
            stacklevel=2,
        )
    return Votes(counts.reshape(batch, num_classes), invalid, close)


def near_tie(logits: Tensor, share: float) -> Tensor:
    """(R,) bool: whether the two largest of (R, K) logits are within `share` of the largest absolute one."""
    top = logits.topk(2, dim=1).values
    return top[:, 0] - top[:, 1] <= share * logits.abs().amax(dim=1)


def check_precision(precision: str) -> None:
    """Refuse an arithmetic that is not offered.

    Raises:
        UserError: not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        fix = nearest(str(precision), PRECISIONS)
        raise UserError(f"unknown precision {precision!r}", where="smoothing precision", fix=fix)


def _arithmetic(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Inside `frozen`, which switches every autocast off."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
