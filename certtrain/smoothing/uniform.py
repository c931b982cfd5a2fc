"""Uniform noise, which certifies l1 balls (Lee et al. 2019, arXiv 1906.04948; Yang et al. 2020, arXiv 2002.08118)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor

from certtrain.errors import UserError, nearest
from certtrain.randomness import check_range, key, words
from certtrain.smoothing.confidence import SLACK
from certtrain.smoothing.distribution import Noise
from certtrain.smoothing.noise import PURPOSES, SPLITS, Purpose, Split
from certtrain.smoothing.votes import Precision
from certtrain.threat.l1 import L1

ROWS, SIZE, BINS = 4096, 1024, 256  # of the test
CHANCE = 1e-9


class Uniform(Noise):
    """Each coordinate uniform on [-width, width], `width = sqrt(3) sigma`: `R = 2 width (p - 1/2)`.

    A change d moves the cube of the noise, of side 2 width, by d: the share of it that is left behind is
    `1 - prod_i (1 - |d_i| / (2 width))`, at most `||d||_1 / (2 width)`, and so no set loses or gains more probability
    than that: of two classes, `R = width (p_a - p_b)`.
    Noises of equal sigma are compared with each other in the papers.
    """

    name, law, threat = "uniform", "uniform noise", L1()

    @property
    def width(self) -> float:
        """The largest change of a coordinate."""
        return math.sqrt(3) * self.sigma

    @property
    def brief(self) -> str:
        return f"smoothed with uniform noise, sigma {self.sigma:g}"

    def rows(
        self, seed: int, purpose: Purpose, split: Split, index: Tensor, draw: Tensor, shape: tuple[int, ...]
    ) -> Tensor:
        """Middles of 2^24 cells of [-width, width]: exact multiples, symmetric about 0."""
        for name, value, options in (("purpose", purpose, PURPOSES), ("split", split, SPLITS)):
            if value not in options:
                raise UserError(f"unknown {name} {value!r}", where="noise", fix=nearest(str(value), options))
        rows, size = len(index), math.prod(shape)
        blocks = math.ceil(size / 4)
        check_range("blocks of an input", 0, blocks)
        block = torch.arange(blocks, device=index.device)
        lanes = words(key(seed, "uniform noise", purpose, split), index[:, None], draw.to(index.device)[:, None], block)
        bits = torch.stack(lanes, dim=-1).reshape(rows, 4 * blocks)[:, :size]
        odd = ((bits >> 8) * 2 + 1 - 2**24).to(torch.float32)  # odd numbers between -2^24 and 2^24: exact
        return (odd * (self.width * 2.0**-24)).reshape(rows, *shape)

    def radius(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2 * self.width * (np.asarray(p) - 0.5) * (1 - SLACK)

    def between(self, p_a: NDArray[np.float64], p_b: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.width * (np.asarray(p_a) - p_b) * (1 - SLACK)

    def settings(self) -> dict[str, Any]:
        law = "Philox4x32-10, 24 bits, float32; keyed by seed, purpose, split, index, draw"
        return {"sigma": self.sigma, "width": self.width, "noise": law}

    def test(self, device: torch.device, *, seed: int, precision: Precision) -> dict[str, Any]:
        """Four million numbers: all inside, equally often in each of 256 parts, and no two rows the same."""
        index = torch.arange(ROWS, device=device)
        unit = self.rows(seed, "selftest", "predict", index, torch.zeros_like(index), (SIZE,)) / self.width
        counts = torch.histc(unit.double().cpu(), BINS, -1, 1)
        expected = ROWS * SIZE / BINS
        statistic = float(((counts - expected) ** 2 / expected).sum())
        limit = float(chi2.isf(CHANCE, BINS - 1))
        repeated = len(torch.unique(unit[:, :8].cpu(), dim=0)) < ROWS
        if not float(unit.abs().max()) <= 1 or not statistic <= limit or repeated:
            raise UserError(
                f"the uniform noise of {device} is not uniform: chi-squared {statistic:.1f} of at most {limit:.1f}",
                where="noise",
                fix="another device or another build of torch; nothing was certified",
            )
        return {"device": str(device), "numbers": ROWS * SIZE, "chi_squared": statistic, "limit": limit}
