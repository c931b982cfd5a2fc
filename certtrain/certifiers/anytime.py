"""Certificates of randomized smoothing that stop drawing as soon as the target radii are decided."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from torch import nn

from certtrain.certificates import Certificates
from certtrain.certifiers.claims import abstention_rule
from certtrain.certifiers.smoothing import SmoothingCertifier, certificate_rows
from certtrain.claim import Budget, Radii
from certtrain.data.batch import Batch
from certtrain.smoothing.anytime import EARLY, StageSchedule
from certtrain.smoothing.noise import Purpose, Split
from certtrain.smoothing.staged import SELECT_AND_ESTIMATE
from certtrain.smoothing.votes import Precision


class AnytimeCertifier(SmoothingCertifier):
    """Decides, for each example and each target, whether the l2 radius reaches it: with confidence 1 - alpha.

    The looks at the votes, and what each must see, are fixed before the first draw (`smoothing.anytime`) and stand in
    the settings. A row's radius is the largest target reached, not the largest that could be: there is no average
    certified radius, and certified accuracy is known at the targets only.

    Args:
        sigma: standard deviation of the noise in input units.
        target_radii: what is decided; the prediction itself (radius 0) is always one.
        n0: selection draws.
        n: the most estimation draws, those of the last look.
        alpha: probability with which any claim about one example may be false.
        seed, split, batch_size, purposes, budget, precision: as for `SmoothingCertifier`.
        early: the share of alpha that the looks before the last may spend.

    Raises:
        UserError: as `SmoothingCertifier`; a target that n draws cannot show, once it is clear at which alpha.
    """

    radii_are: ClassVar[Radii] = "targets"
    rows_per_write: ClassVar[int] = 64  # draws for the few examples that are still open in a late stage

    def __init__(
        self,
        sigma: float,
        target_radii: Sequence[object],
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        seed: int = 0,
        split: Split = "test",
        batch_size: int = 512,
        purposes: Sequence[Purpose] = SELECT_AND_ESTIMATE,
        budget: Budget = "example",
        precision: Precision = "float32",
        early: float = EARLY,
    ) -> None:
        super().__init__(sigma, target_radii, n0, n, alpha, seed, split, False, batch_size, purposes, budget, precision)
        self.name, self.early = "anytime", early
        self._schedule: StageSchedule | None = None

    def _with_fixed_n(self, **options: Any) -> SmoothingCertifier:
        return SmoothingCertifier(**options)

    @property
    def schedule(self) -> StageSchedule:
        """The looks and boundaries at the alpha of one certificate."""
        alpha = self.alpha_each
        if self._schedule is None or self._schedule.alpha != alpha:
            self._schedule = StageSchedule.plan(self.radii, sigma=self.sigma, n=self.n, alpha=alpha, early=self.early)
        return self._schedule

    def reach(self, examples: int) -> None:
        """Targets that its looks cannot reach are refused by its schedule, which knows their share of alpha."""

    def settings(self) -> dict[str, Any]:
        """Plain values for the card: all that decides the outcome, with the schedule in full."""
        abstain = abstention_rule(staged=True, two_sided=False)
        return {**super().settings(), "abstain": abstain, "early": self.early, "schedule": self.schedule.to_dict()}

    def certify(self, network: nn.Module, batch: Batch) -> Certificates:
        """One certificate per example, in the batch's order; `seconds` is the batch's time shared equally.

        Raises:
            UserError: as `SmoothingCertifier.certify`.
        """
        start = time.perf_counter()
        classifier = self._of(network, batch)
        found = classifier.certify_targets(
            batch.x, batch.index, self.schedule, self.n0, self.seed, self.split, self.purposes
        )
        counts = np.array([self.schedule.counts_text(counts) for counts in found.stage_counts], dtype=object)
        further = {"stage": found.stage, "stage_counts": counts}
        return certificate_rows(
            batch, found, start, n0=self.n0, n=found.draws, classes=classifier.num_classes, further=further
        )
