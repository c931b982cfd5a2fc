"""`certtrain train`: compose, train, certify the validation set as it learns; then, when asked, the test set."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certtrain import environment
from certtrain.commands.compose import quoted
from certtrain.commands.naming import run_name
from certtrain.commands.seeds import expand_seeds
from certtrain.config import check
from certtrain.errors import UserError
from certtrain.runs import RunDirectory, find_run

if TYPE_CHECKING:
    from rich.console import Console

    from certtrain.callbacks.pruning import Report
    from certtrain.callbacks.signals import SignalFlag

# Keys that may change between two sessions of one run.
MAY_DIFFER = ("data_dir", "data.data_dir", "runs_dir", "resume", "trainer.accelerator", "logger", "choices.logger")
MAY_DIFFER += ("choices.trainer", "trainer.devices", "trainer.check_every_n_steps")
MAY_DIFFER += ("checkpoint.every_n_seconds", "falsify", "budget")
EXTENDS = ("epochs", "certify_test")
# Overrides that say how runs are made, not what a run is.
NOT_OF_A_RUN = ("resume=", "name=", "seeds=", "sweep=", "sweep.", "sweep/", "hydra/", "hydra.")


def prepare(arguments: list[str]) -> list[str]:
    """With `resume=RUN`, the overrides that the run was made with come first; `seeds=K` becomes one job per seed.

    Raises:
        UserError: there is no such run, or it was trained elsewhere; seeds= beside what it cannot go with; several runs
            under torchrun.
    """
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    several = given.get("seeds", "null") != "null" or not {"-m", "--multirun"}.isdisjoint(arguments)
    if several and environment.torchrun() is not None:
        raise UserError(
            "torchrun starts the processes of one training, not of several",
            where="the command line",
            fix="without torchrun: trainer=ddp starts its processes for each run by itself",
        )
    if given.get("seeds", "null") != "null":
        return expand_seeds(arguments, given)
    name = given.get("resume")
    if not name or name == "null":
        return arguments
    run = find_run(name, given.get("runs_dir", "runs"))
    if source := run.read_config().get("source"):
        raise UserError(
            f"the run {run.name} was trained elsewhere ({source['file']}): there is no recipe to go on with",
            where=f"resume={run.name}",
            fix=f"certtrain certify run={run.name}",
        )
    mine = {argument.split("=", 1)[0] for argument in arguments}
    if given.get("name", run.name) != run.name:
        raise UserError(
            f"resume={run.name} goes on with that run, and name={given['name']} is another one",
            where="the command line",
            fix="leave name= out",
        )
    kept = [old for old in run.read_overrides() if old.split("=", 1)[0] not in {*mine, "runs_dir"}]
    rest = [argument for argument in arguments if not argument.startswith(("resume=", "name=", "runs_dir="))]
    return [*kept, *rest, quoted("runs_dir", run.path.parent), quoted("resume", run.name), quoted("name", run.name)]


def resolve(config: Any, hydra: Any) -> tuple[dict[str, Any], list[str]]:
    """The checked configuration of one run, with its name, and the overrides that make it again.

    Args:
        config: the composed configuration.
        hydra: Hydra's own part of it.

    Raises:
        UserError: a mistake in the configuration.
    """
    resolved = check(config)
    for key in ("seeds", "sweep"):  # of several runs, not of one
        resolved.pop(key, None)
    if resolved.get("scales") is None:  # a run without is the run that it was before there were any
        resolved.pop("scales", None)
    choices = {k: v for k, v in hydra.runtime.choices.items() if not k.startswith(("hydra/", "sweep"))}
    resolved["choices"] = choices
    overrides = [o for o in hydra.overrides.task if not o.lstrip("+~").startswith(NOT_OF_A_RUN)]
    resolved["name"] = resolved["name"] or run_name(choices, resolved["seed"], overrides)
    return resolved, overrides


def run_path(config: Any) -> Path:
    """The directory that a configuration's run has, or will have."""
    from hydra.core.hydra_config import HydraConfig

    resolved, _ = resolve(config, HydraConfig.get())
    return Path(resolved["runs_dir"]) / str(resolved["name"])


def run(config: Any) -> int:
    """Train one configuration. Returns the exit status.

    Raises:
        UserError: a mistake in the configuration, the data or the run directory; training that diverged.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    multirun = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    seeds = config.get("seeds")
    if config.get("sweep") is not None:
        from certtrain.commands.study import run_study

        return run_study(config, hydra)
    resolved, overrides = resolve(config, hydra)
    if seeds is not None and not multirun:
        raise UserError("seeds= stands in a file", where="configuration key seeds", fix="give it on the command line")
    if multirun and resolved["certify_test"] and seeds is None:
        raise UserError(
            "certify_test=true in a multirun would choose by the test set",
            where="configuration key certify_test",
            fix="certify_test=false; certify the run you chose with certtrain certify run=...; or seeds=5 alone, "
            "where all are reported and none is chosen",
        )
    return run_one(resolved, overrides)


def run_one(resolved: dict[str, Any], overrides: list[str], report: Report | None = None) -> int:
    """Train the run of a resolved configuration, or go on with it. Returns the exit status.

    Args:
        resolved, overrides: as `resolve` gives them.
        report: of a study's trial: told of each validation after the ramp's end, and may stop the training.

    Raises:
        UserError: as `run`.
        Pruned: the report said to stop.
    """
    path = Path(resolved["runs_dir"]) / str(resolved["name"])
    _refuse_fewer_epochs(RunDirectory(path), resolved["epochs"])
    resolved = _as_before_the_key(RunDirectory(path), resolved)
    directory, state = RunDirectory.open(path, resolved, overrides, may_differ=MAY_DIFFER, extends=EXTENDS)
    with directory:
        return _Session(directory, state, resolved, report).run()


def summarise(records: list[dict[str, Any]]) -> None:
    """The table at the end of a multirun, from the run directories of its jobs.

    Args:
        records: of the jobs, as `certtrain.commands.multirun` reads them.
    """
    from certtrain.commands.naming import plain_value
    from certtrain.config import default_monitor
    from certtrain.reporting import terminal
    from certtrain.reporting.sweeps import multirun_tables, seeds_tables
    from certtrain.sweeps.summary import comparisons, read_job

    jobs = []
    for record in records:
        directory = RunDirectory(record["run"]) if record["run"] else None
        monitor = ""
        if directory is not None and directory.config.exists():
            config = directory.read_config()
            monitor = config["checkpoint"]["monitor"] or default_monitor(config)
        overrides = [plain_value(override) for override in record["overrides"]]
        run = None if directory is None else os.path.relpath(directory.path)
        jobs.append(read_job(overrides, run, record["error"], monitor))
    console = terminal.console()
    console.print()
    if all("seeds" in job.overrides for job in jobs):
        console.print(seeds_tables(jobs))
    else:
        console.print(multirun_tables(jobs))
        for comparison in comparisons(jobs):
            print_line(console, f"best by {comparison.metric.name}: {comparison.jobs[0].run}")
        print_line(console, "next, for the one you choose, once: certtrain certify run=...")


def _as_before_the_key(directory: RunDirectory, resolved: dict[str, Any]) -> dict[str, Any]:
    """A run from before there was `trainer.precision` goes on without it, in the precision that it had."""
    trainer = dict(resolved["trainer"])
    old = directory.read_config().get("trainer", {}) if directory.config.exists() else trainer
    if "precision" not in old and trainer.get("precision") == "32-true":
        del trainer["precision"]
    return {**resolved, "trainer": trainer}


def _refuse_fewer_epochs(directory: RunDirectory, epochs: int) -> None:
    if directory.config.exists() and epochs < (before := directory.read_config()["epochs"]):
        raise UserError(
            f"the run {directory.name} is one of {before} epochs and cannot go back to {epochs}",
            where="configuration key epochs",
            fix=f"epochs={before} or more, or another name=",
        )


class _Session:
    """One session of a run: from its start, or from where the last session stopped, to its end or a signal."""

    def __init__(
        self, directory: RunDirectory, state: str, config: dict[str, Any], report: Report | None = None
    ) -> None:
        self.directory, self.state, self.config, self.report = directory, state, config, report
        self.previous = directory.read_result() or {}
        choices = config["choices"]
        self.base = {"experiment": choices.get("experiment"), "seed": config["seed"]}
        self.base |= {key: choices[key] for key in ("method", "data", "model")} | {"epochs": config["epochs"]}
        if "loss_fusion" in config["method"]:  # another objective, under the method's same name
            self.base["loss_fusion"] = config["method"]["loss_fusion"]

    def run(self) -> int:
        from certtrain.reporting import terminal
        from certtrain.reporting.tables import config_tree, result_tables

        console = terminal.console()
        trained = self.previous.get("trained") and self.previous.get("epochs") == self.config["epochs"]
        if environment.torchrun() is not None and (self.state == "complete" or trained):
            from certtrain.commands.ranks import dismiss

            dismiss()
        if self.state == "complete":
            print_line(console, f"{self.directory.path} is complete; another seed= or name= makes another run")
            if self.previous.get("test"):
                console.print(result_tables(self.previous["test"]))
            return self.status()
        console.print(config_tree(self.config))
        self.record(status="interrupted")  # until it is complete; so a kill -9 leaves the truth behind, too
        if self.state == "resume":
            print_line(console, f"going on with {self.directory.path}")

        from certtrain.callbacks.guard import TrainingDiverged
        from certtrain.callbacks.pruning import Pruned
        from certtrain.callbacks.signals import Interrupted, SignalFlag
        from certtrain.commands.processes import ProcessDied
        from certtrain.commands.ranks import FAILED, RankDied, device_count

        try:
            self.devices = device_count(self.config)
            with SignalFlag() as flag:
                self.work(console, flag)
        except Interrupted as interrupted:
            self.record(status="interrupted", reason=str(interrupted))
            print_line(console, f"{interrupted}: the same command goes on from here, {self.directory.path}")
            return interrupted.exit_status
        except TrainingDiverged as error:
            self.record(status="failed", reason=error.what, step=error.step)
            raise
        except (RankDied, ProcessDied) as died:
            self.record(status="interrupted", reason=str(died))
            print(f"certtrain: {died}", file=sys.stderr)
            return FAILED
        except Pruned as pruned:
            self.record(status="interrupted", reason=str(pruned))
            raise
        except UserError:
            self.withdraw()
            raise
        return self.status()

    def status(self) -> int:
        """The exit status of a complete run: 1 when a certificate of the test set was falsified."""
        test = (self.directory.read_result() or {}).get("test") or {}
        return 1 if any(entry.get("falsified") for entry in test.values()) else 0

    def withdraw(self) -> None:
        """Remove the directory of a new run that came to nothing, so that the mended command may have its name."""
        if self.state == "new" and not self.directory.last.exists():
            shutil.rmtree(self.directory.path)

    def set_aside(self) -> None:
        """Certificates of a checkpoint are no evidence of the next one: they move to `certificates/superseded_N`."""
        folder = self.directory.certificates
        old = [path for path in folder.glob("*") if path.is_file() or path.name == "parts"]
        old += self.directory.path.glob("certified_accuracy*.png")
        if old:
            place = folder / f"superseded_{1 + len(list(folder.glob('superseded_*')))}"
            place.mkdir()
            for path in old:
                path.rename(place / path.name)

    def work(self, console: Console, flag: SignalFlag) -> None:
        """Train unless that is done, then certify the test set when asked to."""
        from certtrain.commands.build import build_loggers

        loggers = build_loggers(self.config, self.directory)
        failed = True
        try:
            for note in filter(None, (getattr(logger, "note", None) for logger in loggers)):
                print_line(console, note)
            if not (self.previous.get("trained") and self.previous.get("epochs") == self.config["epochs"]):
                from certtrain.checkpoints import read_checkpoint
                from certtrain.commands.fitting import fit_run
                from certtrain.commands.ranks import joined_by_all

                if self.directory.last.exists():
                    read_checkpoint(self.directory.last)  # refused before anything moves when it is corrupt
                self.set_aside()
                self.record(status="interrupted", trained=False, test={}, validation=None)
                with joined_by_all(self.config, self.directory, self.state, self.devices) as place:
                    trained = fit_run(
                        self.directory, self.state, self.config, console, flag, loggers, self.report, place
                    )
                self.record(**trained)
            if self.config["certify_test"]:
                found = self.certify(console, flag)
                for logger in loggers:
                    if hasattr(logger, "log_test"):
                        logger.log_test(found, self.directory.figure)
            else:
                print_line(console, f"next: certtrain certify run={self.directory.path}")
            self.record(status="complete", reason=None, step=None)
            for logger in loggers:
                if hasattr(logger, "log_files"):
                    folder = self.directory.certificates
                    checkpoint = self.directory.checkpoints / self.directory.read_result()["checkpoint"]
                    logger.log_files(checkpoint, [*folder.glob("*.tsv"), *folder.glob("*.json")])
            failed = False
        finally:
            for logger in loggers:
                if hasattr(logger, "close"):
                    logger.close(failed=failed)

    def certify(self, console: Console, flag: SignalFlag) -> dict[str, Any]:
        from certtrain.commands.build import build_data
        from certtrain.commands.loading import load_run
        from certtrain.commands.several import helpers
        from certtrain.commands.stage import Job, certify_stage

        loaded = replace(load_run(self.directory.path), run=self.directory)  # which holds the lock
        config, processes = self.config, 1 if environment.torchrun() is not None else self.devices
        if processes > 1:  # they read it as the certify command's
            config = {**config, "run": str(self.directory.path), "checkpoint": None, "name": None}
        job = Job(loaded, build_data(self.config), config, console, flag)
        return certify_stage(job, helpers(job, processes))

    def record(self, **fields: Any) -> None:
        """Bring `result.json` up to date; what is in it stays unless it is given."""
        old = self.directory.read_result() or {"status": "interrupted", "test": {}}
        new = {**old, **self.base, **fields}
        gone = {key for key in ("reason", "step") if new.get(key) is None}
        self.directory.write_result({key: value for key, value in new.items() if key not in gone})


def print_line(console: Console, text: str) -> None:
    """One line as it is: no wrapping, no colours for numbers."""
    console.print(text, highlight=False, soft_wrap=True)
