"""Training on several devices: one process each, started here or by torchrun. Number 0 is the command itself.

The command opens the run directory, writes, prints and validates its settings; the others, which know nothing, join,
are told the configuration, and train beside it: `python -m certtrain.commands.follower`, or the same command line under
torchrun. A process that dies ends them all, with a message, within seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import torch
import torch.distributed as dist
from rich.console import Console

from certtrain import environment
from certtrain.allocator import keep_freed_memory
from certtrain.callbacks.signals import Interrupted, SignalFlag
from certtrain.commands.processes import ending
from certtrain.config import call_partial
from certtrain.errors import UserError
from certtrain.ranks import LOCALHOST, Rank, joined, local_store
from certtrain.runs import RunDirectory
from certtrain.training import TrainerSettings

FOLLOWER = ("-m", "certtrain.commands.follower")  # Python's arguments
STORE = "CERTTRAIN_STORE"  # set where the parent's own store, and not torchrun's, is at MASTER_PORT
GRACE_SECONDS = 20.0  # of this process, when another has died, to notice by itself
SECOND_SIGNAL_SECONDS = 2.0  # after a second Ctrl-C, to end by itself
FAILED = 1


class RankDied(Exception):
    """A process ended while the others trained; what `last.ckpt` holds is kept."""


@dataclass
class _Follower:
    place: Rank
    process: subprocess.Popen[bytes]
    errors: IO[str]


def device_count(config: dict[str, Any]) -> int:
    """On how many devices a configuration trains; under torchrun as many as it started processes.

    Raises:
        UserError: more than there are, or another number than torchrun's.
    """
    settings = call_partial(TrainerSettings, "trainer", **config["trainer"])
    started = environment.torchrun()
    if started is None:
        return settings.device_count()
    if settings.devices not in ("auto", 1, started.of):
        raise UserError(
            f"trainer.devices = {settings.devices}, and torchrun started {started.of} processes",
            where="configuration key trainer.devices",
            fix=f"trainer.devices=auto, or {started.of}",
        )
    return started.of


@contextlib.contextmanager
def joined_by_all(config: dict[str, Any], directory: RunDirectory, state: str, count: int) -> Iterator[Rank | None]:
    """Within it, this process is number 0 of `count`, and the others train with it when it calls `fit_run`.

    Args:
        config: resolved.
        directory: the run, open.
        state: `new` or `resume`.
        count: processes; for one, nothing happens.

    Yields:
        Its place; None when it is alone.

    Raises:
        RankDied: another process ended before the training did.
        UserError: the others cannot be joined.
    """
    if count == 1:
        yield None
        return
    settings = TrainerSettings(**config["trainer"])
    order = {"config": config, "directory": str(directory.path), "state": state, "device": settings.device_type}
    if environment.torchrun() is not None:
        place = Rank.from_environment()
        try:
            with joined(place, settings.device_type):
                dist.broadcast_object_list([order])
                yield place
        except RuntimeError as error:
            if not _lost_contact(error):
                raise
            raise RankDied(f"another process of this training has ended: {str(error).splitlines()[0]}") from error
        return
    with _started(count, directory, settings.device_type) as (place, store), joined(place, settings.device_type, store):
        dist.broadcast_object_list([order])
        yield place


@contextlib.contextmanager
def _started(count: int, directory: RunDirectory, device: str) -> Iterator[tuple[Rank, dist.TCPStore]]:
    store = local_store(count)
    places = [Rank(number, count, number, count, LOCALHOST, store.port) for number in range(count)]
    threads = max(1, (environment.hardware()["usable_cores"] or 1) // count)
    followers = [_start(place, directory, device, threads) for place in places[1:]]
    ended, signals = threading.Event(), _Signals()
    watcher = threading.Thread(target=_watch, args=(followers, ended, directory, signals), daemon=True)
    watcher.start()
    before = torch.get_num_threads()
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    try:
        yield places[0], store
        for follower in followers:  # they end their own last epoch; all that counts is written, by this process
            with contextlib.suppress(subprocess.TimeoutExpired):
                follower.process.wait(timeout=GRACE_SECONDS)
    except Exception as error:
        # An error of this process' own is told as it is: the others end because of it. To end takes them seconds.
        if isinstance(error, RuntimeError) and _lost_contact(error):
            dead = _first_dead(followers, patience=GRACE_SECONDS)
            if dead is not None:
                raise RankDied(_epitaph(dead, directory)) from error
        raise
    finally:
        ended.set()
        torch.set_num_threads(before)
        for follower in followers:
            if follower.process.poll() is None:
                follower.process.kill()
            follower.process.wait()
            follower.errors.close()
        watcher.join()
        signals.close()


def _start(place: Rank, directory: RunDirectory, device: str, threads: int) -> _Follower:
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # a user's own parts are found there, too
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed with its process)
    variables = {**os.environ, **place.environment(), "PYTHONPATH": path, STORE: device}
    process = subprocess.Popen(
        [sys.executable, *FOLLOWER],
        stdin=subprocess.PIPE,  # never written to: its end tells that this process has ended
        stdout=errors,
        stderr=errors,
        env={"OMP_NUM_THREADS": str(threads), **variables} if device == "cpu" else variables,
        pass_fds=directory.lock_descriptors,
        start_new_session=True,  # Ctrl-C is for number 0, which agrees with the others on when to stop
    )
    return _Follower(place, process, errors)


class _Signals:
    """Counts SIGINTs also while a call into a driver or another library keeps Python from handling them."""

    def __init__(self) -> None:
        self.interrupts = 0
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._main = threading.current_thread() is threading.main_thread()  # the only one that may ask for them
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False) if self._main else -1

    def look(self) -> int:
        """How many there were."""
        with contextlib.suppress(BlockingIOError):
            self.interrupts += self._reader.recv(4096).count(signal.SIGINT)
        return self.interrupts

    def close(self) -> None:
        if self._main:
            signal.set_wakeup_fd(self._before)
        self._reader.close()
        self._writer.close()


def _watch(followers: list[_Follower], ended: threading.Event, directory: RunDirectory, signals: _Signals) -> None:
    """Ends this process when it cannot end by itself, as in a driver's call that waits for a process that is dead, or
    that hangs and the user wants to end at once."""
    while not ended.wait(0.5):
        dead = _first_dead(followers)
        if dead is not None and not ended.wait(GRACE_SECONDS):
            print(f"certtrain: {_epitaph(dead, directory)}", file=sys.stderr, flush=True)
            os._exit(FAILED)
        if signals.look() > 1 and not ended.wait(SECOND_SIGNAL_SECONDS):
            for follower in followers:
                follower.process.kill()
            print("certtrain: interrupted while it waited for another process", file=sys.stderr, flush=True)
            os._exit(128 + signal.SIGINT)


def _first_dead(followers: list[_Follower], patience: float = 0.0) -> _Follower | None:
    deadline = time.monotonic() + patience
    while True:
        for follower in followers:
            if follower.process.poll() not in (None, 0):
                return follower
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)


def _epitaph(dead: _Follower, directory: RunDirectory) -> str:
    place, how = dead.place, ending(dead.process, dead.errors)
    on = "goes on from the last checkpoint" if directory.last.exists() else "begins again"
    return (
        f"process {place.number + 1} of {place.of} (pid {dead.process.pid}) {how}, and the others were stopped; "
        f"the same command {on} in {directory.path}"
    )


def _lost_contact(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "Connection closed"))


def follow() -> int:
    """Join, be told what to train, and train beside number 0. Returns the exit status."""
    keep_freed_memory()
    place = Rank.from_environment()
    own = os.environ.get(STORE)
    device = own or ("cuda" if torch.cuda.is_available() else "cpu")
    store = None
    if own is not None:
        store = dist.TCPStore(place.address, place.port, place.of, is_master=False)
    try:
        with SignalFlag() as flag, joined(place, device, store):
            orders: list[Any] = [None]
            dist.broadcast_object_list(orders)
            if orders[0] is None:
                return 0
            from certtrain.commands.fitting import fit_run

            order = orders[0]
            directory = RunDirectory(order["directory"])
            fit_run(directory, order["state"], order["config"], Console(quiet=True), flag, [], place=place)
    except Interrupted as interrupted:
        return 0 if own is not None else interrupted.exit_status
    except UserError as error:
        print(f"certtrain: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if not _lost_contact(error):
            raise
        print(f"process {place.number + 1} of {place.of}: another one has ended", file=sys.stderr)
        return FAILED
    return 0


def dismiss() -> None:
    """Tell torchrun's other processes that there is nothing to train."""
    with joined(Rank.from_environment(), "cuda" if torch.cuda.is_available() else "cpu"):
        dist.broadcast_object_list([None])
