"""What a log says at every radius: certified accuracy, selective accuracy and coverage, with intervals over images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from certtrain.certificates import ABSTAIN, Certificates
from certtrain.certificates.summary import ACR_UNIT, held_radii
from certtrain.radii import parse_radius
from certtrain.reporting.plots import clopper_pearson

Floats = NDArray[np.float64]
MOST = 10


@dataclass(frozen=True)
class Outcomes:
    """One log's examples, as a curve needs them.

    Attributes:
        index, label: (n,) int64.
        certificate: (n,) float64, the certified radius of whatever class was predicted; -1 where nothing was predicted.
        correct: (n,) bool.
        inputs_sha256: of the examples themselves, where a card says it.
        p_lower: (n,) float64, the lower bound of the predicted class' probability under noise; None where a log has
            none.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    certificate: Floats
    correct: NDArray[np.bool_]
    inputs_sha256: str | None = None
    p_lower: Floats | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def images(self) -> str:
        """A hash of the images' positions and labels."""
        order = np.argsort(self.index, kind="stable")
        rows = np.stack([self.index[order], self.label[order]], axis=1)
        return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()

    @property
    def held(self) -> Floats:
        """(n,) the certified radius where the prediction is right, else -1."""
        return held_radii(self.correct, self.certificate)

    @property
    def acr(self) -> float:
        """Mean of correct * radius; summed as integers of floor(R * 2^40), as `summary.summarise` does."""
        units = np.floor(np.maximum(self.held, 0.0) * ACR_UNIT)
        return sum(map(int, units.tolist())) / (len(self) * ACR_UNIT)  # radii of pixels would not fit in 64 bits

    @property
    def p_right(self) -> Floats | None:
        """(n,) the lower bound of the label's probability under noise: 0 where another class, or none, is predicted."""
        return None if self.p_lower is None else np.where(self.correct & (self.certificate >= 0), self.p_lower, 0.0)

    @property
    def abstained(self) -> int:
        return int((self.certificate < 0).sum())


@dataclass(frozen=True)
class Share:
    """k of n at each radius, and the Clopper-Pearson interval of the probability over the data's distribution.

    Pointwise: 95 % at each radius, not for all radii at once. n = 0 gives NaN and [0, 1].
    """

    k: NDArray[np.int64]
    n: NDArray[np.int64]
    low: Floats
    high: Floats

    @property
    def value(self) -> Floats:
        return np.where(self.n > 0, self.k / np.maximum(self.n, 1), np.nan)


@dataclass(frozen=True)
class Curves:
    """Shares at the radii: of all examples certified (right, certificate >= r) and covered (certificate >= r, whatever
    the class), and of the covered ones the right ones, the selective accuracy."""

    radii: Floats
    certified: Share
    coverage: Share
    selective: Share


def outcomes(certificates: Certificates, inputs_sha256: str | None = None) -> Outcomes:
    """What curves need of a log of ours."""
    certificate = np.where(certificates.predict == ABSTAIN, -1.0, certificates.radius)
    index, label, correct = certificates.index, certificates.label, certificates.correct
    return Outcomes(index, label, certificate, correct, inputs_sha256, certificates.columns.get("p_lower"))


def image_sets(logs: Sequence[Outcomes]) -> list[str]:
    """A name for the images of each log: figures compare where it is the same.

    The same positions and labels, and the same inputs: corrupted images have the labels of the clean ones. A log that
    does not say its inputs is taken to be of those that the first one of its positions and labels names.
    """
    stated: dict[str, str] = {}
    for log in logs:
        if log.inputs_sha256 is not None:
            stated.setdefault(log.images, log.inputs_sha256)
    return [f"{log.images} {log.inputs_sha256 or stated.get(log.images)}" for log in logs]


def curves(examples: Outcomes, radii: Sequence[float] | Floats) -> Curves:
    """All shares at the given radii.

    Raises:
        ValueError: no examples.
    """
    if not len(examples):
        raise ValueError("there are no certificates to draw")
    at = np.asarray(radii, dtype=np.float64)
    n = np.full(len(at), len(examples), dtype=np.int64)
    certified, covered = _reaching(examples.held, at), _reaching(examples.certificate, at)
    return Curves(at, _share(certified, n), _share(covered, n), _share(certified, covered))


def steps(examples: Outcomes) -> Floats:
    """The radii at which any of the curves steps, ascending from 0."""
    return np.unique(np.append(examples.certificate[examples.certificate >= 0], 0.0))


def sensible_radii(largest: float) -> list[Fraction]:
    """Radii for a table up to the largest certified one: 0 and the multiples of 0.25, 0.1, ... that are at most ten."""
    if not (math.isfinite(largest) and largest > 0):
        return [Fraction(0)]
    tenfold = Fraction(10) ** (math.floor(math.log10(largest)) - 2)
    steps = (tenfold * factor for factor in (1, Fraction(5, 2), 5, 10, 25, 50, 100))
    step = next(step for step in steps if Fraction(largest) < MOST * step)
    return [step * k for k in range(int(Fraction(largest) / step) + 2)]


def parse_grid(texts: Sequence[str]) -> list[Fraction]:
    """The radii that a user wrote, separated by commas or spaces, ascending."""
    return sorted({parse_radius(part) for text in texts for part in text.replace(",", " ").split()})


def _reaching(values: Floats, radii: Floats) -> NDArray[np.int64]:
    return (len(values) - np.searchsorted(np.sort(values), radii, side="left")).astype(np.int64)


def _share(k: NDArray[np.int64], n: NDArray[np.int64]) -> Share:
    low, high = np.zeros(len(k)), np.ones(len(k))
    for total in np.unique(n[n > 0]):
        at = n == total
        low[at], high[at] = clopper_pearson(k[at], int(total))
    return Share(k, n, low, high)
