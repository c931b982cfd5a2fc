"""Checkpoints: `last` in time, at signals and at the end; `best` by a validation metric, only after the ramp."""

from __future__ import annotations

import io
import math
import os
import pickle
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from certtrain.errors import UserError, nearest
from certtrain.system.collective import Poll
from certtrain.system.files import put, unwritable
from certtrain.training.callbacks.guard import check_finite
from certtrain.training.callbacks.validation import CertifyValidation
from certtrain.training.checkpoints import unreadable_reason
from certtrain.training.module import CertifiedTraining


class LocalFile(TorchCheckpointIO):
    """Lightning's way to write a checkpoint, less its detour over a file in the folder of temporary files.

    Checkpoints are read as data alone, so what a callback puts into one is tried before the last one is replaced.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write the checkpoint; on disk on return.

        Raises:
            OSError: there is no room for it.
            UserError: it holds an object that no reader would accept.
        """
        content = io.BytesIO()
        try:
            torch.save(checkpoint, content)
            content.seek(0)
            torch.load(content, map_location="meta", weights_only=True)  # which reads no tensor's numbers
        except (pickle.PickleError, AttributeError, TypeError) as error:
            raise UserError(
                f"the state that a callback puts into checkpoints cannot be read again: {unreadable_reason(error)}",
                where="configuration group callbacks",
                fix="numbers, texts, tensors, lists and dictionaries of them in its state_dict()",
            ) from error
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # of a callback's own checkpoints
        with io.FileIO(path, "wb") as file:
            put(file, content.getbuffer())
            os.fsync(file.fileno())


class Checkpoints(L.Callback):
    """Writes `last.ckpt` and `best.ckpt` atomically, each after a check that loss and weights are finite.

    During the ramp the metric at the full radius says nothing about the end, so `best` starts when the ramp has ended.

    Args:
        directory: where the checkpoints go.
        monitor: validation metric, larger is better; None keeps no best.
        ramp_end: first optimiser step at full strength.
        validation: what logs the metric, possibly more rarely than every epoch; a stale value is not compared. None
            keeps no best.
        every_n_seconds: longest time between two saves of `last`, at the boundary of an optimiser step.
    """

    def __init__(
        self,
        directory: Path,
        monitor: str | None,
        ramp_end: int = 0,
        every_n_seconds: float = 60.0,
        validation: CertifyValidation | None = None,
    ) -> None:
        self.directory, self.monitor, self.ramp_end = Path(directory), monitor, ramp_end
        self.validation = validation
        self.every_n_seconds = every_n_seconds
        self.best_value: float | None = None
        self.best_step: int | None = None
        self.best_validation: dict[str, Any] | None = None
        self._saved_at = self._started_at = time.monotonic()
        self._saved_step = -1
        self._seconds_before = 0.0
        self._due = Poll(lambda: int(time.monotonic() - self._saved_at >= self.every_n_seconds))

    @property
    def seconds(self) -> float:
        """Time spent in training up to now, in all sessions of the run as far as they were saved."""
        return self._seconds_before + time.monotonic() - self._started_at

    @property
    def last(self) -> Path:
        return self.directory / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.directory / "best.ckpt"

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = LocalFile()

    def save(self, trainer: L.Trainer, module: CertifiedTraining, path: Path) -> None:
        """One checkpoint, complete or not there at all. Of several processes all call it, and the first one writes.

        Raises:
            UserError: it cannot be written; the one that was there stays.
            TrainingDiverged: loss or weights are not finite.
        """
        check_finite(module)
        part = path.with_suffix(".part")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(part)
            if trainer.is_global_zero:
                os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno is None:
                raise
            raise unwritable(path, error, where="checkpoint") from error
        for logger in trainer.loggers:
            logger.save()  # a kill from now on loses no metrics of the steps that the checkpoint holds

    def save_last(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self.save(trainer, module, self.last)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def on_train_start(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self._saved_at = self._started_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: CertifiedTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # In mid-accumulation a checkpoint would lose the gradients collected so far.
        boundary = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if boundary and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and self._due():
            self.save_last(trainer, module)

    def on_train_epoch_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        value = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        fresh = self.validation is not None and self.validation.step == trainer.global_step
        if fresh and self.monitor and value is None:
            found = [name for name in trainer.callback_metrics if name.startswith("val/")]
            raise UserError(
                f"no validation metric is called {self.monitor!r}",
                where="configuration key checkpoint.monitor",
                fix=nearest(self.monitor, found),
            )
        if value is not None and fresh and trainer.global_step >= self.ramp_end:
            value = float(value)
            if not math.isnan(value) and (self.best_value is None or value > self.best_value):
                self.best_value, self.best_step = value, trainer.global_step
                self.best_validation = self.validation.state_dict() if self.validation else None
                self.save(trainer, module, self.best)
        ends = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        if ends or self._due(now=True):
            self.save_last(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        if self._saved_step != trainer.global_step:
            self.save_last(trainer, module)

    def state_dict(self) -> dict[str, Any]:
        best = {"best_value": self.best_value, "best_step": self.best_step, "best_validation": self.best_validation}
        return best | {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_value, self.best_step = state["best_value"], state["best_step"]
        self.best_validation = state["best_validation"]
        self._seconds_before = state["seconds"]
