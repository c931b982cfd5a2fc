"""Certificates of randomized smoothing with a fixed number of draws."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from certtrain.certificates import Certificates
from certtrain.certificates.falsification import Falsification, Progress, silent
from certtrain.certifiers.base import Certifier, Reach, Trial
from certtrain.certifiers.checks import check_classes
from certtrain.certifiers.claims import EACH, abstention_rule, shared_budget, smoothing_claim
from certtrain.certifiers.falsify_smoothing import falsify_smoothing
from certtrain.certifiers.smoothing_rows import audit_smoothing_rows
from certtrain.claim import Budget, Claim, Radii
from certtrain.data.batch import Batch
from certtrain.errors import UserError, nearest
from certtrain.models.invariance import count_logits
from certtrain.radii import parse_radii
from certtrain.smoothing.classifier import Certified, SmoothedClassifier
from certtrain.smoothing.distribution import Gaussian, Noise
from certtrain.smoothing.noise import PURPOSES, SPLITS, Purpose, Split
from certtrain.smoothing.staged import SELECT_AND_ESTIMATE, CertifiedTargets, check_draw_counts
from certtrain.smoothing.votes import Precision, check_precision

if TYPE_CHECKING:
    from certtrain.certificates.findings import Audit

BUDGETS: tuple[str, ...] = get_args(Budget)
TIMED_DRAWS = 2000


class SmoothingCertifier(Certifier):
    """Certifies the smoothed network in l2 (Cohen et al. 2019): with confidence 1 - alpha for each example.

    Args:
        sigma: standard deviation of the noise in input units.
        radii: at which certified accuracy is reported; the certified radii themselves are continuous.
        n0: selection draws.
        n: estimation draws.
        alpha: probability with which one certificate may be wrong.
        seed: of the noise.
        split: the split that the batches' indices count in: another split is other noise.
        two_sided: bound the other classes' probabilities too.
        batch_size: rows per evaluation of the network, filled across examples and draws.
        purposes: noise streams of selection and estimation.
        budget: `example`: alpha for each certificate; `dataset`: alpha that any certificate of the whole list is wrong,
            shared equally (Bonferroni): call `bind` or `spread_over` before the first batch.
        precision: arithmetic of the network: `float32`, `bfloat16` or `float16`.

    Raises:
        UserError: sigma not > 0, a negative or empty radius grid, n0, n, alpha, split, purposes, budget or precision
            out of range.
    """

    fixed_norm: ClassVar[str | None] = "l2"
    radii_are: ClassVar[Radii] = "continuous"
    rehearsed_radii_are: ClassVar[Radii] = "continuous"
    rows_per_write: ClassVar[int] = 16
    many_evaluations: ClassVar[bool] = True
    noise_kind: ClassVar[type[Noise]] = Gaussian

    def __init__(
        self,
        sigma: float,
        radii: Sequence[object],
        n0: int = 100,
        n: int = 1000,
        alpha: float = 0.001,
        seed: int = 0,
        split: Split = "test",
        two_sided: bool = False,
        batch_size: int = 512,
        purposes: Sequence[Purpose] = SELECT_AND_ESTIMATE,
        budget: Budget = "example",
        precision: Precision = "float32",
    ) -> None:
        self.noise = self.noise_kind(sigma)
        check_draw_counts(n0, n, alpha)
        if len(purposes) != 2 or purposes[0] == purposes[1] or not set(purposes) <= set(PURPOSES):
            raise UserError(
                f"purposes = {list(purposes)} are not two streams of noise",
                where="certifier.purposes",
                fix=f"two different ones of {', '.join(PURPOSES)}",
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size = {batch_size!r}", where="certifier.batch_size", fix="batch_size >= 1")
        self.radii = parse_radii(radii, where="certifier.radii")
        self.name, self.sigma, self.threat = self.noise.name, self.noise.sigma, self.noise.threat
        self.n0, self.n, self.alpha, self.seed, self.split = n0, n, float(alpha), seed, _checked_split(split)
        self.two_sided, self.batch_size, self.purposes = two_sided, batch_size, (purposes[0], purposes[1])
        if budget not in BUDGETS:
            raise UserError(f"unknown budget {budget!r}", where="certifier.budget", fix=nearest(str(budget), BUDGETS))
        check_precision(precision)
        self.budget, self.precision = budget, precision
        self._examples: int | None = None

    def claim(self) -> Claim:
        """The smoothed classifier's class is constant in an open l2 ball."""
        return smoothing_claim(self.noise, self.alpha, self.budget, self.radii_are)

    @property
    def suffix(self) -> str:
        """The estimation draws."""
        return f"n{self.n}"

    def bind(self, network: nn.Module, *, split: str | None, examples: int, device: torch.device) -> dict[str, Any]:
        """The noise is that of the split, a data-set budget is shared by the examples, and the noise tests itself.

        Raises:
            UserError: an unknown split.
            RuntimeError: this device's noise is not what it should be.
        """
        self.split = self.split if split is None else _checked_split(split)
        self.spread_over(examples)
        return {"noise_selftest": self.noise.test(device, seed=self.seed, precision=self.precision)}

    def rehearsal(self, options: Mapping[str, Any], seed: int) -> SmoothingCertifier:
        """As many draws as `options` say (`n0`, `n`, `alpha`), from the streams of validation."""
        return self._with_fixed_n(
            sigma=self.sigma,
            radii=self.radii,
            **{key: options[key] for key in ("n0", "n", "alpha")},
            seed=seed,
            split="val",
            purposes=("val_select", "val_estimate"),
        )

    def _with_fixed_n(self, **options: Any) -> SmoothingCertifier:
        """A certifier of the same noise that draws as many as it is told."""
        return type(self)(**options)

    def reach(self, examples: int) -> Reach | None:
        """The radius of an example whose n votes are all for one class; of a data-set budget at one example's share.

        Two sides take half of alpha each, and of such votes `1 - p_a` is the smaller bound of the other classes.
        """
        alpha = self.alpha / (examples if self.budget == "dataset" else 1)
        level = alpha / (2 if self.two_sided else 1)
        found = self.noise.one_sided(self.n, self.n, level)
        shared = f" shared by {examples:,} examples" if self.budget == "dataset" else ""
        words = f"n = {self.n:,} draws at alpha = {self.alpha:g}{shared} and sigma = {self.sigma:g}"

        def needed(radius: Fraction) -> str:
            enough = self.noise.fewest_draws(float(radius), level)
            return f"n={enough} or more, or a larger sigma" if enough else "a larger sigma"

        return Reach(-math.inf if found.abstain else float(found.radius), words, needed)

    def doubts(self) -> list[str]:
        """More draws select the class than estimate its radius: most often n0 and n were mixed up."""
        if self.n0 <= self.n:
            return []
        return [f"n0 = {self.n0:,} draws select the class, only n = {self.n:,} estimate its radius"]

    def trial(self) -> Trial:
        """Fewer draws, at a fixed number, of one example."""
        few = self._with_fixed_n(
            sigma=self.sigma,
            radii=self.radii,
            n0=1,
            n=min(self.n, TIMED_DRAWS),
            alpha=self.alpha,
            seed=self.seed,
            batch_size=self.batch_size,
            precision=self.precision,
        )
        return Trial(few, 1, (self.n + self.n0) / (few.n + few.n0), f"n = {self.n:,}")

    def source(self) -> dict[str, Any]:
        """The package of votes and confidence bounds."""
        return {"name": "certtrain.smoothing", "package": "certtrain"}

    @classmethod
    def verify_rows(cls, audit: Audit, rows: Certificates, card: Mapping[str, Any]) -> None:
        """Radius, bound and abstention of each row from its votes; see `audit_smoothing_rows`."""
        audit_smoothing_rows(audit, rows, card, cls.radii_are, cls.noise_kind)

    def spread_over(self, examples: int) -> None:
        """Say how many examples will be certified in all: what a data-set budget is shared by."""
        self._examples = examples

    @property
    def alpha_each(self) -> float:
        """The alpha of one certificate.

        Raises:
            ValueError: a data-set budget before `spread_over`.
        """
        if self.budget == "example":
            return self.alpha
        if not self._examples:
            raise ValueError("a data-set budget is shared by a number of examples: call spread_over first")
        return self.alpha / self._examples

    def settings(self) -> dict[str, Any]:
        """Plain values for the card: all that decides the outcome."""
        shared = {} if self.budget == "example" else {"alpha_each": self.alpha_each}
        return {
            **self.noise.settings(),
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha,
            "budget": EACH if self.budget == "example" else shared_budget(self._examples),
            **shared,
            "seed": self.seed,
            "noise_split": self.split,
            "purposes": list(self.purposes),
            "two_sided": self.two_sided,
            "abstain": abstention_rule(staged=False, two_sided=self.two_sided),
            "precision": f"{self.precision} network, float64 confidence bounds",
            "batch_size": self.batch_size,
        }

    def certify(self, network: nn.Module, batch: Batch) -> Certificates:
        """One certificate per example, in the batch's order; `seconds` is the batch's time shared equally.

        An example whose logits are not finite under noise abstains with the status *invalid*.

        Raises:
            UserError: inputs outside [0, 1], labels without logits, a network that is not one function of each input,
                with noise or without (see `certtrain.models.invariance`).
        """
        start = time.perf_counter()
        classifier = self._of(network, batch)
        found = classifier.certify(
            batch.x,
            batch.index,
            n0=self.n0,
            n=self.n,
            alpha=self.alpha_each,
            seed=self.seed,
            split=self.split,
            purposes=self.purposes,
            two_sided=self.two_sided,
        )
        return certificate_rows(
            batch, found, start, n0=self.n0, n=np.full(len(batch.y), self.n), classes=classifier.num_classes
        )

    def check_network(self, network: nn.Module, batch: Batch) -> None:
        """Refuse a network of which a certificate would say nothing, before any work is done.

        Raises:
            UserError: as `certify`.
        """
        self._of(network, batch).check(batch.x)

    def falsify(
        self, network: nn.Module, batch: Batch, certificates: Certificates, *, steps: int, progress: Progress = silent
    ) -> Falsification | None:
        """Attack certified examples inside their sets (see `falsify_smoothing`), where the threat model has moves."""
        if not self.threat.attackable:
            return None
        return falsify_smoothing(
            self.classifier(network, count_logits(network, batch.x)),
            batch,
            certificates,
            alpha=self.alpha_each,
            two_sided=self.two_sided,
            seed=self.seed,
            split=self.split,
            steps=steps,
            progress=progress,
        )

    def _of(self, network: nn.Module, batch: Batch) -> SmoothedClassifier:
        """The smoothed network, for a batch whose inputs and labels are looked at first."""
        self.threat.check_range(batch.x, where="certifier")  # sigma and the radii are in its units
        classes = count_logits(network, batch.x)
        check_classes(batch.y, classes)
        return self.classifier(network, classes)

    def classifier(self, network: nn.Module, classes: int) -> SmoothedClassifier:
        """The network smoothed as this certifier does it."""
        batch_size, precision = self.batch_size, self.precision
        return SmoothedClassifier(network, self.noise, classes, batch_size=batch_size, precision=precision)


def _checked_split(split: str) -> Split:
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}", where="certifier.split", fix=nearest(str(split), SPLITS))
    return cast(Split, split)


def certificate_rows(
    batch: Batch,
    found: Certified | CertifiedTargets,
    start: float,
    *,
    n0: int,
    n: NDArray[np.int64],
    classes: int,
    further: dict[str, Any] | None = None,
) -> Certificates:
    """The rows of a smoothed classifier's answer; `start` is when the batch was begun."""
    rows, label = len(batch.y), batch.y.cpu().numpy()
    status = np.where(found.predict >= 0, "certified", np.where(found.invalid, "invalid", "abstained"))
    return Certificates(
        index=batch.index.cpu().numpy(),
        label=label,
        predict=found.predict,
        radius=found.radius,
        correct=found.predict == label,
        seconds=np.full(rows, (time.perf_counter() - start) / max(1, rows)),
        columns={
            "n0": np.full(rows, n0),
            "n": n,
            "top": found.top,
            "count_top": found.count_top,
            "count_runner_up": found.count_runner_up,
            "classes": np.full(rows, classes),
            "p_lower": found.p_lower,
            "near_ties": found.near_ties,
            **(further or {}),
            "status": status,
        },
    )
