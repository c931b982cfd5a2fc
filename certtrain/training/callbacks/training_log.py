"""Writes the schedules and the means of every loss part, every few steps, to all loggers."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from certtrain.system.collective import global_sum, processes
from certtrain.training.module import CertifiedTraining


class TrainingLog(L.Callback):
    """Sums the parts of each step on the device and asks for them, of all processes, once per `every_n_steps`.

    Lightning's own per-step logging costs about as much as a small network's step.

    Args:
        every_n_steps: optimiser steps between two rows.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = max(1, every_n_steps)
        self.latest: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._batches = 0
        self._written_step = -1
        self._since = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self._since, self._written_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, module: CertifiedTraining, *args: Any) -> None:
        for name, value in module.parts.items():
            value = value if module.weight is None else value * module.weight
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1  # a part may be there in some steps only
        self._batches += 1
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != self._written_step:
            self.write(trainer, module)

    def on_train_epoch_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        if self._batches:
            self.write(trainer, module)

    def write(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        """One row: means since the last one, schedules now."""
        names = list(self._sums)
        values = (global_sum(torch.stack([self._sums[name].double() for name in names])) / processes()).tolist()
        metrics = {f"train/{name}": value / self._counts[name] for name, value in zip(names, values)}
        metrics |= {f"schedule/{name}": value for name, value in module.scheduled().items()}
        now = time.monotonic()
        metrics["train/seconds_per_batch"] = (now - self._since) / self._batches
        self.latest = metrics
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=trainer.global_step)
        self._sums, self._counts, self._batches = {}, {}, 0
        self._written_step, self._since = trainer.global_step, now
