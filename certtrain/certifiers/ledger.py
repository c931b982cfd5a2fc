"""What is known of every example at every radius while a cascade decides them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from certtrain.certificates import (
    ERROR,
    FALSIFIED,
    INVALID,
    MISCLASSIFIED,
    TIMEOUT,
    UNKNOWN,
    VERIFIED,
    Certificates,
)
from certtrain.certificates.summary import ATTACK, STAGE_SECONDS
from certtrain.certifiers.verifier import Verdicts
from certtrain.data.batch import Batch
from certtrain.radii import radius_text


class Ledger:
    """Proofs, attacks, failures and times of n examples at the radii of a grid.

    A proof at R settles every r <= R, an adversarial input at r every R >= r; neither is looked for again there.

    Args:
        correct: (n,) bool; the others are misclassified at every radius.
        radii: the grid, ascending.
        stages: names of what takes time, in their order.
    """

    def __init__(self, correct: NDArray[np.bool_], radii: tuple[Fraction, ...], stages: tuple[str, ...]) -> None:
        n, columns = len(correct), len(radii)
        self.correct, self.radii = correct, radii
        self.proved = np.full(n, -1)  # the largest column that is proved
        self.fallen = np.full(n, columns)  # the smallest column that is falsified
        # Of a stage that did not decide, the last of these that occurred counts, where no other stage decides.
        self.undecided = {status: np.zeros((n, columns), dtype=bool) for status in (TIMEOUT, ERROR, INVALID)}
        self.reason, self.decided_by = (np.full(n, "", dtype=object) for _ in range(2))
        self.margin = np.full(n, np.nan)
        self.seconds = {stage: np.zeros(n) for stage in stages}
        self.float32_changed = np.zeros(n, dtype=np.int64)
        self.largest_eps = np.zeros(n)

    def open(self, column: int) -> NDArray[np.intp]:
        """The rows that are neither proved nor falsified at a radius."""
        return np.flatnonzero(self.correct & (column > self.proved) & (column < self.fallen))

    def spend(self, stage: str, rows: NDArray[np.intp], seconds: float) -> None:
        """The time of a batch, in equal shares."""
        self.seconds[stage][rows] += seconds / len(rows)

    def fell(self, rows: NDArray[np.intp], column: int) -> None:
        """Counterexamples inside the set of a radius."""
        self.fallen[rows] = np.minimum(self.fallen[rows], column)

    def record(self, column: int, stage: str, verdicts: Verdicts) -> None:
        """A stage's verdicts at a radius; a proof at it settles every smaller one.

        The margin that is kept is that of the proof at the largest radius; without any the largest at the smallest. Of
        several errors the first reason is kept.
        """
        rows, status, margin = verdicts.rows, verdicts.status, verdicts.margin
        self.spend(stage, rows, verdicts.seconds)
        if verdicts.changed is not None:
            self.float32_changed[rows] += verdicts.changed
        won = status == VERIFIED
        self.margin[rows[won]] = margin[won]
        if column == 0:
            self.margin[rows[~won]] = np.fmax(self.margin[rows[~won]], margin[~won])
        self.proved[rows[won]] = column
        self.decided_by[rows[won]] = stage
        for unsettled in (TIMEOUT, ERROR, INVALID):
            self.undecided[unsettled][rows[status == unsettled], column] = True
        self.failed(rows[status == ERROR], column, stage, verdicts.reason)

    def failed(self, rows: NDArray[np.intp], column: int, stage: str, reason: str) -> None:
        """A stage or an attack that crashed at a radius."""
        self.undecided[ERROR][rows, column] = True
        fresh = rows[self.reason[rows] == ""]
        self.reason[fresh] = f"{stage} at {radius_text(self.radii[column])}: {reason}"

    def status(self) -> NDArray[Any]:
        """(n, radii) the one status of each example at each radius."""
        status = np.full((len(self.correct), len(self.radii)), UNKNOWN, dtype=object)
        for unsettled, where in self.undecided.items():
            status[where] = unsettled
        column = np.arange(len(self.radii))
        status[column >= self.fallen[:, None]] = FALSIFIED
        status[column <= self.proved[:, None]] = VERIFIED
        status[~self.correct] = MISCLASSIFIED
        return status

    def certificates(
        self, batch: Batch, predict: Tensor, seconds: float, *, screened: bool, bisected: bool
    ) -> Certificates:
        """The rows; `seconds` are those that no stage spent, and are shared equally by all."""
        status = self.status()
        decided = np.where((self.decided_by == "") & (status == FALSIFIED).any(1), ATTACK, self.decided_by)
        columns: dict[str, Any] = {"margin": self.margin, "decided_by": decided}
        columns |= {f"status@{radius_text(r)}": status[:, i] for i, r in enumerate(self.radii)}
        columns |= {f"{STAGE_SECONDS}{stage}": seconds for stage, seconds in self.seconds.items()}
        if screened:
            columns["float32_changed"] = self.float32_changed
        if bisected:
            columns["largest_eps"] = self.largest_eps
        if (lost := (status == ERROR).any(1)).any():
            columns["reason"] = np.where(lost, self.reason, "")
        grid = np.array([0.0, *map(float, self.radii)])
        return Certificates(
            index=batch.index.cpu().numpy(),
            label=batch.y.cpu().numpy(),
            predict=predict.cpu().numpy(),
            radius=grid[self.proved + 1],
            correct=self.correct,
            seconds=sum(self.seconds.values(), np.full(len(self.correct), seconds / max(1, len(self.correct)))),
            columns=columns,
        )
