"""Starts the processes of one training or certification on this machine, by torch's elastic launcher.

All start at once, before anything is built here. The launcher's agent, in this process, gives each its rank in the
environment and a store to meet at, by the loopback address; it ends the others when one fails, and passes SIGINT and
SIGTERM on. Whoever has not ended by itself `SHUTDOWN_SECONDS` later is killed. Rank 0 has this terminal, and says
itself what it has to say; what the others say is shown when they fail.

What remains of our own, because the agent does not do it:

- It restores neither signal handlers nor variables of the environment; a multirun goes on after a job.
- Of several failures the first is the cause, and the others only lost contact: `LOST` tells them apart.
- Its processes outlive it when it is killed with SIGKILL: each asks the kernel to end with it (`cli.worker`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain.runs import environment
from certtrain.system.signals import Answer, Interrupted, SignalFlag

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

WORKER = ("-m", "certtrain", "worker")  # Python's arguments
SHUTDOWN_SECONDS = 15  # after a SIGTERM; schedulers send SIGKILL half a minute later
USER_ERROR = 2
LOST = 3  # exit status of a rank that lost contact with another one, which is the one to tell of
ENDED = {128 + number: number for number in SignalFlag.SIGNALS}  # in order, at a signal


class ProcessDied(Exception):
    """A process ended before its work was done, and the others were stopped; what they had done is kept."""


def launch(order: Mapping[str, Any], count: int, *, output_of_all: bool = False) -> int:
    """Run `certtrain worker` with an order in `count` processes. Returns the exit status, 0 when all succeed.

    Args:
        order: what to do, JSON; `cli.worker` reads it.
        count: processes, which share the cores of this machine unless OMP_NUM_THREADS says otherwise.
        output_of_all: what all of them print is shown, not only what rank 0 does.

    Raises:
        Interrupted: at a signal, once all have ended.
        ProcessDied: one was killed or crashed.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    shown = sys.stdout is sys.__stdout__  # else somebody collects what this process prints: it is copied afterwards
    hidden = range(0 if not shown else count if output_of_all else 1, count)
    with tempfile.TemporaryDirectory(prefix="certtrain_") as folder, _quiet(), _surroundings(count):
        file = Path(folder, "order.json")
        file.write_text(json.dumps({**order, "words": environment.typed_words(), "parent": os.getpid()}))
        # SIGHUP is for what was started without nohup, and ends it anyway; the first versions pass it on regardless.
        known = LaunchConfig.__dataclass_fields__
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="certtrain",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(folder, redirects=dict.fromkeys(hidden, Std.ALL)),
            **({"signals_to_handle": "SIGTERM,SIGINT"} if "signals_to_handle" in known else {}),
        )
        flags = ["--traceback"] if "--traceback" in sys.argv else []
        try:
            elastic_launch(config, sys.executable)(*WORKER, *flags, str(file))
        except SignalException as stopped:
            raise Interrupted(stopped.sigval) from None
        except ChildFailedError as failed:
            return _explain(failed.failures, count, Path(folder))
        finally:
            if not shown:
                for number in range(count if output_of_all else 1):
                    _show(Path(folder), number, sys.stdout, sys.stderr)
    return 0


def _explain(failures: Mapping[int, ProcessFailure], count: int, folder: Path) -> int:
    """The exit status, when a rank has said itself why it failed.

    Raises:
        Interrupted: a rank was told to stop, and with it all others.
        ProcessDied: with how the first one ended.
    """
    if 0 in failures and failures[0].exitcode == USER_ERROR:
        return USER_ERROR  # the others may say the same
    consequences = {LOST, -signal.SIGTERM, *ENDED}
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode not in consequences}
    rank, failure = min((own or failures).items(), key=lambda item: item[1].timestamp)
    status = failure.exitcode
    if status in ENDED:
        raise Interrupted(ENDED[status])
    if status > 0 and rank == 0:
        return status
    if status == USER_ERROR:
        _show(folder, rank, sys.stderr)
        return status
    if status < 0:
        why = ", as when memory runs out" if -status == signal.SIGKILL else ""
        ending = f"was ended by {signal.Signals(-status).name}{why}"
    else:
        _show(folder, rank, sys.stderr)
        ending = f"failed with exit status {status}"
    raise ProcessDied(f"process {rank + 1} of {count} (pid {failure.pid}) {ending}, and the others were stopped")


def _show(folder: Path, rank: int, *streams: Any) -> None:
    """Copy what a rank printed, its standard error last, to these streams, or both to one."""
    for name, stream in zip(("stdout", "stderr"), (streams[0], streams[-1])):
        for log in folder.glob(f"*/attempt_0/{rank}/{name}.log"):
            with log.open(encoding="utf-8", errors="replace") as file:
                shutil.copyfileobj(file, stream)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The launcher's own logs say less well what we say; a signal is answered at once."""
    before, main = logging.root.manager.disable, threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SignalFlag.SIGNALS}
    answer = Answer()
    if main:
        answer.start()
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
        answer.stop()
        for number, handler in handlers.items() if main else ():
            signal.signal(number, handler)


@contextlib.contextmanager
def _surroundings(count: int) -> Iterator[None]:
    """The environment that so many processes inherit; afterwards it is as it was."""
    before = dict(os.environ)
    # A user's own parts are found there, too.
    os.environ["PYTHONPATH"] = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    os.environ.setdefault("OMP_NUM_THREADS", threads_of(count))
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:  # gloo would listen on the interface of this machine's name
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def threads_of(count: int) -> str:
    """Each one's threads where so many processes share the cores of this machine."""
    return str(max(1, (environment.hardware()["usable_cores"] or 1) // count))
