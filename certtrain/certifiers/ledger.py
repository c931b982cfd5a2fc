"""What is known of every example at every radius while a cascade decides them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from certtrain.certificates import ERROR, FALSIFIED, INVALID, MISCLASSIFIED, UNKNOWN, VERIFIED, Certificates
from certtrain.certificates.summary import ATTACK, STAGE_SECONDS
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
        self.invalid, self.crashed = (np.zeros((n, columns), dtype=bool) for _ in range(2))
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

    def attacked(self, rows: NDArray[np.intp], column: int, hit: NDArray[np.bool_]) -> None:
        """An attack at a radius."""
        self.fallen[rows[hit]] = column

    def bounded(
        self, rows: NDArray[np.intp], column: int, stage: str, least: NDArray[np.float64], finite: NDArray[np.bool_]
    ) -> None:
        """A stage's least lower bounds of the margins at a radius; proved where they are finite and > 0.

        The margin that is kept is that of the proof at the largest radius; without any the largest at the smallest.
        """
        won = finite & (least > 0)
        self.invalid[rows[~finite], column] = True
        self.margin[rows[won]] = least[won]
        if column == 0:
            lost = finite & ~won
            self.margin[rows[lost]] = np.fmax(self.margin[rows[lost]], least[lost])
        self.proved[rows[won]] = column
        self.decided_by[rows[won]] = stage

    def failed(self, rows: NDArray[np.intp], column: int, stage: str, reason: str) -> None:
        """A stage that crashed at a radius; the first reason is kept."""
        self.crashed[rows, column] = True
        fresh = rows[self.reason[rows] == ""]
        self.reason[fresh] = f"{stage} at {radius_text(self.radii[column])}: {reason}"

    def status(self) -> NDArray[Any]:
        """(n, radii) the one status of each example at each radius."""
        status = np.full(self.invalid.shape, UNKNOWN, dtype=object)
        status[self.crashed] = ERROR
        status[self.invalid] = INVALID
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
