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
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from certtrain import environment, escape
from certtrain.allocator import keep_freed_memory
from certtrain.callbacks.signals import Interrupted, SignalFlag
from certtrain.commands.children import Child, threads_of
from certtrain.config import call_partial
from certtrain.errors import UserError
from certtrain.ranks import LOCALHOST, Rank, joined, local_store
from certtrain.runs import RunDirectory
from certtrain.training import TrainerSettings

FOLLOWER = ("-m", "certtrain.commands.follower")  # Python's arguments
STORE = "CERTTRAIN_STORE"  # set where the parent's own store, and not torchrun's, is at MASTER_PORT
GRACE_SECONDS = 20.0  # of this process, when another has died, to notice by itself
SECOND_SIGNAL_SECONDS = 2.0  # after a second Ctrl-C, to end by itself
STANDING_SECONDS = 15.0  # in one call after a SIGTERM; schedulers send SIGKILL half a minute later
FAILED = 1


class RankDied(Exception):
    """A process ended while the others trained; what `last.ckpt` holds is kept."""


class _Follower(Child):
    def __init__(self, place: Rank, device: str, locks: tuple[int, ...]) -> None:
        variables = {**os.environ, **place.environment(), STORE: device}
        if device == "cpu":
            variables.setdefault("OMP_NUM_THREADS", threads_of(place.of))
        # Ctrl-C is for number 0, which agrees with the others on when to stop.
        super().__init__(FOLLOWER, variables, locks, group=False)
        self.place = place


def device_count(config: dict[str, Any]) -> int:
    """On how many devices a configuration trains; under torchrun as many as it started processes.

    Raises:
        UserError: more than there are, none where GPUs are asked for, or another number than torchrun's.
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
    gpus = torch.cuda.device_count() if settings.device_type == "cuda" else None
    if gpus is not None and started.local >= gpus:
        raise UserError(
            f"torchrun started process {started.local + 1} of this machine, where torch sees {gpus} GPU(s)",
            where="torchrun --nproc-per-node",
            fix=f"--nproc-per-node={gpus}, or trainer.accelerator=cpu",
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
    followers = [_Follower(place, device, directory.lock_descriptors) for place in places[1:]]
    ended, signals = threading.Event(), _Signals()
    watcher = threading.Thread(target=_watch, args=(followers, ended, directory, signals), daemon=True)
    watcher.start()
    before = torch.get_num_threads()
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(int(threads_of(count)))
    try:
        yield places[0], store
        _wait_for(
            followers, GRACE_SECONDS
        )  # they end their own last epoch; all that counts is written, by this process
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
            follower.close()
        watcher.join()
        signals.close()


class _Signals:
    """SIGINTs and SIGTERMs, also while a call into a driver or another library keeps Python from handling them."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._main = threading.current_thread() is threading.main_thread()  # the only one that may ask for them
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False) if self._main else -1

    def look(self) -> list[int]:
        """Those that came."""
        with contextlib.suppress(BlockingIOError):
            new = self._reader.recv(4096)
            if self._before >= 0:  # whoever asked for signals before
                with contextlib.suppress(OSError):
                    os.write(self._before, new)
            self.received += [number for number in new if number in SignalFlag.SIGNALS]
        return self.received

    def close(self) -> None:
        if self._main:
            signal.set_wakeup_fd(self._before)
        self._reader.close()
        self._writer.close()


class _Standing:
    """For how long the main thread has been in one and the same call."""

    def __init__(self) -> None:
        self._call: tuple[object, int] | None = None  # the frame itself: another one may get the place of a freed one
        self._since = 0.0

    def seconds(self) -> float:
        """Since the first time that one asked and found it there."""
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        if (call := (frame, frame.f_lasti)) != self._call:
            self._call, self._since = call, time.monotonic()
        return time.monotonic() - self._since


def _watch(followers: list[_Follower], ended: threading.Event, directory: RunDirectory, signals: _Signals) -> None:
    """Ends this process when it cannot end by itself, as in a driver's call that waits for a process that is dead, or
    that hangs although it was asked to end: by one SIGTERM, some time ago, or by a second Ctrl-C."""
    standing = _Standing()
    while not ended.wait(0.5):
        dead = _first_dead(followers)
        if dead is not None and not ended.wait(GRACE_SECONDS):
            print(f"certtrain: {_epitaph(dead, directory)}", file=sys.stderr, flush=True)
            os._exit(FAILED)
        received = signals.look()
        hangs = signal.SIGTERM in received and standing.seconds() > STANDING_SECONDS
        twice = received.count(signal.SIGINT) > 1 and not ended.wait(SECOND_SIGNAL_SECONDS)
        if hangs or twice:
            for follower in followers:
                follower.process.kill()
            _wait_for(followers, SECOND_SIGNAL_SECONDS)  # the run is locked until they have gone
            name = signal.Signals(received[0]).name
            said = f"interrupted by {name} while it waited for another process; {_next(directory)}"
            print(f"certtrain: {said}", file=sys.stderr, flush=True)
            os._exit(128 + received[0])


def _wait_for(followers: list[_Follower], seconds: float) -> None:
    for follower in followers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            follower.process.wait(timeout=seconds)


def _first_dead(followers: list[_Follower], patience: float = 0.0) -> _Follower | None:
    deadline = time.monotonic() + patience
    while True:
        for follower in followers:
            if follower.failed:
                return follower
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)


def _epitaph(dead: _Follower, directory: RunDirectory) -> str:
    place = dead.place
    return f"process {place.number + 1} of {place.of} {dead.ending()}, and the others were stopped; {_next(directory)}"


def _next(directory: RunDirectory) -> str:
    on = "goes on from the last checkpoint" if directory.last.exists() else "begins again"
    return f"the same command {on} in {directory.path}"


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
        with SignalFlag(quiet=True) as flag, joined(place, device, store):
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
        print(escape.terminal(f"certtrain: {error}"), file=sys.stderr)
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
