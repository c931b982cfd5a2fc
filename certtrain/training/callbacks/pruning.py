"""Reports validation results to a study while a trial trains, and stops the trial when it is not worth going on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L

from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.callbacks.validation import CertifyValidation
from certtrain.training.module import CertifiedTraining

# Given an epoch (from 1) and the validation after it, whether to stop.
Report = Callable[[int, Mapping[str, Any]], bool]


class Pruned(Exception):
    """A trial was stopped, with `last.ckpt` saved."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"pruned after epoch {epoch}")
        self.epoch = epoch


class ReportValidation(L.Callback):
    """Reports every fresh validation after the ramp's end; earlier ones say nothing about the radii asked for.

    The last epoch is reported and never pruned: nothing would be saved.

    Args:
        report: takes an epoch and its validation, and says whether to stop.
        validation: whose summary is reported.
        checkpoints: save `last.ckpt` before a trial is stopped.
        ramp_end: first optimiser step at full strength.

    Raises:
        Pruned: when the report says so.
    """

    def __init__(
        self, report: Report, validation: CertifyValidation, checkpoints: Checkpoints, ramp_end: int = 0
    ) -> None:
        self.report, self.validation, self.checkpoints, self.ramp_end = report, validation, checkpoints, ramp_end

    def on_train_epoch_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        summary = self.validation.summary
        fresh = self.validation.step == trainer.global_step
        if not fresh or summary is None or trainer.global_step < self.ramp_end:
            return
        epoch = trainer.current_epoch + 1
        if self.report(epoch, summary) and epoch < (trainer.max_epochs or 0):
            self.checkpoints.save_last(trainer, module)
            raise Pruned(epoch)
