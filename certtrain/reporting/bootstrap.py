"""Paired bootstrap between two logs of the same images: how certified accuracy and ACR differ (Efron 1979)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certtrain.errors import UserError
from certtrain.reporting.curves import Outcomes, image_sets
from certtrain.reporting.plots import CONFIDENCE

RESAMPLES = 10_000
CHUNK = 2_000_000  # drawn positions held at a time


@dataclass(frozen=True)
class Difference:
    """B minus A over the same images, with percentile intervals over images; each by itself, not jointly.

    Attributes:
        radii: (m,) at which certified accuracy is compared.
        certified, certified_low, certified_high: (m,) differences of certified accuracy, as fractions.
        acr, acr_low, acr_high: of the average certified radius.
        n: images.
        resamples, seed: of the bootstrap.
    """

    radii: NDArray[np.float64]
    certified: NDArray[np.float64]
    certified_low: NDArray[np.float64]
    certified_high: NDArray[np.float64]
    acr: float
    acr_low: float
    acr_high: float
    n: int
    resamples: int
    seed: int


def paired_difference(
    a: Outcomes, b: Outcomes, radii: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Resample images, each with both of its certificates, and take the percentiles of the mean differences.

    Images that both logs certify alike cancel: the interval is that of the difference, often far narrower than the two
    intervals of the curves suggest. It covers the choice of the images, not the training seed.

    Args:
        a, b: the logs' examples; `same_images` pairs them.
        radii: at which certified accuracy is compared.
        resamples: bootstrap samples B.
        seed: the key of the resampling.

    Raises:
        UserError: not the same images, or fewer than two.
    """
    a, b = same_images(a, b)
    n, at = len(a), np.asarray(radii, dtype=np.float64)
    if n < 2:
        raise UserError(f"a bootstrap over {n} image", where="--compare", fix="logs of more images")
    reaches = [(examples.held[:, None] >= at).astype(np.float64) for examples in (a, b)]
    gained = np.maximum(b.held, 0.0) - np.maximum(a.held, 0.0)
    values = np.concatenate([reaches[1] - reaches[0], gained[:, None]], axis=1)
    means = _resampled_means(values, resamples, seed)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    mean = values.mean(axis=0)
    acr = (float(mean[-1]), float(low[-1]), float(high[-1]))
    return Difference(at, mean[:-1], low[:-1], high[:-1], *acr, n=n, resamples=resamples, seed=seed)


def same_images(a: Outcomes, b: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Both by ascending index.

    Raises:
        UserError: other indices or labels, which the message names; or other inputs under the same ones, such as
            corrupted images.
    """
    given = (a, b)
    only = [sorted(set(x.index.tolist()) - set(y.index.tolist())) for x, y in ((a, b), (b, a))]
    if any(only):
        shown = "; ".join(
            f"{len(indices):,} only in the {which}, such as idx {indices[0]}"
            for which, indices in zip(("first", "second"), only)
            if indices
        )
        raise UserError(f"the logs are of other images: {shown}", where="--compare", fix="logs of one index list")
    a, b = (_ascending(examples) for examples in (a, b))
    other = a.label != b.label
    if other.any():
        first = int(a.index[other][0])
        raise UserError(
            f"the logs have other labels at {int(other.sum()):,} images, such as idx {first}: "
            f"{int(a.label[other][0])} in the first, {int(b.label[other][0])} in the second",
            where="--compare",
            fix="logs of one data set and split",
        )
    if len(set(image_sets(given))) > 1:
        raise UserError(
            "the logs have the same positions and labels, but are of other inputs: inputs_sha256 of their cards differ",
            where="--compare",
            fix="logs of one data set; `certtrain plot` without --compare draws both",
        )
    return a, b


def _ascending(examples: Outcomes) -> Outcomes:
    order = np.argsort(examples.index, kind="stable")
    return Outcomes(examples.index[order], examples.label[order], examples.certificate[order], examples.correct[order])


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """(resamples, columns): means over n rows drawn with replacement, the same rows for all columns."""
    n = len(values)
    rng = np.random.Generator(np.random.Philox(key=seed))
    at_once = max(1, CHUNK // n)
    means = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means.append(weights @ values / n)
    return np.concatenate(means)
