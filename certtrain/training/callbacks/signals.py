"""Stops a training at the next boundary of an optimiser step after a signal, so that nothing computed is lost."""

from __future__ import annotations

from typing import Any

import lightning as L

from certtrain.system.collective import Poll
from certtrain.system.signals import Interrupted, SignalFlag
from certtrain.training.callbacks.checkpoint import Checkpoints
from certtrain.training.module import CertifiedTraining


class StopAtSignal(L.Callback):
    """Saves `last.ckpt` and raises Interrupted at the first step boundary after a signal.

    Of several processes, all stop at the same boundary, within a second or so, whichever of them got the signal.
    """

    def __init__(self, flag: SignalFlag, checkpoints: Checkpoints) -> None:
        self.flag, self.checkpoints = flag, checkpoints
        self._signal = Poll(lambda: flag.number or 0)

    def on_train_start(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self.flag.install()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: CertifiedTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch  # then the epoch's end saves a cleaner state
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and not last:
            self._stop(trainer, module, self._signal())

    def on_train_epoch_end(self, trainer: L.Trainer, module: CertifiedTraining) -> None:
        self._stop(trainer, module, self._signal(now=True))

    def _stop(self, trainer: L.Trainer, module: CertifiedTraining, number: int) -> None:
        if number:
            self.checkpoints.save_last(trainer, module)
            raise Interrupted(number)
