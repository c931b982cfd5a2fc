"""A test of the noise where it is used: on this device, with this seed, as the network will see it.

Certificates rest on the noise being normal and independent. Generators have failed that silently: half precision tails
that end at 3.5 standard deviations, compiled kernels that are not normal at all, streams that differ between devices
(PyTorch issues 166853, 91944 and 143086). So each certify stage draws four million numbers first and refuses to go on
when they cannot be what they should be. Each single test fails by chance with a probability below 1e-8.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import torch
from scipy.special import ndtri
from scipy.stats import binom, chi2, norm
from torch import Tensor

from certtrain.errors import UserError
from certtrain.smoothing.noise import Purpose, noise_rows
from certtrain.smoothing.votes import Precision

# (seed, purpose, split, index, draw, shape, sigma) to rows: the signature of `noise_rows`.
Generator = Callable[[int, Purpose, str, Tensor, Tensor, tuple[int, ...], float], Tensor]

ROWS, SIZE = 4096, 1024
BINS = 256
TAILS = (2.0, 3.0, 4.0, 4.5, 5.0)
CHANCE = 1e-9
DEVIATIONS = 6.5
# SHA-256 of the bits of 64 rows of 1,000 numbers for the seed 0: the same on every device and in every release.
BITS = "ccce10d10ae3c3025a8d6bfa6fe82a0b447433f788ccf5a33581dbdf6a2aa745"


def check_noise(
    device: torch.device | str = "cpu",
    *,
    seed: int = 0,
    precision: Precision = "float32",
    generator: Generator = noise_rows,  # type: ignore[assignment]
) -> dict[str, Any]:
    """Draw, test, and refuse a broken generator.

    Tests the bits against those recorded (seed 0); of four million numbers of the stream `selftest` at sigma 1, as they
    are after the network's precision has rounded them: mean, variance, skewness, kurtosis, the counts beyond 2, 3, 4,
    4.5 and 5 standard deviations on each side and on both, a chi-squared test over 256 equally probable bins; the
    correlations of neighbours in a row, of neighbouring draws and of selection with estimation; and that no row comes
    twice.

    Args:
        device: where the noise is made.
        seed: the run's.
        precision: what the network rounds its input to.
        generator: what is tested.

    Returns:
        A report for the card: device, precision, numbers, and the largest deviation met in units of its limit.

    Raises:
        UserError: a test failed; names it, with what was found and what was expected.
    """
    device = torch.device(device)
    report = _Report(device, precision)
    report.check("bits", float(_bits(generator, device) != BITS), 0.5, "the recorded bits for seed 0")
    index = torch.arange(ROWS, device=device) // 8
    draw = torch.arange(ROWS, device=device) % 8
    rows = generator(seed, "selftest", "test", index, draw, (SIZE,), 1.0)
    rounded = rows.to(getattr(torch, precision)).to(torch.float64)
    _moments(report, rounded)
    _tails(report, rounded)
    _bins(report, rows)
    other = generator(seed, "estimate", "test", index[:512], draw[:512], (SIZE,), 1.0).double()
    selection = generator(seed, "select", "test", index[:512], draw[:512], (SIZE,), 1.0).double()
    exact = rows.double()
    report.correlation("neighbours in a row", exact[:, :-1], exact[:, 1:])
    report.correlation("neighbouring draws", exact[:-1], exact[1:])
    report.correlation("selection and estimation", selection, other)
    distinct = len(torch.unique(rows[:, :4], dim=0))
    report.check("rows that come twice", float(ROWS - distinct), 0.5, "none")
    return report.summary(rows.numel())


def _bits(generator: Generator, device: torch.device) -> str:
    index = torch.arange(64, device=device)
    rows = generator(0, "selftest", "test", index, index * 7, (1000,), 0.5)
    return hashlib.sha256(rows.cpu().contiguous().numpy().astype("<f4").tobytes()).hexdigest()


def _moments(report: _Report, x: Tensor) -> None:
    # Standard errors of the raw moments of n standard normal numbers: the variance of x^k is E x^2k - (E x^k)^2.
    n = x.numel()
    for name, power, expected, variance in (
        ("mean", 1, 0.0, 1.0),
        ("variance", 2, 1.0, 2.0),
        ("skewness", 3, 0.0, 15.0),
        ("kurtosis", 4, 3.0, 96.0),
    ):
        found = float(x.pow(power).mean())
        # What rounding to half precision adds: at most a relative 2^-8 squared, times the power's curvature.
        room = 0.0 if report.precision == "float32" else power * power * 2.0**-16 * max(1.0, expected)
        limit = DEVIATIONS * math.sqrt(variance / n) + room
        report.check(name, abs(found - expected), limit, f"{expected:g} within {limit:.2g}, found {found:.6g}")


def _tails(report: _Report, x: Tensor) -> None:
    n = x.numel()
    for edge in TAILS:
        above, below, p = int((x > edge).sum()), int((x < -edge).sum()), float(norm.sf(edge))
        # Both sides together, too: of 28 numbers beyond 4.5 all may be missing, of 14 on one side that could be chance.
        for name, count, share in (("above ", above, p), ("below -", below, p), ("beyond ", above + below, 2 * p)):
            low, high = binom.ppf(CHANCE, n, share), binom.isf(CHANCE, n, share)
            if report.precision != "float32":  # numbers within half a unit of the edge may have been rounded across it
                low, high = 0.95 * low, 1.05 * high
            middle = (low + high) / 2
            text = f"{low:,.0f} to {high:,.0f} of {n:,} numbers, found {count:,}"
            report.check(f"tail {name}{edge:g}", abs(count - middle), high - middle, text)


def _bins(report: _Report, x: Tensor) -> None:
    edges = torch.tensor([ndtri(i / BINS) for i in range(1, BINS)], dtype=torch.float32, device=x.device)
    counts = torch.bucketize(x.flatten(), edges).bincount(minlength=BINS).double()
    expected = x.numel() / BINS
    statistic = float(((counts - expected) ** 2 / expected).sum())
    limit = float(chi2.isf(CHANCE, BINS - 1))
    report.check("histogram", statistic, limit, f"chi-squared up to {limit:.0f}, found {statistic:.0f}")


class _Report:
    """The outcome of the tests so far."""

    def __init__(self, device: torch.device, precision: Precision) -> None:
        self.device, self.precision = device, precision
        self.largest = ("", 0.0)

    def check(self, name: str, value: float, limit: float, expected: str) -> None:
        if not value <= limit:  # NaN fails
            raise UserError(
                f"the noise on {self.device} for a {self.precision} network is broken: {name} (expected {expected})",
                where="self-test of the noise generator",
                fix="certify on another device, trainer.accelerator=cpu, and report this with your torch version",
            )
        if value / limit > self.largest[1]:
            self.largest = (name, value / limit)

    def correlation(self, name: str, a: Tensor, b: Tensor) -> None:
        found = float((a * b).mean()) * math.sqrt(a.numel())
        self.check(
            f"correlation of {name}", abs(found), DEVIATIONS, f"within {DEVIATIONS}, found {found:.2f} deviations"
        )

    def summary(self, numbers: int) -> dict[str, Any]:
        name, share = self.largest
        return {
            "device": str(self.device),
            "precision": self.precision,
            "numbers": numbers,
            "largest_deviation": f"{name}: {share:.2f} of its limit",
        }
