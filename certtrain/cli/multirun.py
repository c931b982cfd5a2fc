"""A multirun: one job per combination of swept values, by any launcher, and what became of each.

A job may run in another process or on another machine, so it writes a small record into a folder that all can see, and
everything else stands in its run directory. Only a record that finds no room there travels with the launcher's results.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from certtrain.cli.compose import INTERRUPTED, call_hydra, given_values
from certtrain.cli.unread import refuse_unread
from certtrain.errors import UserError, in_one_line
from certtrain.runs import environment
from certtrain.system import escape
from certtrain.system.files import explained, unwritable, write_json_atomic

FOLDER = ".multirun"
FAILED = 1  # status of a job that raised
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_multirun(command: str, arguments: list[str]) -> int:
    """Run every job, then the command module's `summarise(records)` when it has one. Returns the exit status.

    Raises:
        UserError: what Hydra refuses, before the first job; jobs that failed, after the last and after the summary.
    """
    runs_dir = given_values(arguments).get("runs_dir", "runs")
    root = Path("runs" if "," in runs_dir else runs_dir) / FOLDER
    existed = root.parent.exists()
    spool = root / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    task = Task(command, spool, environment.typed_words())
    stopped: Exception | None = None
    try:
        # Hydra's parser wants its flag before the overrides.
        call_hydra(command, ["-m", *(word for word in arguments if word not in ("-m", "--multirun"))], task)
    except Exception as error:  # refused by Hydra; or a launcher whose worker was killed, or whose cluster says no
        stopped = error
    records, every = read_records(spool), True
    if isinstance(stopped, Unrecorded):
        by_number = {record["number"]: record for record in records}
        every = stopped.record["number"] in by_number  # else other jobs may have found no room for a first word either
        by_number[stopped.record["number"]] = stopped.record
        records, stopped = [by_number[number] for number in sorted(by_number)], None
    if any(spool.glob("*.log")):  # where the jobs' own messages are
        told = {record["error"]: record["number"] for record in reversed(records) if record["error"]}
        for error, number in sorted(told.items(), key=lambda pair: pair[1]):
            print(escape.terminal(f"certtrain: job {number} failed: {error}"), file=sys.stderr)
    else:
        _sweep_up(root, spool)
    if not records:
        if not existed:
            with contextlib.suppress(OSError):  # not there, or not empty
                root.parent.rmdir()
        if isinstance(stopped, UserError):
            raise stopped
        if isinstance(stopped, OSError) and stopped.errno is not None:
            raise unwritable(stopped.filename or root / "multirun.yaml", stopped) from stopped
        if stopped is not None:
            missing = "hydra_plugins" in str(stopped)
            raise UserError(
                f"no job could be started: {stopped}",
                where="hydra/launcher",
                fix="pip install 'certtrain[sweep]'" if missing else "hydra/launcher=basic runs them one after another",
            ) from stopped
        return 0
    module = import_module(f"certtrain.cli.{command}")
    if hasattr(module, "summarise"):
        module.summarise(records)
    return _verdict(records, stopped, every)


def _sweep_up(root: Path, spool: Path) -> None:
    """Remove what only this multirun needed; what another one, or a launcher, has there stays."""
    shutil.rmtree(spool, ignore_errors=True)
    if root.exists() and {path.name for path in root.iterdir()} <= {"multirun.yaml"}:
        with contextlib.suppress(OSError):
            (root / "multirun.yaml").unlink(missing_ok=True)
            root.rmdir()


def _verdict(records: Sequence[dict[str, Any]], stopped: Exception | None, every: bool) -> int:
    """The exit status of the whole, or the error that stands for what failed; `every`: there are no other jobs."""
    if signals := [record["status"] for record in records if (record["status"] or 0) >= INTERRUPTED]:
        return max(signals)
    lost = [record for record in records if record["status"] is None]
    failed = [record for record in records if record["status"] == FAILED]
    if not (lost or failed or stopped):
        return max(record["status"] for record in records)
    causes = [in_one_line(str(record["error"])) for record in failed]
    causes += [
        f"job {record['number']} ended without a word, as when it is killed or its disk is full" for record in lost
    ]
    causes += [f"the launcher stopped: {stopped}"] if stopped else []
    count = len(failed) + len(lost)
    raise UserError(
        f"{f'{count} of {len(records)}' if every else f'at least {count}'} jobs failed, the first because: {causes[0]}",
        where="the multirun",
        fix="mend what the messages above say; jobs that are complete are not trained again",
    ) from stopped


class Unrecorded(Exception):
    """How a job ended, whose record found no room: Hydra carries the exception of the first such job to the command."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(record)  # so that it can be pickled
        self.record = record


class Task:
    """What Hydra calls per job, in this process or, pickled, in another one. Raises only `Unrecorded`.

    Args:
        command: whose module runs the job.
        spool: the folder of records, one JSON file per job.
        words: what the user typed, for the evidence that jobs in other processes leave.
    """

    def __init__(self, command: str, spool: Path, words: Sequence[str]) -> None:
        self.command, self.spool, self.words = command, spool.resolve(), list(words)
        self.parent = os.getpid()

    def __call__(self, config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        if any((record["status"] or 0) >= INTERRUPTED for record in read_records(self.spool)):
            return  # a signal ends the whole multirun, not one job of it
        overrides = [str(override) for override in hydra.overrides.task]
        record = {"number": int(hydra.job.num), "overrides": overrides, "run": None, "status": None, "error": None}
        elsewhere = os.getpid() != self.parent
        if elsewhere:
            environment.remember_command(self.words)
            share_cores(int(hydra.launcher.get("n_jobs") or 1), hydra.launcher.get("cpus_per_task"))
            getattr(import_module(f"certtrain.cli.{self.command}"), "SHOWN", []).clear()  # its log stands alone
        try:
            with self._output(record["number"], elsewhere):
                self._run(record, config)
        except (UserError, OSError) as error:  # no room for the record, or for the log
            if record["status"] is None:
                record |= {"status": FAILED, "error": str(_message(error) or error)}
            raise Unrecorded(record) from error

    def _run(self, record: dict[str, Any], config: Any) -> None:
        path = self.spool / f"{record['number']:04}.json"
        try:
            module = import_module(f"certtrain.cli.{self.command}")
            print(escape.terminal(f"\njob {record['number']}: {' '.join(record['overrides'])}"), flush=True)
            refuse_unread(self.command, config)
            if hasattr(module, "run_path"):
                record["run"] = str(Path(module.run_path(config)).resolve())
            write_json_atomic(path, record)
            record["status"] = module.run(config)
            if record["status"] == FAILED:
                record["error"] = "an attack broke certificates that it issued"
            elif 0 < record["status"] < INTERRUPTED:  # of several processes, one of which has told it
                record |= {"status": FAILED, "error": "what it refused is said above"}
        except Exception as error:
            message = _message(error)
            record |= {"status": FAILED, "error": str(message or f"{type(error).__name__}: {error}")}
            # Of what is not the user's mistake all that helps to mend it.
            _tell(traceback.format_exc() if message is None else f"certtrain: this job failed: {message}")
        try:
            write_json_atomic(path, record)
        except UserError as error:
            _tell(f"certtrain: how this job ended is not recorded: {error}")
            raise

    @contextlib.contextmanager
    def _output(self, number: int, elsewhere: bool) -> Iterator[None]:
        """Jobs side by side would write over each other: each gets a log of its own, and one line is shown."""
        if not elsewhere:
            yield
            return
        log = self.spool / f"{number:04}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("a", encoding="utf-8")
        print(f"job {number}: started, output in {log}", flush=True)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            with contextlib.suppress(OSError):  # lines that find no room: why the job failed goes another way
                file.close()
        print(f"job {number}: ended", flush=True)


def _tell(text: str) -> None:
    """A message of a job, where there is room for it."""
    with contextlib.suppress(OSError):
        print(escape.terminal(text), file=sys.stderr, flush=True)


def _message(error: Exception) -> UserError | None:
    """What the user is told of an error that is no bug."""
    if isinstance(error, OSError):
        return explained(error)
    return error if isinstance(error, UserError) else None


def read_records(spool: Path) -> list[dict[str, Any]]:
    """What the jobs of a multirun wrote, by number; `status` null while a job runs or when it was killed."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(spool.glob("*.json"))]


def share_cores(jobs: int, most: int | None = None) -> None:
    """One job's part of the cores as its number of threads, unless fewer are asked for already.

    Two processes with two threads each are many times slower on two cores than with one each. Works before torch is
    imported; afterwards torch is told.

    Args:
        jobs: how many run side by side; -1 for one per core.
        most: threads that the launcher reserved for a job, where it reserves them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    part = max(1, cores // (cores if jobs < 0 else jobs))
    part = min(part, most) if most else part
    for name in THREADS:
        present = os.environ.get(name, "")
        os.environ[name] = str(min(part, int(present)) if present.isdigit() else part)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(min(part, sys.modules["torch"].get_num_threads()))
