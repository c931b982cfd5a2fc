"""Starts the processes that certify shares of one list side by side, watches them, and ends them together."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from certtrain import environment
from certtrain.callbacks.signals import SignalFlag
from certtrain.commands.children import Child, threads_of
from certtrain.errors import UserError
from certtrain.parts import Share
from certtrain.reporting.bar import Bar

if TYPE_CHECKING:
    from certtrain.commands.stage import Job

WORKER = ("-m", "certtrain.commands.shares")  # Python's arguments
GRACE_SECONDS = 30.0  # of the others, when one has died, to finish the batch that they are at
TERM_SECONDS = 15.0  # of all, after a SIGTERM: who sends one kills before long


class ProcessDied(Exception):
    """A process ended before its share was done; the others were stopped, and all parts are kept."""


class _Worker(Child):
    def __init__(self, share: Share, locks: tuple[int, ...]) -> None:
        variables = {"OMP_NUM_THREADS": threads_of(share.of), **os.environ}
        super().__init__(WORKER, variables, locks, answers=True)
        self.share = share
        self.refusal: dict[str, Any] | None = None


def certify_in_processes(job: Job, shard: Share, count: int, total: int) -> None:
    """Certify a machine's share in `count` processes, each into parts of its own. Returns when all are done.

    Process i gets accelerator i where there are several, and a CPU's threads are shared out unless OMP_NUM_THREADS says
    otherwise. The processes keep the run's locks, so that a run whose parent was killed stays locked until they have
    noticed.

    Args:
        job: of the certify command, with its run in the configuration; at a signal the processes stop after the batch
            that they are at.
        shard: of the machines.
        count: processes.
        total: rows, for the bar.

    Raises:
        UserError: what a process refused.
        ProcessDied: one was killed or crashed.
        Interrupted: at a signal.
    """
    locks = job.loaded.run.lock_descriptors
    workers = [_start(job.config, shard, Share(number, count), locks) for number in range(1, count + 1)]
    try:
        with Bar(job.console, f"certify in {count} processes", total) as bar:
            _watch(workers, bar, job.flag)
    finally:
        for worker in workers:
            worker.close()
    job.flag.raise_if_set()


def _start(config: dict[str, Any], shard: Share, share: Share, locks: tuple[int, ...]) -> _Worker:
    worker = _Worker(share, locks)
    place = {"shard": str(shard), "process": str(share)}
    order = json.dumps({"config": config, "place": place, "command": environment.typed_words()})
    assert worker.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died already, which is noticed soon
        worker.process.stdin.write(order + "\n")
        worker.process.stdin.flush()
    return worker


def _watch(workers: list[_Worker], bar: Bar, flag: SignalFlag) -> None:
    answers: queue.Queue[tuple[_Worker, dict[str, Any]]] = queue.Queue()
    readers = [threading.Thread(target=_read, args=(worker, answers), daemon=True) for worker in workers]
    for reader in readers:
        reader.start()
    rows, certified = 0, 0
    first: _Worker | None = None  # that did not end well
    deadline: float | None = None
    while any(worker.runs for worker in workers) or not answers.empty():
        with contextlib.suppress(queue.Empty):
            worker, answer = answers.get(timeout=0.2)
            worker.refusal = answer.get("error", worker.refusal)
            rows, certified = rows + answer.get("rows", 0), certified + answer.get("certified", 0)
            bar.update(rows, f"certified {certified / rows:.1%}" if rows else "")
        first = first or next((worker for worker in workers if worker.failed), None)
        if deadline is None and flag.number == signal.SIGTERM:
            deadline = time.monotonic() + TERM_SECONDS
        if deadline is None and flag.number is None and first is not None:
            deadline = time.monotonic() + GRACE_SECONDS
        if first is not None or flag.number is not None:
            _stop(workers)
        if deadline is not None and time.monotonic() > deadline:
            for worker in workers:
                worker.process.kill()
    for reader in readers:
        reader.join(timeout=1)
    while not answers.empty():
        worker, answer = answers.get()
        worker.refusal = answer.get("error", worker.refusal)
    if first is not None and flag.number is None:
        _explain(first)


def _read(worker: _Worker, answers: queue.Queue[tuple[_Worker, dict[str, Any]]]) -> None:
    for line in worker.process.stdout or ():
        with contextlib.suppress(ValueError):  # the torn last line of one that was killed
            answers.put((worker, json.loads(line)))


def _stop(workers: list[_Worker]) -> None:
    """The end of their standard input tells them to stop."""
    for worker in workers:
        if worker.process.stdin is not None and not worker.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.close()


def _explain(worker: _Worker) -> None:
    if worker.refusal is not None:
        refusal = worker.refusal
        raise UserError(refusal["what"], where=refusal["where"], fix=refusal["fix"])
    raise ProcessDied(
        f"process {worker.share.number} of {worker.share.of} {worker.ending()}; what all of them had certified is "
        "kept, and the same command goes on from there with any number of processes"
    )
