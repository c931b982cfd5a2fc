"""SIGINT and SIGTERM: a flag, honoured at the next boundary of an optimiser step, so that nothing computed is lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

from certtrain.callbacks.checkpoint import Checkpoints
from certtrain.collective import Poll
from certtrain.methods.module import CertifiedTraining


class Interrupted(Exception):
    """Work ended at a signal, with everything saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_status(self) -> int:
        """The shell's convention: 128 + signal number."""
        return 128 + self.number


class SignalFlag:
    """Context manager: the first SIGINT or SIGTERM sets `number`; a second one of SIGINT ends at once."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalFlag:
        self.install()
        return self

    def install(self) -> None:
        """Take the handlers over (again): Lightning installs its own when a fit starts."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self.SIGNALS:
            current = signal.getsignal(number)
            if current != self._handle:
                self._previous.setdefault(number, current)
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def raise_if_set(self) -> None:
        """Raises Interrupted when a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)


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
