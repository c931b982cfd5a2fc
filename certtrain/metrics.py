"""Metrics over certificates: torchmetrics of integer sums around the functions of `certtrain.summary`.

States are int64 sums, so that any number of processes, in any order, gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from certtrain.certificates import INVALID, Certificates
from certtrain.summary import (
    ACR_UNIT,
    abstained,
    acr_units,
    certified,
    failed,
    is_smoothing,
    status_counts,
    summarise,
)
from certtrain.threat import parse_radii

__all__ = [
    "ACR_UNIT",
    "Abstained",
    "AverageCertifiedRadius",
    "CertifiedAccuracy",
    "Invalid",
    "abstained",
    "acr_units",
    "certified",
    "failed",
    "is_smoothing",
    "status_counts",
    "summarise",
]


class _SumMetric(torchmetrics.Metric):
    """int64 sums over examples, and their number."""

    full_state_update = False
    higher_is_better: bool | None = True
    total: Tensor
    sums: Tensor

    def __init__(self, shape: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", default=torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def sum_of(self, certificates: Certificates) -> int | list[int]:
        """What a batch adds to `sums`."""
        raise NotImplementedError

    def update(self, certificates: Certificates) -> None:
        """Add a batch of certificates."""
        self.sums += torch.tensor(self.sum_of(certificates), dtype=torch.int64, device=self.sums.device)
        self.total += len(certificates)

    def compute(self) -> Tensor:
        """The mean over all examples, float64."""
        return self.sums.to(torch.float64) / self.total


class CertifiedAccuracy(_SumMetric):
    """Certified accuracy: mean over all examples of (correct, not abstained, radius >= r).

    Args:
        radii: the radii; 0 gives the accuracy of the certified classifier.

    `compute` gives float64 of shape (len(radii),), radii ascending; for one radius torchmetrics makes that a scalar.
    """

    def __init__(self, radii: Iterable[object], **kwargs: Any) -> None:
        self.radii = parse_radii(radii)
        super().__init__((len(self.radii),), **kwargs)

    def sum_of(self, certificates: Certificates) -> list[int]:
        """Certified examples per radius."""
        return [int(certified(certificates, radius).sum()) for radius in self.radii]


class AverageCertifiedRadius(_SumMetric):
    """ACR: mean over all examples of correct * radius (Zhai et al. 2020), each radius rounded down to 2^-40."""

    def sum_of(self, certificates: Certificates) -> int:
        """The radii in units of 2^-40."""
        return int(acr_units(certificates).sum())

    def compute(self) -> Tensor:
        """float64, shape ()."""
        return super().compute() / ACR_UNIT


class Abstained(_SumMetric):
    """The share of examples on which the certified classifier abstains."""

    higher_is_better = False

    def sum_of(self, certificates: Certificates) -> int:
        """Abstained examples."""
        return int(abstained(certificates).sum())


class Invalid(_SumMetric):
    """The share of examples whose bounds or logits were not finite at some radius."""

    higher_is_better = False

    def sum_of(self, certificates: Certificates) -> int:
        """Examples with an invalid status."""
        return int(failed(certificates, INVALID).sum())
