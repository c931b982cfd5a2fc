"""SIGINT and SIGTERM: a flag, honoured at the next boundary of the work, so that nothing computed is lost."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

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
    """Context manager: the first SIGINT or SIGTERM sets `number`; of two, one of them SIGINT, the second ends at once.

    The first one is answered on standard error at once, also while Python waits for a long call into a library.

    Args:
        quiet: answer nothing: of a process whose parent does.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, quiet: bool = False) -> None:
        self.number: int | None = None
        self._noticed: float | None = None  # when the work first saw the signal
        self._previous: dict[int, Any] = {}
        self._answer = None if quiet else Answer()

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
        if self.number is not None and signal.SIGINT in (number, self.number):
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


class Answer:
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
