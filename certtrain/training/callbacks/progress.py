"""The progress of training: a bar with what is scheduled, loss, clean and certified accuracy."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from rich.console import Console

from certtrain.radii import radius_text
from certtrain.reporting.bar import Bar
from certtrain.reporting.terminal import print_line
from certtrain.training.callbacks.validation import CertifyValidation
from certtrain.training.module import CertifiedTraining


class TrainingProgress(L.Callback):
    """A live bar on a terminal; elsewhere one line per about a tenth of the run.

    Args:
        console: where to draw.
        validation: gives the certified accuracy; None when nothing is certified.
        refresh_seconds: the device is asked for the loss at most this often.
    """

    def __init__(self, console: Console, validation: CertifyValidation | None, refresh_seconds: float = 0.5) -> None:
        self.console, self.validation, self.refresh_seconds = console, validation, refresh_seconds
        self._bar: Bar | None = None
        self._drawn = 0.0
        self._lines = 0

    def on_train_start(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self._per_epoch = int(trainer.num_training_batches)
        if not self.console.is_terminal:
            return
        self._bar = Bar(self.console, "train", self._per_epoch * int(trainer.max_epochs or 1), "batches")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: CertifiedTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None or time.monotonic() - self._drawn < self.refresh_seconds:
            return
        self._drawn = time.monotonic()
        self._draw(trainer, module, trainer.current_epoch * self._per_epoch + batch_idx + 1)

    def on_train_epoch_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        epochs, done = int(trainer.max_epochs or 1), trainer.current_epoch + 1
        if self._bar is not None:
            self._draw(trainer, module, done * self._per_epoch)
        elif done * 10 // epochs > self._lines or done == epochs:
            self._lines = done * 10 // epochs
            print_line(self.console, f"epoch {done}/{epochs}  {self.text(trainer, module)}")

    def _draw(self, trainer: L.Trainer, module: CertifiedTraining, completed: int) -> None:
        assert self._bar is not None
        label = f"train epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._bar.update(completed, self.text(trainer, module), label)

    def text(self, trainer: L.Trainer, module: CertifiedTraining) -> str:
        """What matters now, in about 80 columns."""
        words = [f"{k} {v:.3g}" for k, v in module.scheduled().items() if k not in ("regulariser", "lr")]
        if "loss" in module.parts:
            words.append(f"loss {float(module.parts['loss']):.3f}")
        if "val/clean" in trainer.callback_metrics:
            words.append(f"clean {float(trainer.callback_metrics['val/clean']):.1%}")
        if self.validation is not None and self.validation.summary is not None:
            certified = self.validation.summary["certified"]
            radius = radius_text(self.validation.watched)
            words.append(f"certified@{radius} ({self.validation.certifier.name}) {certified[radius]:.1%}")
            if self.validation.summary.get("acr") is not None:
                words.append(f"ACR {self.validation.summary['acr']:.3f}")
        return "  ".join(words)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, module: CertifiedTraining, exception: BaseException) -> None:
        self._stop()
