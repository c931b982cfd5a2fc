"""Metrics over certificates: torchmetrics of integer sums around the functions of `certtrain.certificates.summary`.

States are int64 sums, so that any number of processes, in any order, gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from certtrain.certificates import ABSTAIN, ERROR, INVALID, Certificates
from certtrain.certificates.summary import ACR_UNIT, GUESSING, abstained, acr_units, certified, failed, guess
from certtrain.claim import Claim
from certtrain.radii import parse_radii, radius_text

__all__ = ["Abstained", "Answers", "AverageCertifiedRadius", "CertifiedAccuracy", "Failed", "NearTies", "Summary"]


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


class Failed(_SumMetric):
    """The share of examples with a status at some radius: *invalid* (bounds or logits that are not finite) or *error*.

    Args:
        status: which of the two.
    """

    higher_is_better = False

    def __init__(self, status: str, **kwargs: Any) -> None:
        self.status = status
        super().__init__(**kwargs)

    def sum_of(self, certificates: Certificates) -> int:
        """Examples with that status."""
        return int(failed(certificates, self.status).sum())


class NearTies(_SumMetric):
    """Votes per example that rounding could turn; 0 where no votes were counted."""

    higher_is_better = False

    def sum_of(self, certificates: Certificates) -> int:
        """Such votes."""
        return int(certificates.columns["near_ties"].sum()) if "near_ties" in certificates.columns else 0


class Answers(torchmetrics.Metric):
    """How many examples are of each class, and how many predictions.

    Args:
        classes: K, more than any label or prediction.

    `compute` gives two int64 tensors (K,), of labels and of predictions, without those that abstain.
    """

    full_state_update = False
    labels: Tensor
    answers: Tensor

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = classes
        self.add_state("labels", default=torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("answers", default=torch.zeros(classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, certificates: Certificates) -> None:
        """Add a batch of certificates."""
        given = certificates.predict[certificates.predict != ABSTAIN]
        for state, values in ((self.labels, certificates.label), (self.answers, given)):
            state += torch.bincount(torch.from_numpy(values), minlength=self.classes).to(state.device)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The counts."""
        return self.labels, self.answers


class Summary(torchmetrics.MetricCollection):
    """What `summarise` gives, of certificates that several processes hold shares of: torchmetrics adds them up.

    Args:
        radii: at which certified accuracy is asked.
        claim: of the certificates.
        classes: more than any label or prediction.
        kwargs: of every metric, such as `distributed_available_fn`.
    """

    def __init__(self, radii: Iterable[object], claim: Claim, classes: int, **kwargs: Any) -> None:
        self.radii, self.claim = parse_radii(radii), claim
        super().__init__(
            {
                "clean": CertifiedAccuracy([0], **kwargs),
                "certified": CertifiedAccuracy(self.radii, **kwargs),
                "mean": AverageCertifiedRadius(**kwargs),
                "abstained": Abstained(**kwargs),
                "invalid": Failed(INVALID, **kwargs),
                "error": Failed(ERROR, **kwargs),
                "near_ties": NearTies(**kwargs),
                "answers": Answers(classes, **kwargs),
            },
            compute_groups=False,
        )

    def summary(self, *, votes: bool = False) -> dict[str, Any]:
        """The numbers of `result.json`, but for draws, those of `summarise` bit for bit.

        Args:
            votes: whether votes were counted, so that near-ties are told.
        """
        found = self.compute()
        labels, answers = ({c: int(n) for c, n in enumerate(counts.tolist()) if n} for counts in found["answers"])
        n, clean = sum(labels.values()), float(found["clean"])
        counts = {key: round(float(found[key]) * n) for key in ("near_ties", "abstained", "invalid", "error")}
        counts = counts if votes else {key: count for key, count in counts.items() if key != "near_ties"}
        shares = dict(zip(map(radius_text, self.radii), found["certified"].reshape(-1).tolist()))
        mean = {} if self.claim.mean_radius is None else {self.claim.mean_radius: float(found["mean"])}
        said = guess(labels, answers, round(clean * n))
        told = {} if said is None else {GUESSING: said}
        return {"claim": self.claim.to_dict(), "clean": clean, "certified": shares, **mean, **counts, "n": n, **told}
