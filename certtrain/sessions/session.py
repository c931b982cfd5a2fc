"""One session of a training: it records what becomes of the run, so that whatever ends it, the next one goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from certtrain.errors import command_line
from certtrain.reporting import terminal
from certtrain.reporting.terminal import print_line
from certtrain.runs import environment
from certtrain.runs.directory import RunDirectory, State
from certtrain.sessions.launcher import ProcessDied
from certtrain.system.signals import Interrupted, SignalFlag

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from rich.console import Console

    from certtrain.certification.shares import Fellows
    from certtrain.training.callbacks.pruning import Report


class Session:
    """One session of a run: from its start, or from where the last session stopped, to its end or a signal.

    Whatever happens stands in `result.json`: `interrupted` from the first moment, so that a kill -9 leaves the truth
    behind too, `failed` with the reason and step of a divergence, `complete` at the end. The weights are in
    `checkpoints/`, where the next session finds them.

    Args:
        directory: the run, open: this process has its lock.
        state: `new`, `resume` or `complete`, as `RunDirectory.open` found it.
        config: resolved.
        report: of a study's trial: told of each validation after the ramp's end, and may stop the training.
        shown: the configuration that was shown last, if any: of this one what differs is shown, and it is in its place.
        fellows: of which this process is rank 0, whose launcher holds the run open: they certify with it.
    """

    def __init__(
        self,
        directory: RunDirectory,
        state: State,
        config: dict[str, Any],
        report: Report | None = None,
        shown: list[dict[str, Any]] | None = None,
        fellows: Fellows | None = None,
    ) -> None:
        self.shown = [] if shown is None else shown
        self.directory, self.state, self.config, self.report = directory, state, config, report
        self.fellows = fellows
        previous = directory.read_result() or {}
        self.test = previous.get("test")
        self.trained = bool(previous.get("trained")) and previous.get("epochs") == config["epochs"]
        choices = config["choices"]
        self.base = {"experiment": choices.get("experiment"), "seed": config["seed"]}
        self.base |= {key: choices[key] for key in ("method", "data", "model")} | {"epochs": config["epochs"]}
        if "loss_fusion" in config["method"]:  # another objective, under the method's same name
            self.base["loss_fusion"] = config["method"]["loss_fusion"]

    def run(self) -> int:
        """Train unless that is done; certify the test set when asked to.

        Returns:
            The exit status: 0; 1 when a certificate of the test set was falsified.

        Raises:
            UserError: a mistake in the configuration or the data; training that diverged.
            Interrupted: a signal came.
            ProcessDied: another process of the training has ended.
            Pruned: the report said to stop.
        """
        from certtrain.reporting.tables import config_difference, config_tree, result_tables

        console = terminal.console()
        if environment.torchrun() is not None and (self.state == "complete" or self.trained):
            from certtrain.sessions.ranks import dismiss
            from certtrain.training.trainer_settings import TrainerSettings

            known = self.fellows is not None
            dismiss(TrainerSettings(**self.config["trainer"]).device_type if known else None)
        if self.state == "complete":
            print_line(console, f"{self.directory.path} is complete; another seed= or name= makes another run")
            if self.test:
                console.print(result_tables(self.test))
            return self._status()
        console.print(config_difference(self.shown[-1], self.config) if self.shown else config_tree(self.config))
        self.shown[:] = [self.config]
        self._record(status="interrupted")  # until it is complete
        if self.state == "resume":
            print_line(console, f"going on with {self.directory.path}")

        from certtrain.training.callbacks.guard import TrainingDiverged
        from certtrain.training.callbacks.pruning import Pruned

        try:
            with SignalFlag() if self.fellows is None else contextlib.nullcontext(self.fellows.flag) as flag:
                self._work(console, flag)
        except TrainingDiverged as error:
            self._record(status="failed", reason=error.what, step=error.step)
            raise
        except (Interrupted, ProcessDied, Pruned) as stopped:
            self._record(status="interrupted", reason=str(stopped))
            raise
        return self._status()

    def _work(self, console: Console, flag: SignalFlag) -> None:
        from certtrain.config.loggers import build_loggers, close, log_test
        from certtrain.config.received import trust_words
        from certtrain.training.loggers.run_logger import RunLogger

        loggers = build_loggers(self.config, self.directory)
        failed = True
        try:
            for note in filter(None, (getattr(logger, "note", None) for logger in loggers)):
                print_line(console, note)
            if not self.trained:
                self._train(console, flag, loggers)
            if self.config["certify_test"]:
                found = self._certify(console, flag)
                log_test(loggers, found, self.directory.figure)
            else:
                words = ["certtrain", "certify", f"run={self.directory.path}", *trust_words(self.config)]
                print_line(console, f"next: {command_line(*words)}")
                print_line(console, "then: " + command_line("certtrain", "report", str(self.directory.path)))
            self._record(status="complete", reason=None, step=None)
            for logger in loggers:
                if isinstance(logger, RunLogger):
                    folder = self.directory.certificates
                    checkpoint = self.directory.checkpoints / self.directory.read_result()["checkpoint"]
                    logger.log_files(checkpoint, [*folder.glob("*.tsv"), *folder.glob("*.json")])
            failed = False
        finally:
            close(loggers, failed)

    def _train(self, console: Console, flag: SignalFlag, loggers: Sequence[Logger]) -> None:
        from certtrain.reporting.entries import guess_note
        from certtrain.sessions.fitting import fit_run
        from certtrain.sessions.ranks import joined_by_all
        from certtrain.training.checkpoints import read_checkpoint

        if self.directory.last.exists():  # refused before anything moves when it is not what the run wrote
            read_checkpoint(self.directory.last)
            self.directory.check_checkpoint(self.directory.last)
        self._set_aside()
        none = {"other_data": None, "validation": None, "checkpoints_sha256": None}
        self._record(status="interrupted", trained=False, test={}, **none)
        with joined_by_all(self.config, self.directory, self.state) as place:
            try:
                trained = fit_run(self.directory, self.state, self.config, console, flag, loggers, self.report, place)
            except Interrupted:  # which leaves a whole checkpoint to resume from
                self._record(checkpoints_sha256=self.directory.checkpoint_hashes())
                raise
        self._record(**trained, checkpoints_sha256=self.directory.checkpoint_hashes())
        if said := guess_note(trained["validation"]):
            print_line(console, f"warning: on the validation examples this classifier is {said}", style="bold red")

    def _certify(self, console: Console, flag: SignalFlag) -> dict[str, Any]:
        from certtrain.certificates.parts import Share
        from certtrain.certification.several import certify_run
        from certtrain.certification.stage import Job
        from certtrain.config.build import build_data
        from certtrain.config.loading import load_run
        from certtrain.system.work import watched

        config = certify_config(self.config, self.directory)
        loaded = replace(load_run(self.directory.path, trust=config["trust"]), run=self.directory)  # which has the lock
        job = Job(loaded, build_data(self.config), config, console, flag)
        with watched(flag.raise_if_overdue):
            return certify_run(job, Share(), self.fellows)

    def _set_aside(self) -> None:
        """Certificates of a checkpoint are no evidence of the next one: they move to `certificates/superseded_N`."""
        folder = self.directory.certificates
        old = [path for path in folder.glob("*") if path.is_file() or path.name == "parts"]
        old += self.directory.path.glob("certified_accuracy*.png")
        if old:
            there = [path.name.removeprefix("superseded_") for path in folder.glob("superseded_*")]
            place = folder / f"superseded_{1 + max((int(text) for text in there if text.isdecimal()), default=0)}"
            place.mkdir()
            for path in old:
                path.rename(place / path.name)

    def _record(self, **fields: Any) -> None:
        """Bring `result.json` up to date; what is in it stays unless it is given."""
        old = self.directory.read_result() or {"status": "interrupted", "test": {}}
        new = {**old, **self.base, **fields}
        gone = {key for key in ("reason", "step", "checkpoints_sha256", "other_data") if new.get(key) is None}
        self.directory.write_result({key: value for key, value in new.items() if key not in gone})

    def _status(self) -> int:
        """The exit status of a complete run: 1 when a certificate of the test set was falsified."""
        test = (self.directory.read_result() or {}).get("test") or {}
        return 1 if any(entry.get("falsified") for entry in test.values()) else 0


def certify_config(config: dict[str, Any], directory: RunDirectory) -> dict[str, Any]:
    """A run's configuration as that of the certify command, for the run itself."""
    from certtrain.config.received import targets_of

    trust = targets_of(config)  # what its session was asked to build
    own = {"run": str(directory.path), "checkpoint": None, "name": None, "data": None}
    return {**config, **own, "trust": trust}
