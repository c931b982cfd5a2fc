"""SIGINT and SIGTERM: a flag, honoured at the next boundary of an optimiser step, so that nothing computed is lost."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

import lightning as L

from certtrain.callbacks.checkpoint import Checkpoints
from certtrain.collective import Poll
from certtrain.methods.module import CertifiedTraining

PATIENCE_SECONDS = 3.0  # for the batch at work, so that it is not lost; a signal is honoured within ten


class Interrupted(BaseException):
    """Work ended at a signal, with everything saved.

    Not an `Exception`, no more than `KeyboardInterrupt`: what takes an example's failure down and goes on must not take
    this for one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_status(self) -> int:
        """The shell's convention: 128 + signal number."""
        return 128 + self.number


class SignalFlag:
    """Context manager: the first SIGINT or SIGTERM sets `number`; a second one of SIGINT ends at once.

    The first one is answered on standard error at once, also while Python waits for a long call into a library.

    Args:
        quiet: answer nothing: of a process whose parent does.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, quiet: bool = False) -> None:
        self.number: int | None = None
        self._noticed: float | None = None  # when the work first saw the signal
        self._previous: dict[int, Any] = {}
        self._answer = None if quiet else _Answer()

    def __enter__(self) -> SignalFlag:
        if self._answer is not None and threading.current_thread() is threading.main_thread():
            self._answer.start()
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
        if self._answer is not None:  # a wakeup descriptor of somebody else's may be in place
            self._answer.to(number)
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._answer is not None:
            self._answer.stop()

    def raise_if_set(self) -> None:
        """Raises Interrupted when a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)

    def raise_if_overdue(self) -> None:
        """Raises Interrupted when a signal was there a while ago: for the inside of a batch, which had time to end."""
        if self.number is None:
            return
        now = time.monotonic()
        self._noticed = now if self._noticed is None else self._noticed
        if now - self._noticed >= PATIENCE_SECONDS:
            raise Interrupted(self.number)


class _Answer:
    """A thread that says that a signal came: Python's own handlers wait for the call that the main thread is in."""

    STOP = 0

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen; in the main thread, the only one that may ask for signals."""
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def to(self, number: int) -> None:
        """Answer a signal, unless that is done."""
        if self._thread is not None:
            with contextlib.suppress(OSError):
                self._writer.send(bytes([number]))

    def _listen(self) -> None:
        said = False
        while (number := self._reader.recv(1)) and number[0] != self.STOP:
            if number[0] not in SignalFlag.SIGNALS or said:
                continue
            said = True
            name = signal.Signals(number[0]).name
            with contextlib.suppress(OSError, ValueError):  # nobody listens any more
                print(f"{name}: stopping; what is done is kept (Ctrl-C again: at once)", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Give the signals back."""
        if self._thread is None:
            return
        signal.set_wakeup_fd(self._before)
        self.to(self.STOP)
        self._thread.join(timeout=1)
        self._thread = None
        self._reader.close()
        self._writer.close()


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
