"""Processes of ours that work for this one: started with its paths, its run's locks and a share of the cores."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from certtrain import environment


class Child:
    """Python running a module of ours. Its standard input is a pipe that nobody else holds: its end tells of ours.

    Args:
        arguments: Python's, such as `-m certtrain.commands.shares`.
        variables: of its environment.
        locks: descriptors of the locks that it keeps, so that a run stays locked as long as somebody works in it.
        answers: whether its standard output is read, from `process.stdout`; else it is kept with the errors.
        group: whether it shares this process' terminal group, and with it Ctrl-C.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str],
        locks: tuple[int, ...],
        *,
        answers: bool = False,
        group: bool = True,
    ) -> None:
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # a user's own parts are found there, too
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (`close`)
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if answers else self._errors,
            stderr=self._errors,
            env={**variables, "PYTHONPATH": path},
            pass_fds=locks,
            text=True,
            start_new_session=not group,
        )

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether it has ended, and not well."""
        return self.process.poll() not in (None, 0)

    def ending(self) -> str:
        """How one that failed ended, with its pid; what it printed when it failed goes to standard error."""
        status, who = self.process.returncode, f"(pid {self.process.pid})"
        if status < 0 or status > 128:
            number = -status if status < 0 else status - 128
            why = ", as when memory runs out" if number == signal.SIGKILL else ""
            return f"{who} was ended by {signal.Signals(number).name}{why}"
        self._errors.seek(0)
        shutil.copyfileobj(self._errors, sys.stderr)
        return f"{who} failed with exit status {status}"

    def close(self) -> None:
        """End it at once if it still runs."""
        self.process.kill()
        self.process.wait()
        self._errors.close()


def threads_of(count: int) -> str:
    """Each one's threads where so many processes share the cores of this machine."""
    return str(max(1, (environment.hardware()["usable_cores"] or 1) // count))
